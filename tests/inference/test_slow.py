"""Which versions have slow lanes, and how slow calls share the places."""

import pytest

from inference.slow import SlowPlaces, has_slow_lanes

pytestmark = pytest.mark.no_servers


@pytest.mark.parametrize(
    ("takes_items", "ms_per_row", "expected"),
    [(True, 0.0, True), (False, 0.01, False), (False, 0.06, True), (False, 100.0, True)],
)
def test_slow_lanes_are_for_items_and_for_rows_that_take_long(takes_items, ms_per_row, expected):
    assert has_slow_lanes(takes_items=takes_items, ms_per_row=ms_per_row) is expected


@pytest.mark.parametrize(("slots", "places"), [(1, 1), (2, 1), (4, 3)])
def test_slow_calls_leave_a_slot_to_the_others_if_there_are_two(slots, places):
    slow = SlowPlaces(slots)

    assert [slow.take("a") for _ in range(places + 1)] == [True] * places + [False]


def test_lanes_wait_in_their_order_and_are_asked_first_once_a_place_is_free():
    slow = SlowPlaces(2)
    assert slow.take("a")
    assert not slow.take("b")
    assert not slow.take("c")
    assert not slow.take("b")
    assert slow.lanes() == (("b", "c"), ())

    assert slow.free()
    assert slow.lanes() == ((), ("b", "c"))
    assert slow.take("b")
    assert not slow.take("b")  # its next call is behind the other lane's
    assert slow.lanes() == (("c", "b"), ())


def test_a_lane_that_was_asked_and_is_empty_waits_no_more():
    slow = SlowPlaces(2)
    slow.take("a")
    slow.take("b")
    slow.free()
    slow.forget(["wake", "b"])

    assert slow.lanes() == ((), ())
