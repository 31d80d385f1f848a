"""Which numbers of rows are tried together, and where it ends. The models are functions."""

import time

import numpy as np
import pytest

from inference.intake.independence import Dependent, most_together

pytestmark = pytest.mark.no_servers

FLOAT = {"x": "FP32"}


def tried(answer, *, most=16, seconds=60.0, rows=8):
    """What `most_together` finds for `answer` of (n, 3) float32, and the numbers of rows that it ran."""
    counts = []

    def run(feed):
        counts.append(len(feed["x"]))
        return [answer(feed["x"])]

    x = np.random.default_rng(1).uniform(1, 2, (rows, 3)).astype(np.float32)
    return most_together(run, {"x": x}, FLOAT, {"y": "FP32"}, most=most, seconds=seconds), counts


def test_every_number_of_rows_is_tried_up_to_the_engines_most():
    found, counts = tried(lambda x: x * 2)

    assert found == 16
    assert set(counts) == set(range(1, 17))


@pytest.mark.parametrize("place", range(1, 16))
def test_each_place_is_compared_in_each_number_of_rows(place):
    def spoilt(x):
        y = x.copy()
        y[place : place + 1] += 1e-3
        return y

    with pytest.raises(Dependent, match=f"^{place + 1} rows together differ"):
        tried(spoilt)


def test_there_need_not_be_a_different_row_for_each_place():
    assert tried(lambda x: x + 1, rows=3)[0] == 16
    with pytest.raises(Dependent, match=r"^11 rows"):
        tried(lambda x: x + (x[10:11].sum() if len(x) > 10 else 0), rows=3)


def test_without_time_nothing_is_tried_together():
    assert tried(lambda x: x, seconds=0.0)[0] == 1


def test_when_the_time_is_over_the_last_number_that_was_tried_whole_counts():
    def slow(x):
        until = time.process_time() + 1e-3 * len(x)
        while time.process_time() < until:
            pass
        return x

    found, counts = tried(slow, most=4096, seconds=0.5)

    assert 1 < found < 4096
    assert max(counts) <= found + 1
    assert set(range(1, found + 1)) <= set(counts)


def test_where_memory_is_out_the_number_before_counts():
    def large(x):
        if len(x) > 9:
            raise MemoryError
        return x

    assert tried(large)[0] == 9


def test_rows_of_very_many_bytes_are_not_run_together():
    width = 40 << 20  # bytes, going in and coming out
    x = np.random.default_rng(1).uniform(1, 2, (3, width // 8)).astype(np.float32)

    assert most_together(lambda feed: [feed["x"]], {"x": x}, FLOAT, {"y": "FP32"}, most=64, seconds=60.0) == 6


def test_what_fails_together_is_not_called_independent():
    def fails(x):
        if len(x) == 7:
            raise RuntimeError("seven")
        return x

    with pytest.raises(RuntimeError):
        tried(fails)


def test_a_row_with_another_answer_the_second_time_is_not_independent():
    numbers = iter(range(10_000))

    with pytest.raises(Dependent, match="two different answers"):
        tried(lambda x: x * 0 + next(numbers))


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param(lambda x: x + np.isnan(x).any(), id="not a number"),
        pytest.param(lambda x: x + np.isinf(x).any(), id="infinity"),
        pytest.param(lambda x: x + (np.abs(x) > 9_000).any(), id="large"),
        pytest.param(lambda x: x + (x == 0).all(axis=1).any(), id="nothing"),
    ],
)
def test_extreme_neighbours_change_nothing_or_rows_are_not_independent(spoilt):
    with pytest.raises(Dependent, match=r"^2 rows"):
        tried(lambda x: spoilt(x).astype(np.float32) if len(x) > 1 else x)


def test_a_model_that_refuses_extreme_rows_is_tried_without_them():
    def strict(x):
        if not np.isfinite(x).all():
            raise RuntimeError("no number")
        return x

    assert tried(strict)[0] == 16
