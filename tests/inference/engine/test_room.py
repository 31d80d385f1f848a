"""Customers' processes within a budget of memory: who is let in, who makes place, who is ended. Real processes."""

import threading
import time

import numpy as np
import pytest

from inference.engine.budget import Budget
from inference.engine.child_resident import ChildResident
from inference.engine.children import Children
from inference.engine.errors import MemoryExhausted
from inference.engine.process import BASE_BYTES, holds_loaded
from tests.inference.engine import models
from tests.inference.engine.models import work
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.no_servers
MIB = 1 << 20
ADDRESSES = 4 << 30
ENDLESS = np.array(10**12)


class Kept:
    """Children, the processes that left them, and a thread that looks."""

    def __init__(self, limit, share, folder=None):
        self.left = []
        self.children = Children(
            8, memory_bytes=ADDRESSES, budget=Budget(limit * MIB, share * MIB, folder), on_ended=self.left.append
        )
        self._ending = threading.Event()
        self._looking = threading.Thread(target=self._look)
        self._looking.start()

    def _look(self):
        while not self._ending.wait(0.02):
            self.children.look()

    def load(self, made, **options):
        child = self.children.of(made.owner, loads=made, **options)
        child.load(made, 64)
        return ChildResident(made, child, 64)

    def close(self):
        self._ending.set()
        self._looking.join()
        self.children.close()


@pytest.fixture
def kept():
    """`kept(limit, share)`, in MiB."""
    made = []

    def make(limit, share, folder=None):
        made.append(Kept(limit, share, folder))
        return made[-1]

    yield make
    for each in made:
        each.close()


def sized(mib, **facts):
    return models.linear(is_private=True, load_bytes=mib * MIB, **facts)


def small(made, seconds=PATIENCE):
    return work(made, models.row(1, 2, 3, 4), deadline=time.time() + seconds)


