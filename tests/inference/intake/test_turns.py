"""Which version is examined next: one of each organization at a time, organizations in turns. Other tests' ones wait too."""

import hashlib
import json
import secrets
from itertools import chain

import pytest
from django.utils import timezone

from tests.inference.intake.onnx_models import linear
from tests.racing import at_once


@pytest.fixture
def wait_for_intake(tmp_path):
    """`wait_for_intake(user, count)`: the ids of new versions of the user's organization, in their order."""
    from inference.actions import create_model, upload_version
    from tenants.access import SYSTEM
    from tenants.scope import tenant_scope

    def make(user, count):
        with tenant_scope(user.organization.id):
            model = create_model(organization=user.organization, actor=SYSTEM, name=f"m{secrets.token_hex(4)}")
        data, path, ids = linear(), tmp_path / "model.onnx", []
        digest = hashlib.sha256(data).hexdigest()
        for _ in range(count):
            path.write_bytes(data)
            version = upload_version(model=model, actor=SYSTEM, path=path, digest=digest, size=len(data), manifest={})
            ids.append(version.id)
        return ids

    return make


def take_all():
    """The ids of all versions that may be examined now, in the order in which they are."""
    from inference.intake.turns import take_next

    return [version.id for version in iter(take_next, None)]


def judged(version_id):
    """Intake has ended for it."""
    from inference.models import ModelVersion
    from tenants.databases import as_operator

    with as_operator():
        ModelVersion.objects.filter(id=version_id).update(state="rejected")


def test_one_version_of_each_organization_is_examined_at_a_time_the_oldest_first(wait_for_intake, alice, charlie):
    many, one = wait_for_intake(alice, 4), wait_for_intake(charlie, 1)

    taken = take_all()

    assert [version for version in many if version in taken] == many[:1]
    assert one[0] in taken
    judged(many[0])
    assert [version for version in take_all() if version in many] == [many[1]]


def test_who_had_a_turn_comes_after_who_had_none_however_long_it_waits(wait_for_intake, alice, charlie):
    many = wait_for_intake(alice, 3)
    take_all()
    judged(many[0])
    (one,) = wait_for_intake(charlie, 1)

    taken = take_all()

    assert taken.index(one) < taken.index(many[1])


def test_the_longest_without_a_turn_comes_first(wait_for_intake, alice, charlie):
    first = wait_for_intake(alice, 2)
    take_all()
    second = wait_for_intake(charlie, 2)
    take_all()
    judged(second[0])
    judged(first[0])

    taken = take_all()

    assert taken.index(first[1]) < taken.index(second[1])


def test_those_who_choose_at_the_same_moment_take_one_version_of_an_organization(wait_for_intake, alice):
    from inference.intake.turns import take_next

    many = wait_for_intake(alice, 6)
    take_all()
    give_back(many)

    def take_and_give_back():
        seen = []
        for _ in range(20):
            if take_next() is not None:
                seen.append(in_hands(many))
                give_back(many)
        return seen

    seen = list(chain.from_iterable(at_once(*[take_and_give_back] * 4)))

    assert set(seen) <= {0, 1}  # 0: another one has given it back meanwhile
    assert 1 in seen


def give_back(ids):
    from inference.models import ModelVersion
    from tenants.databases import as_operator

    with as_operator():
        ModelVersion.objects.filter(id__in=ids).update(next_try_at=timezone.now(), attempts=0)


def in_hands(ids):
    from inference.models import ModelVersion
    from tenants.databases import as_operator

    with as_operator():
        return ModelVersion.objects.in_hands(timezone.now()).filter(id__in=ids).count()


def test_what_failed_as_often_as_it_may_is_left_to_the_sweeper(wait_for_intake, alice):
    from inference.models import INTAKE_ATTEMPTS, ModelVersion
    from tenants.databases import as_operator

    (version,) = wait_for_intake(alice, 1)
    with as_operator():
        ModelVersion.objects.filter(id=version).update(attempts=INTAKE_ATTEMPTS)

    assert version not in take_all()


def test_who_ends_an_examination_asks_for_the_next(wait_for_intake, alice, state):
    from inference.intake.tasks import examine_next

    take_all()
    wait_for_intake(alice, 1)
    state.delete("ops")

    examine_next()
    assert messages(state) == ["inference.intake.examine_next"]
    take_all()
    state.delete("ops")
    examine_next()
    assert messages(state) == []


def test_without_a_place_a_task_ends_at_once_and_takes_nothing(wait_for_intake, alice, state):
    from inference.intake import tasks

    (version,) = wait_for_intake(alice, 1)
    for _ in range(tasks.PLACES):
        assert tasks.places.acquire(blocking=False)
    try:
        tasks.examine_next()
    finally:
        for _ in range(tasks.PLACES):
            tasks.places.release()

    assert version in take_all()


def messages(state):
    return [json.loads(message)["headers"]["task"] for message in state.lrange("ops", 0, -1)]


@pytest.mark.no_servers
def test_one_thread_of_an_ops_worker_stays_free():
    from inference.intake.tasks import PLACES
    from saas.config import ROOT

    supervisor = (ROOT / "saas/local/supervisor.py").read_text()
    compose = (ROOT / "docker/compose.yaml").read_text()
    assert f'"-Q", "ops", "-P", "threads", "-c", "{PLACES + 1}"' in supervisor
    assert f'-Q, ops, -P, threads, -c, "{PLACES + 1}"' in compose
