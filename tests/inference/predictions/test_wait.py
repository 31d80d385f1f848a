"""`Prefer: wait` (RFC 7240) of predictions."""

import pytest

from inference.predictions.api import wait_of
from saas.lib.errors import InvalidRequest

pytestmark = pytest.mark.no_servers


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("", 0),
        ("respond-async", 0),
        ("waiting=3", 0),
        ("wait", 60),
        ("wait=5", 5),
        ('Wait="5"', 5),
        ("respond-async, wait = 10", 10),
        ("wait=7; by=client, handling=lenient", 7),
    ],
)
def test_it_says_how_long_the_answer_may_take(prefer, seconds):
    assert wait_of(prefer) == seconds


@pytest.mark.parametrize("value", ["0", "61", "abc", "", "-1", "1.5", "٣", "123456", "1 2"])
def test_a_wait_that_is_no_number_of_seconds_is_refused(value):
    with pytest.raises(InvalidRequest, match="1 to 60 seconds"):
        wait_of(f"respond-async, wait={value}")