def hoard(made, mib, **fields):
    """A call that holds so much until it is ended."""
    return work(made, np.array([mib * MIB // 4]), ENDLESS, deadline=time.time() + PATIENCE, **fields)


def run_aside(resident, *works):
    """Run in a thread: the thread, and the list where its replies will be."""
    replies = []
    thread = threading.Thread(target=lambda: replies.extend(resident.run(works)))
    thread.start()
    until(lambda: resident.child._runs)
    return thread, replies


def test_a_process_counts_what_it_was_given_and_a_loaded_version_less_than_one_that_is_being_loaded(kept):
    few = kept(1000, 1000)
    made = sized(100)
    child = few.children.of(made.owner, loads=made)
    loading = child.taken

    child.load(made, 64)

    assert loading == BASE_BYTES + 100 * MIB + 3 * len(made.artifact)
    assert child.taken == BASE_BYTES + holds_loaded(made)
    child.give(sized(50))
    assert child.is_busy  # a load is to come: it does not go for another's
    assert few.children.memory().taken == child.taken


def test_idle_processes_of_others_make_place_and_busy_ones_never(kept):
    few = kept(500, 300)
    first, second, third = sized(150), sized(150), sized(150)
    old, new = few.load(first), few.load(second)
    few.load(third)

    assert few.left == [old.child]
    assert not new.child.is_ended
    with new.child._lock:
        few.load(first)  # for it the third went
        with few.children._children[first.owner, False]._lock, pytest.raises(MemoryExhausted, match="no memory is free"):
            few.load(third)
    assert not new.child.is_ended
    assert few.children.memory().taken <= 500 * MIB
    assert few.children.memory().refused == 1


def test_an_organization_gets_no_more_than_its_share_while_others_have_room(kept):
    few = kept(1000, 300)
    mine, more, others = sized(150), sized(150, owner="a" * 32), sized(150)
    mine.owner = more.owner
    resident = few.load(mine)
    few.load(others)

    with resident.child._lock, pytest.raises(MemoryExhausted, match="have their 300 MiB"):
        few.load(more)
    anew = few.load(more)  # idle now: it begins anew, with this version alone

    assert few.left == [resident.child]
    assert anew.child.given.keys() == {more.version}
    with pytest.raises(MemoryExhausted, match="may have 300 MiB"):
        few.load(sized(300))


def test_a_model_that_is_being_loaded_is_counted_with_the_copies_of_its_file(kept):
    few = kept(200, 200)
    made = models.linear(is_private=True)
    made.artifact = bytes(50 * MIB)

    with pytest.raises(MemoryExhausted, match="needs 2"):
        few.load(made)


def test_a_load_that_fails_gives_its_memory_back(kept):
    few = kept(500, 300)
    good, broken = sized(20), sized(100)
    broken.owner, broken.artifact = good.owner, b"no model"
    child = few.load(good).child
    before = child.taken

    with pytest.raises(Exception, match="could not be loaded"):
        few.load(broken)

    assert child.taken == before
    assert not child.is_busy


def test_a_version_that_leaves_gives_its_memory_back(kept):
    few = kept(500, 300)
    one, two = sized(20), sized(100)
    two.owner = one.owner
    stays = few.load(one)
    before = stays.child.taken

    few.load(two).close()

    assert stays.child.taken == before


def test_a_process_that_outgrows_its_organizations_share_is_ended_and_its_call_fails_alone(kept):
    few = kept(1000, 250)
    made, others = models.hoarding(), sized(100)
    resident, innocent = few.load(made), few.load(others)

    (reply,) = resident.run([hoard(made, 300)])

    assert reply.code == "out_of_memory"
    assert "250 MiB" in reply.message
    assert resident.child.is_ended
    assert few.children.memory().ended == 1
    assert [answer.code for answer in innocent.run([small(others)])] == [""]
    few.load(made)


def test_what_is_free_may_be_used_and_beyond_that_who_grew_is_ended_not_who_holds_what_it_was_given(kept):
    few = kept(700, 650)
    made, heavy, idle = models.hoarding(), models.counted(is_private=True, load_bytes=300 * MIB), sized(50)
    grows, steady = few.load(made), few.load(heavy)
    few.load(idle)
    running, steady_replies = run_aside(steady, work(heavy, ENDLESS, deadline=time.time() + PATIENCE))

    within, _ = run_aside(grows, hoard(made, 100))
    until(lambda: grows.child.held > 100 * MIB)
    assert not grows.child.is_ended
    grows.child.kill()
    within.join()
    (reply,) = few.load(made).run([hoard(made, 400)])

    assert reply.code == "out_of_memory"
    until(lambda: idle.owner in {child.owner for child in few.left})  # an idle one goes before
    assert not steady.child.is_ended
    steady.child.kill()
    running.join()
    assert len(steady_replies) == 1


def test_nobody_who_is_told_holds_up_the_looking(kept):
    few = kept(1000, 250)
    first, second = models.hoarding(), models.hoarding()
    told, go_on = threading.Event(), threading.Event()
    few.children._on_ended = lambda child: (told.set(), go_on.wait(PATIENCE))
    one, two = few.load(first), few.load(second)

    (early,) = one.run([hoard(first, 300)])
    assert told.wait(PATIENCE)
    (late,) = two.run([hoard(second, 300)])
    go_on.set()

    assert (early.code, late.code) == ("out_of_memory", "out_of_memory")


def test_of_several_calls_only_the_one_that_takes_too_much_fails(kept):
    few = kept(1000, 250)
    made = models.hoarding()
    resident = few.load(made)
    calls = [work(made, np.array([1]), np.array(1), deadline=time.time() + PATIENCE), hoard(made, 300, number=1)]

    assert resident.run(calls) == [None, None]
    assert [call.is_suspect for call in calls] == [True, True]
    good, bad = few.load(made).run(calls)

    assert (good.code, bad.code) == ("", "out_of_memory")


def test_the_kernel_refuses_a_process_far_more_than_its_share(kept):
    few = kept(1000, 250)
    made = models.hoarding()
    resident = few.load(made)

    (reply,) = resident.run([hoard(made, 1000)])

    assert reply.code == "model_failed"
    assert not resident.child.is_ended


def test_workers_of_a_machine_share_the_budget_and_idle_processes_of_one_go_for_anothers_load(kept, tmp_path):
    one, two = kept(400, 300, tmp_path), kept(400, 300, tmp_path)
    first, second = sized(150), sized(150)
    resident = one.load(first)

    with resident.child._lock, pytest.raises(MemoryExhausted, match="no memory is free"):
        two.load(second)
    assert two.children.memory().refused == 1
    two.load(second)

    assert resident.child.is_ended
    until(lambda: one.left == [resident.child])
    until(lambda: one.children.memory().others == two.children.memory().taken)
