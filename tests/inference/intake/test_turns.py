"""Which version is examined next: one of each organization at a time, organizations in turns. Other tests' ones wait too."""

import hashlib
import json
import secrets
from datetime import timedelta
from functools import partial
from itertools import chain

import pytest
from django.utils import timezone

from tests.inference.intake.onnx_models import linear
from tests.inference.intake.test_sandbox import loop
from tests.racing import at_once


@pytest.fixture
def people(make_user, make_organization):
    """`people(count)`: owners of an organization each."""

    def make(count):
        users = [make_user(f"owner{number}") for number in range(count)]
        for user in users:
            user.organization = make_organization(f"o-{secrets.token_hex(6)}", owner=user)
        return users

    return make


@pytest.fixture
def wait_for_intake(upload_to_intake):
    """`wait_for_intake(user, count)`: the ids of new versions of the user's organization, in their order."""
    return lambda user, count: upload_to_intake(user, linear(), count)


@pytest.fixture
def upload_to_intake(tmp_path):
    """The same with `data`: `upload_to_intake(user, data, count)`."""
    from inference.actions import create_model, upload_version
    from tenants.access import SYSTEM
    from tenants.scope import tenant_scope

    def make(user, data, count):
        with tenant_scope(user.organization.id):
            model = create_model(organization=user.organization, actor=SYSTEM, name=f"m{secrets.token_hex(4)}")
        path, ids = tmp_path / "model.onnx", []
        digest = hashlib.sha256(data).hexdigest()
        for _ in range(count):
            path.write_bytes(data)
            version = upload_version(model=model, actor=SYSTEM, path=path, digest=digest, size=len(data), manifest={})
            ids.append(version.id)
        return ids

    return make


def take_all(*, is_long=False):
    """The ids of all versions that may have a short or long examination now, in the order in which they do."""
    from inference.intake.turns import take_next

    return [version.id for version in iter(partial(take_next, is_long=is_long), None)]


def change(version_id, **columns):
    from inference.models import ModelVersion
    from tenants.databases import as_operator

    with as_operator():
        ModelVersion.objects.filter(id=version_id).update(**columns)


def judged(version_id):
    """Intake has ended for it."""
    change(version_id, state="rejected")


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


def test_who_used_least_lately_comes_first_whoever_waits_longer(wait_for_intake, alice, charlie):
    first, second = wait_for_intake(alice, 2), wait_for_intake(charlie, 2)
    take_all()
    for version, seconds in ((first[0], 40.0), (second[0], 3.0)):
        change(version, state="rejected", examined_seconds=seconds)

    taken = take_all()

    assert taken.index(second[1]) < taken.index(first[1])


def test_what_was_used_is_forgotten_after_a_while(wait_for_intake, alice, charlie):
    first, second = wait_for_intake(alice, 2), wait_for_intake(charlie, 2)
    take_all()
    long_ago = timezone.now() - timedelta(minutes=11)
    change(first[0], state="rejected", examined_seconds=40.0, examined_at=long_ago)
    change(second[0], state="rejected", examined_seconds=3.0)

    taken = take_all()

    assert taken.index(first[1]) < taken.index(second[1])


def test_what_waits_for_a_long_examination_is_no_short_ones_turn(wait_for_intake, alice, charlie):
    (slow,), (quick,) = wait_for_intake(alice, 1), wait_for_intake(charlie, 1)
    change(slow, needs_long=True)

    short, long = take_all(), take_all(is_long=True)

    assert (quick in short, slow in short) == (True, False)
    assert (quick in long, slow in long) == (False, True)


def test_those_who_choose_at_the_same_moment_take_one_version_of_an_organization(wait_for_intake, alice):
    from inference.intake.turns import take_next

    many = wait_for_intake(alice, 6)
    take_all()
    give_back(many)

    def take_and_give_back():
        seen = []
        for _ in range(20):
            if take_next(is_long=False) is not None:
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


def test_long_examinations_leave_a_place_to_short_ones(wait_for_intake, alice, charlie):
    """All places but one are taken by long ones: the last is for a short one, and for no other long one."""
    from inference.intake import tasks

    take_all()
    take_all(is_long=True)
    (slow,), (quick,) = wait_for_intake(alice, 1), wait_for_intake(charlie, 1)
    change(slow, needs_long=True)
    for _ in range(tasks.PLACES - 1):
        assert tasks.places.acquire(blocking=False)
        assert tasks.long_places.acquire(blocking=False)
    try:
        tasks.examine_next()
        tasks.examine_next()
        assert (state_of(quick), state_of(slow)) == ("ready", "validating")
    finally:
        for _ in range(tasks.PLACES - 1):
            tasks.places.release()
            tasks.long_places.release()
    tasks.examine_next()

    assert state_of(slow) == "ready"


def test_endless_models_of_many_have_a_short_examination_each_before_anybodys_long_one(upload_to_intake, people, monkeypatch):
    """Two organizations with two endless models each, then one with an ordinary one: what came before it is counted."""
    from inference.intake import run, sandbox, tasks

    take_all()
    take_all(is_long=True)
    monkeypatch.setattr(sandbox, "SHORT_CPU_SECONDS", 1)
    monkeypatch.setattr(sandbox, "RUN_SECONDS", 1.5)
    seen = []
    examine = run.examine

    def told(version, *, is_short):
        seen.append((version.id, is_short))
        return examine(version, is_short=is_short)

    monkeypatch.setattr(run, "examine", told)
    *greedy, ordinary = people(3)
    endless = [version for user in greedy for version in upload_to_intake(user, loop(1 << 62), 2)]
    tasks.examine_next()  # one of them had its turn before the ordinary one came
    (good,) = upload_to_intake(ordinary, linear(), 1)

    while state_of(good) == "validating":
        tasks.examine_next()
    before = seen[: seen.index((good, True))]
    assert {is_short for _, is_short in before} == {True}
    assert len(before) <= len(greedy)  # at most one of each organization
    for _ in range(2 * len(endless)):
        tasks.examine_next()

    assert {state_of(version) for version in endless} == {"rejected"}
    assert sorted(is_short for version, is_short in seen if version in endless) == [False] * 4 + [True] * 4


def state_of(version_id):
    from inference.models import ModelVersion
    from tenants.databases import as_operator

    with as_operator():
        return ModelVersion.objects.get(id=version_id).state


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
