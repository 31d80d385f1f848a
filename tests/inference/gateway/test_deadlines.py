"""One timer tells which calls are late."""

import asyncio

import pytest

from inference.gateway.deadlines import STEP, Deadlines


class Clock:
    """A loop whose time goes on by hand."""

    def __init__(self):
        self.now, self.timers = 100.0, []

    def time(self):
        return self.now

    def call_later(self, delay, callback, *arguments):
        self.timers.append((self.now + delay, callback, arguments))

    def go_to(self, at):
        while self.timers and self.timers[0][0] <= at:
            when, callback, arguments = self.timers.pop(0)
            self.now = max(self.now, when)
            callback(*arguments)
        self.now = at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def late():
    return []


def test_calls_are_told_in_the_order_of_their_deadlines_and_never_early(clock, late):
    deadlines = Deadlines(lambda number: late.append((number, clock.now)))
    ats = {1: 130.0, 2: 100.05, 3: 101.0, 4: 100.051}
    for number, at in ats.items():
        deadlines.add(number, at, clock)

    clock.go_to(140.0)

    assert [number for number, _ in late] == [2, 4, 3, 1]
    assert all(ats[number] <= at <= ats[number] + 2 * STEP for number, at in late)


def test_a_loop_that_was_held_up_tells_all_that_is_late(clock, late):
    deadlines = Deadlines(late.append)
    for number in range(5):
        deadlines.add(number, clock.now + 0.1 * number, clock)
    clock.timers[0] = (clock.now + 60.0, *clock.timers[0][1:])

    clock.go_to(160.0)

    assert late == [0, 1, 2, 3, 4]


def test_there_is_a_timer_only_while_a_deadline_is_ahead(clock, late):
    deadlines = Deadlines(late.append)
    assert clock.timers == []
    deadlines.add(1, clock.now + 0.1, clock)
    deadlines.add(2, clock.now + 0.1, clock)
    assert len(clock.timers) == 1

    clock.go_to(101.0)
    assert (late, clock.timers) == ([1, 2], [])
    deadlines.add(3, clock.now + 50.0, clock)
    clock.go_to(160.0)
    assert (late, clock.timers) == ([1, 2, 3], [])


def test_a_deadline_that_has_passed_is_told_with_the_next_step(clock, late):
    deadlines = Deadlines(late.append)
    deadlines.add(1, clock.now + 10, clock)
    clock.go_to(105.0)
    deadlines.add(2, clock.now, clock)

    clock.go_to(105.1)

    assert late == [2]


def test_a_fault_at_one_call_leaves_the_others_their_deadlines(clock, late):
    deadlines = Deadlines(lambda number: late.append(1 // number))
    for number, seconds in ((0, 0.1), (1, 0.1), (1, 9.0)):
        deadlines.add(number, clock.now + seconds, clock)

    clock.go_to(110.0)

    assert late == [1, 1]


async def test_on_a_real_loop():
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    at = loop.time() + 0.05
    Deadlines(lambda number: told.set()).add(1, at, loop)
    async with asyncio.timeout(10):
        await told.wait()
    assert loop.time() >= at
