"""Percentiles, and the times at which requests of an open loop are due."""

from math import inf

import pytest

from benchmarks.timing import arrivals, percentile

pytestmark = pytest.mark.no_servers


def test_a_percentile_is_the_smallest_value_that_enough_others_do_not_exceed():
    hundred = [float(value) for value in range(1, 101)]

    assert percentile(hundred, 0.5) == 50
    assert percentile(hundred, 0.99) == 99
    assert percentile([3.0], 0.99) == 3
    assert percentile([1.0, 2.0], 0.5) == 1
    assert percentile([1.0, 2.0], 0.51) == 2


def test_requests_without_an_answer_count_as_infinitely_slow():
    ordered = [1.0] * 98 + [inf] * 2

    assert percentile(ordered, 0.5) == 1
    assert percentile(ordered, 0.99) == inf


def test_there_is_no_percentile_of_nothing():
    with pytest.raises(ValueError):
        percentile([], 0.5)


def test_arrivals_are_the_same_for_a_seed_and_rise_to_the_end():
    due = arrivals(200.0, 50.0, seed=1)

    assert due == arrivals(200.0, 50.0, seed=1)
    assert due != arrivals(200.0, 50.0, seed=2)
    assert due == sorted(due)
    assert due[0] > 0
    assert due[-1] < 50


def test_arrivals_are_a_poisson_process_of_their_rate():
    due = arrivals(200.0, 50.0, seed=1)
    counts = [sum(1 for time in due if second <= time < second + 1) for second in range(50)]
    mean = sum(counts) / 50

    assert mean == pytest.approx(200, rel=0.05)
    assert sum((count - mean) ** 2 for count in counts) / 49 == pytest.approx(200, rel=0.6)  # variance and mean are alike
