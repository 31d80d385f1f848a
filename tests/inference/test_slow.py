"""Which versions have slow lanes."""

import pytest

from inference.slow import has_slow_lanes

pytestmark = pytest.mark.no_servers


@pytest.mark.parametrize(
    ("takes_items", "ms_per_row", "expected"),
    [(True, 0.0, True), (False, 0.01, False), (False, 0.06, True), (False, 100.0, True)],
)
def test_slow_lanes_are_for_items_and_for_rows_that_take_long(takes_items, ms_per_row, expected):
    assert has_slow_lanes(takes_items=takes_items, ms_per_row=ms_per_row) is expected
