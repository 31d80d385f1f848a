"""Which processes of customers end so that all fit into the budget."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.budget import Budget, Taken
from inference.engine.errors import MemoryExhausted
from inference.engine.fitting import overgrown, room_for

pytestmark = pytest.mark.no_servers
BUDGET = Budget(100, 60)
ALONE = Taken()


@dataclass(eq=False)
class Held:
    owner: str
    given: int
    held: int = 0
    is_busy: bool = False
    last_used: float = 0.0

    @property
    def taken(self):
        return max(self.given, self.held)

    @property
    def excess(self):
        return max(0, self.held - self.given)


def test_what_fits_ends_nobody():
    assert room_for(60, "a", None, [Held("b", 40)], ALONE, BUDGET) == []


def test_idle_ones_go_first_those_that_were_used_longest_ago():
    new, old, busy = Held("b", 30, last_used=2), Held("c", 30, last_used=1), Held("d", 30, is_busy=True)

    assert room_for(40, "a", None, [new, old, busy], ALONE, BUDGET) == [old]
    assert room_for(41, "a", None, [new, old, busy], ALONE, BUDGET) == [old, new]


def test_a_busy_process_never_ends_for_anothers_load():
    busy, idle = Held("b", 60, is_busy=True), Held("c", 30)

    with pytest.raises(MemoryExhausted, match="no memory is free") as refused:
        room_for(50, "a", None, [busy, idle], ALONE, BUDGET)

    assert refused.value.lacking == 10


def test_an_organization_has_its_share_at_most_and_its_own_idle_processes_go_for_it():
    other, own = Held("b", 10), Held("a", 50, last_used=1)

    assert room_for(30, "a", None, [other, own], ALONE, BUDGET) == [own]
    own.is_busy = True
    with pytest.raises(MemoryExhausted, match="have their"):
        room_for(30, "a", None, [other, own], ALONE, BUDGET)
    with pytest.raises(MemoryExhausted, match="may have") as refused:
        room_for(61, "a", None, [], ALONE, BUDGET)
    assert refused.value.lacking == 0  # nobody else's end would help


def test_the_process_that_loads_stays():
    mine, other = Held("a", 10), Held("b", 50, last_used=1)

    assert room_for(50, "a", mine, [mine, other], ALONE, BUDGET) == [other]


def test_what_other_workers_have_taken_is_not_free():
    with pytest.raises(MemoryExhausted) as refused:
        room_for(50, "a", None, [], Taken(70), BUDGET)
    assert refused.value.lacking == 20


def test_as_long_as_all_fit_a_process_may_hold_more_than_it_was_given():
    assert overgrown([Held("a", 10, 60, is_busy=True), Held("b", 40, is_busy=True)], ALONE, BUDGET) == ([], [])


def test_a_process_that_outgrows_its_organizations_share_ends_and_no_other():
    grown, other = Held("a", 10, 61, is_busy=True), Held("b", 10, is_busy=True)

    idle, busy = overgrown([grown, other], ALONE, BUDGET)

    assert idle == []
    assert [process for process, _ in busy] == [grown]
    assert "organization" in busy[0][1]


def test_when_more_is_held_than_there_is_idle_ones_go_and_then_who_grew_most_even_if_it_holds_less():
    idle = Held("c", 5)
    large, grown = Held("a", 50, 51, is_busy=True), Held("b", 10, 49, is_busy=True)
    second = Held("d", 1, 6, is_busy=True)

    gone, ended = overgrown([idle, large, grown, second], ALONE, BUDGET)

    assert gone == [idle]
    assert [process for process, _ in ended] == [grown]


def test_the_worker_whose_process_grew_most_ends_it():
    mine = Held("a", 10, 30, is_busy=True)

    assert overgrown([mine], Taken(80, excess=50), BUDGET) == ([], [])
    assert overgrown([mine], Taken(80, excess=10), BUDGET)[1][0][0] is mine


def test_idle_processes_go_when_another_worker_lacks_memory_and_busy_ones_stay():
    idle, other, busy = Held("a", 20), Held("b", 20, last_used=1), Held("c", 10, 20, is_busy=True)

    assert overgrown([other, idle, busy], Taken(30, wanted=15), BUDGET) == ([idle], [])
    assert overgrown([other, idle, busy], Taken(30, wanted=90), BUDGET) == ([idle, other], [])


PROCESSES = st.lists(
    st.builds(
        Held,
        owner=st.sampled_from("abcd"),
        given=st.integers(1, 40),
        held=st.integers(0, 70),
        is_busy=st.booleans(),
        last_used=st.integers(0, 9),
    ),
    max_size=8,
)


@given(PROCESSES, st.integers(1, 80), st.sampled_from("abcd"), st.integers(0, 60))
def test_after_a_load_all_fit_and_no_busy_one_ended(processes, needed, owner, others):
    try:
        leaving = room_for(needed, owner, None, processes, Taken(others), BUDGET)
    except MemoryExhausted:
        return
    staying = [process for process in processes if process not in leaving]

    assert not any(process.is_busy for process in leaving)
    assert sum(process.taken for process in staying) + needed + others <= BUDGET.limit
    assert sum(process.taken for process in staying if process.owner == owner) + needed <= BUDGET.share


@given(PROCESSES)
def test_after_a_look_all_fit_as_far_as_what_was_given_fits_and_only_who_grew_was_ended_while_busy(processes):
    idle, busy = overgrown(processes, ALONE, BUDGET)
    ended = [process for process, _ in busy]
    staying = [process for process in processes if process not in [*idle, *ended]]

    assert not any(process.is_busy for process in idle)
    assert all(process.is_busy and process.excess for process in ended)
    if sum(process.taken for process in staying) > BUDGET.limit:
        assert not any(process.excess for process in staying)
