"""What a worker takes in hand for versions that it has not loaded; that it loads them is seen in test_host.py."""

import pytest

from inference.cold import MAX_PLACES, OWN_BYTES, Cold
from inference.lanes import lane_key, pool_key
from inference.pump import Taken
from tests.inference.engine import models
from tests.inference.engine.models import row, work

pytestmark = pytest.mark.no_servers
POOLS = (pool_key("cpu"), pool_key("cpu", low=True))
LARGE = bytes(OWN_BYTES // 4)


@pytest.fixture
def cold():
    return Cold("test", None, POOLS, None)  # no loader is started, so nothing is asked of either


def call(made, frame=b"", key=POOLS[0]):
    return Taken(work(made, row(1, 2, 3, 4)), frame, key)


@pytest.mark.parametrize("key", POOLS)
def test_one_organizations_bytes_are_bounded_and_leave_room_for_others(cold, key):
    mine, other = models.linear(is_private=True), models.linear(is_private=True)

    refused = cold.take([call(mine, LARGE, key) for _ in range(10)])

    assert [reply.code for _, reply in refused] == ["capacity_exhausted"] * 6
    assert cold.has_room
    assert cold.take([call(other, LARGE, key)]) == []


def test_calls_of_a_version_that_left_the_worker_under_them_are_never_refused(cold):
    mine = models.linear(is_private=True)

    assert cold.take([call(mine, LARGE, lane_key(mine.version)) for _ in range(10)]) == []


def test_the_catalogues_calls_are_not_refused_but_close_the_pool(cold):
    made = models.linear()

    assert cold.take([call(made, LARGE) for _ in range(16)]) == []

    assert not cold.has_room


def test_when_calls_leave_others_have_room(cold):
    mine = models.linear(is_private=True)
    cold.take([call(mine, LARGE) for _ in range(4)])
    assert len(cold.take([call(mine, LARGE)])) == 1

    assert len(cold._take_pending(mine.version)) == 4

    assert cold.take([call(mine, LARGE)]) == []


def test_one_organizations_versions_do_not_close_the_pool_and_those_of_many_do(cold):
    first = models.linear(is_private=True)
    made = [models.linear(is_private=True, owner=first.owner) for _ in range(MAX_PLACES * 2)]
    cold.take([call(each) for each in made])
    assert cold.has_room

    cold.take([call(models.linear(is_private=True)) for _ in range(MAX_PLACES - 1)])

    assert not cold.has_room
