"""saas/lib/gathering.py: what travels together, and when it leaves."""

import asyncio

import pytest

from saas.lib.gathering import ENOUGH, ROUNDS, Gathering


@pytest.fixture
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


def gathered(loop, arrivals):
    """What each departure took along, as (round, count), of things that come one round after the other."""
    waiting, left, rounds = [], [], [0]

    def go():
        left.append((rounds[0], len(waiting)))
        waiting.clear()

    gathering = Gathering(lambda: len(waiting), go)
    for count in arrivals:
        waiting += [None] * count
        if count:
            gathering.begin(loop)
        rounds[0] += 1
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert not gathering.is_due or waiting
    return left


def test_one_alone_waits_for_one_round_without_company(loop):
    assert gathered(loop, [1, 0, 0, 0]) == [(2, 1)]


def test_what_comes_in_rounds_that_follow_travels_together(loop):
    assert gathered(loop, [2, 1, 3, 0, 0]) == [(4, 6)]


def test_after_a_round_in_which_nothing_came_the_next_waits_for_its_own_company(loop):
    assert gathered(loop, [1, 0, 1, 1, 0, 0]) == [(2, 1), (5, 2)]


def test_enough_leaves_at_once(loop):
    assert gathered(loop, [ENOUGH, 1, 0, 0]) == [(1, ENOUGH), (3, 1)]


def test_a_trickle_does_not_hold_up_the_first_one(loop):
    [first, *_] = gathered(loop, [1] * (ROUNDS + 5))
    assert first[0] <= ROUNDS + 1
