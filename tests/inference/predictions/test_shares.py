"""A worker's threads between organizations: who may start, who comes after whom, and that nothing put aside is forgotten."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import UUID, uuid4

import pytest

from inference.predictions.models import Prediction, Status
from inference.predictions.shares import LONG, LONG_FOR, MAX_ASIDE, MAX_BYTES, SMALL_BYTES, Sender, Shares
from inference.predictions.tasks import SHARES, run
from saas.lib.ids import parse_id
from tenants.models import CATALOG_SLUG
from tenants.scope import tenant_scope


class Worker:
    """A worker's threads that are held until they are told to end."""

    def __init__(self, threads: int = 16) -> None:
        self.sent: list[tuple[UUID, UUID]] = []
        self.now = 1000.0
        self.shares = Shares(threads, lambda *ids: self.sent.append(ids), lambda: self.now)
        self.held: dict[UUID, list[ExitStack]] = {}

    def start(self, organization: UUID, pk: UUID | None = None, size: int = 0, *, is_own: bool = False) -> bool:
        """Whether it may run. It is under way until `end`."""
        stack = ExitStack()
        may_run = stack.enter_context(self.shares.take(organization, pk or uuid4(), size, is_own=is_own))
        if may_run:
            self.held.setdefault(organization, []).append(stack)
        else:
            stack.close()
        return may_run

    def fill(self, organization: UUID, count: int = 50, *, is_own: bool = False) -> int:
        """How many of so many may run."""
        return sum(self.start(organization, is_own=is_own) for _ in range(count))

    def end(self, organization: UUID) -> list[tuple[UUID, UUID]]:
        """What is sent when one of the organization's has ended."""
        self.sent.clear()
        self.held[organization].pop().close()
        return list(self.sent)

    def run_long(self, organizations: list[UUID], *, is_own: bool) -> None:
        """All that these have running takes LONG seconds more; what is sent then is started."""
        self.now += LONG
        running = [organization for organization in organizations for _ in self.held.get(organization, [])]
        again = [found for organization in running for found in self.end(organization)]
        for organization, pk in again:
            self.start(organization, pk, is_own=is_own)

    def count(self, organizations: list[UUID]) -> int:
        """How many of theirs run."""
        return Counter({each: len(self.held.get(each, [])) for each in organizations}).total()


def test_an_organization_alone_has_half_of_the_threads():
    assert Worker(16).fill(uuid4()) == 8
    assert Worker(1).fill(uuid4()) == 1


def test_large_inputs_of_an_organization_leave_memory_to_others_and_none_is_forgotten():
    worker, greedy, other = Worker(16), uuid4(), uuid4()
    large, waiting = MAX_BYTES // 2, uuid4()

    assert worker.start(greedy, size=large)
    assert not worker.start(greedy, waiting, size=large)
    assert worker.start(greedy, size=0)
    assert worker.start(other, size=large)
    assert not worker.start(uuid4(), size=large)
    assert (greedy, waiting) not in worker.end(other)
    assert worker.end(greedy) == []  # the small one
    assert worker.end(greedy) == [(greedy, waiting)]


def test_an_input_larger_than_all_has_its_turn():
    worker, greedy = Worker(16), uuid4()
    assert worker.start(uuid4(), size=10)
    assert worker.start(greedy, size=3 * MAX_BYTES)
    assert not worker.start(greedy, size=3 * MAX_BYTES)


def test_whoever_comes_next_finds_a_thread_however_greedy_those_before_it_are():
    worker = Worker(16)
    assert [worker.fill(uuid4()) for _ in range(5)] == [8, 4, 2, 1, 1]


def test_organizations_that_all_want_everything_end_up_with_the_same():
    worker = Worker(16)
    first, second, third = uuid4(), uuid4(), uuid4()
    for organization in (first, second, third):
        worker.fill(organization)
    for _ in range(20):
        for organization in (first, second, third):
            if worker.held.get(organization):
                for again in worker.end(organization):
                    worker.start(*again)

    assert [len(worker.held[organization]) for organization in (first, second, third)] == [4, 4, 4]


def test_what_found_no_place_is_sent_in_its_order_when_one_has_ended():
    worker, organization = Worker(4), uuid4()
    assert worker.fill(organization, 2) == 2
    late = [uuid4() for _ in range(3)]
    assert not any(worker.start(organization, pk) for pk in late)

    assert worker.end(organization) == [(organization, late[0])]
    assert worker.start(organization, late[0])
    assert worker.end(organization) == [(organization, late[1])]


def test_what_is_refused_twice_is_sent_once():
    worker, organization, late = Worker(2), uuid4(), uuid4()
    worker.start(organization)
    assert not worker.start(organization, late)
    assert not worker.start(organization, late)

    assert worker.end(organization) == [(organization, late)]
    assert worker.start(organization, late)
    assert worker.end(organization) == []


def test_threads_that_others_leave_are_used_again():
    worker, greedy, other = Worker(16), uuid4(), uuid4()
    worker.fill(other, 4)
    assert worker.fill(greedy) == 6
    for _ in range(4):
        for again in worker.end(other):
            worker.start(*again)

    assert len(worker.held[greedy]) == 8


def test_the_organization_that_runs_least_comes_first():
    worker, greedy, second, modest = Worker(4), uuid4(), uuid4(), uuid4()
    assert (worker.fill(greedy), worker.fill(second)) == (2, 1)
    assert worker.start(modest)
    assert not worker.start(modest)

    assert worker.end(modest)[0][0] == modest


def test_what_is_put_aside_is_bounded():
    worker, organization = Worker(2), uuid4()
    worker.fill(organization, MAX_ASIDE + 50)

    assert len(worker.shares._aside[Sender(organization, is_own=False)]) == MAX_ASIDE


