"""Looking at something while something else goes on."""

import threading

import pytest

from benchmarks.looking import meanwhile
from tests.waiting import until

pytestmark = pytest.mark.no_servers


def test_it_is_looked_at_again_and_again_until_the_context_is_left():
    seen = []

    with meanwhile(lambda: seen.append(1), 0.001):
        until(lambda: len(seen) >= 3)

    looks = len(seen)
    with meanwhile(lambda: seen.append(2), 3600):
        pass
    assert len(seen) == looks


def test_an_error_leaves_no_thread_that_goes_on_looking():
    before = threading.active_count()

    with pytest.raises(ValueError, match="over"), meanwhile(lambda: None, 0.001):
        raise ValueError("over")

    assert threading.active_count() == before
