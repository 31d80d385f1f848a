"""Ids: unique also across threads and forks, in order of time, and back from how they are shown."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from saas.config import ROOT
from saas.lib import ids
from saas.lib.ids import parse_id, request_id, shown, uuid7

pytestmark = pytest.mark.no_servers


def test_ids_are_version_7_and_carry_their_time():
    made = uuid7(1_700_000_000_123)

    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert made.int >> 80 == 1_700_000_000_123
    assert uuid7(1) < uuid7(2)


def test_ids_of_now_come_in_their_order_also_within_a_millisecond_and_when_the_clock_steps_back(monkeypatch):
    before = uuid7()
    monkeypatch.setattr(ids.time, "time_ns", iter([2 * 10**18] * 5000 + [10**18] * 5000).__next__)  # in nanoseconds

    made = [uuid7() for _ in range(10_000)]

    assert before < made[0]
    assert made == sorted(set(made))
    assert {(each.version, each.variant) for each in made} == {(7, "specified in RFC 4122")}


def test_no_id_of_now_is_made_twice_by_threads():
    def make(_):
        mine = [uuid7() for _ in range(1000)]
        assert mine == sorted(mine)
        return mine

    with ThreadPoolExecutor(8) as pool:
        made = [each for mine in pool.map(make, range(20)) for each in mine]

    assert len(set(made)) == 20_000


def test_no_id_is_made_twice_by_threads():
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: uuid7(5), range(20_000)))

    assert len(set(made)) == 20_000


def test_a_fork_does_not_repeat_its_parents_ids():
    program = """
import os
from saas.config import ROOT
from saas.lib.ids import uuid7
uuid7()
child = os.fork()
os.write(1, b"".join(b"%s\\n" % uuid7(5).hex.encode() for _ in range(50)))
if child: os.waitpid(child, 0)
"""
    made = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, text=True).stdout.split()

    assert len(made) == 100
    assert len(set(made)) == 100


def test_a_shown_id_is_read_back_and_nothing_else_is():
    made = uuid7()

    assert parse_id("org", shown("org", made)) == made
    for wrong in (shown("key", made), "org_" + "g" * 32, "org_" + made.hex[:-1], "", made.hex):
        assert parse_id("org", wrong) is None


@pytest.mark.parametrize("given", [b"a", b"0198-af.B:c+/=@~_", b"x" * 128])
def test_a_callers_request_id_is_taken(given):
    assert request_id(given) == given.decode()


@pytest.mark.parametrize("given", [None, b"", b"x" * 129, b"a b", b"a,b", b"a\n", "é".encode(), b"<script>"])
def test_what_is_no_request_id_is_replaced_by_a_new_one(given):
    made = {request_id(given) for _ in range(100)}

    assert len(made) == 100
    assert all(len(each) == 32 for each in made)