def test_own_models_of_any_number_of_organizations_leave_threads_to_the_catalogues():
    worker, customer = Worker(16), uuid4()
    crowd = [uuid4() for _ in range(40)]
    for organization in crowd:
        worker.fill(organization, 3, is_own=True)

    assert worker.count(crowd) == 12
    assert worker.fill(customer, 2) == 2
    assert worker.start(uuid4())


def test_own_models_that_ran_long_leave_threads_to_those_that_did_not():
    worker, crowd = Worker(16), [uuid4() for _ in range(40)]
    for organization in crowd:
        worker.fill(organization, 20, is_own=True)
    for _ in range(12):
        worker.run_long(crowd, is_own=True)

    assert worker.count(crowd) == 8
    assert worker.start(uuid4(), is_own=True)
    assert worker.start(uuid4(), is_own=True)
    assert worker.start(uuid4())


def test_models_of_the_catalogue_that_ran_long_leave_threads_to_others_of_it():
    worker, crowd = Worker(16), [uuid4() for _ in range(40)]
    for organization in crowd:
        worker.fill(organization, 20)
    for _ in range(12):
        worker.run_long(crowd, is_own=False)

    assert worker.count(crowd) == 12
    assert worker.start(uuid4())


def test_what_an_organization_ran_long_is_held_against_its_own_models_only_and_forgotten():
    worker, organization = Worker(16), uuid4()
    worker.start(organization, is_own=True)
    worker.run_long([organization], is_own=True)
    assert worker.fill(organization, is_own=True) == 4
    assert worker.fill(organization) == 4
    while worker.held[organization]:
        worker.end(organization)

    worker.now += LONG_FOR
    assert worker.fill(organization, is_own=True) == 6


def test_what_waits_behind_a_long_one_of_its_organization_is_sent_if_its_own_rank_may_run():
    worker, crowd, customer, late = Worker(16), [uuid4() for _ in range(40)], uuid4(), uuid4()
    for organization in [*crowd, customer]:
        worker.fill(organization, 3, is_own=True)
    others = [uuid4() for _ in range(4)]
    assert sum(worker.fill(other, 1) for other in others) == 4
    assert not worker.start(customer, late)

    assert worker.end(others[0]) == [(customer, late)]


def test_large_inputs_of_own_models_leave_room_for_those_of_the_catalogues():
    worker = Worker(16)
    for _ in range(40):
        worker.start(uuid4(), size=MAX_BYTES // 4, is_own=True)

    assert worker.start(uuid4(), size=MAX_BYTES // 4)


def test_small_inputs_need_no_room_among_large_ones():
    worker = Worker(16)
    assert all(worker.start(uuid4(), size=MAX_BYTES) for _ in range(2))

    assert worker.start(uuid4(), size=SMALL_BYTES)
    assert not worker.start(uuid4(), size=SMALL_BYTES + 1)


def test_a_worker_with_few_threads_runs_everything():
    for threads in (1, 2, 3):
        worker, organization = Worker(threads), uuid4()
        for _ in range(2):
            assert worker.start(organization, is_own=True)
            worker.run_long([organization], is_own=True)


def test_a_run_that_fails_frees_its_place():
    worker, organization = Worker(2), uuid4()
    with pytest.raises(ZeroDivisionError), worker.shares.take(organization, uuid4()):
        raise ZeroDivisionError

    assert worker.start(organization)


def test_threads_that_start_at_the_same_moment_do_not_share_a_place():
    organization, ready, seen = uuid4(), threading.Barrier(16), []
    shares = Shares(16, lambda *_: None)

    def attempt(_: int) -> None:
        with shares.take(organization, uuid4()) as may_run:
            seen.append(may_run)
            ready.wait(60)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(attempt, range(16)))

    assert sorted(seen) == [False] * 8 + [True] * 8


def test_a_prediction_without_a_place_stays_as_it_was_for_any_worker(alice, make_key, client_of, publish):
    publish(alice.organization, "mine")
    client = client_of(make_key(alice.organization)[1])
    body = {"model": "mine", "input": {"inputs": [[1, 2, 3]]}}
    pk = parse_id("pred", client.post("/api/v1/predictions", body, format="json").json()["id"])
    with ExitStack() as others:
        while others.enter_context(SHARES.take(alice.organization.id, uuid4(), is_own=True)):
            pass

        run(str(alice.organization.id), str(pk))

        with tenant_scope(alice.organization.id):
            row = Prediction.objects.of(alice.organization).get(pk=pk)
            assert (row.status, row.attempts, row.started_at) == (Status.STARTING, 0, None)
            assert Prediction.objects.of(alice.organization).claim(pk) is not None


def test_a_worker_full_of_own_models_still_runs_one_of_the_catalogues(alice, make_key, client_of, publish):
    publish(alice.organization, "mine")
    client = client_of(make_key(alice.organization)[1])
    body = {"model": "mine", "input": {"inputs": [[1, 2, 3]]}}
    pk = parse_id("pred", client.post("/api/v1/predictions", body, format="json").json()["id"])
    with ExitStack() as others:
        while others.enter_context(SHARES.take(uuid4(), uuid4(), is_own=True)):
            pass

        run(str(alice.organization.id), str(pk))
        assert row_of(alice.organization, pk).attempts == 0

        with tenant_scope(alice.organization.id):
            Prediction.objects.of(alice.organization).update(model_name=f"{CATALOG_SLUG}/gone")
        run(str(alice.organization.id), str(pk))

    assert row_of(alice.organization, pk).error_code == "not_found"


def row_of(organization, pk):
    with tenant_scope(organization.id):
        return Prediction.objects.of(organization).get(pk=pk)
