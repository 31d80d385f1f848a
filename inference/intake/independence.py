"""The proof that rows of a batch do not know of each other: k rows together equal the same k rows alone.

Without it two callers' rows would not be safe in one run (design.md, Batching). It is an experiment, so it can only be as good
as its inputs: random rows in several numbers and orders, repeated ones, and rows of NaN, infinity and large numbers among them,
which show in their neighbours' results wherever rows are added, averaged, sorted or scaled together.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from inference.engine.tensors import Array
from inference.intake.feeds import Feed, edge_rows

TOLERANCE = {"FP64": 1e-9, "FP32": 1e-5, "FP16": 4e-3, "BF16": 3e-2}
"""How far a number may be from its row alone, in parts of the row's largest (at least 1): kernels round differently by size."""

Run = Callable[[Feed], list[Array]]


class Dependent(Exception):
    """Rows are not independent, or it could not be shown; the text says what was seen."""


def prove(run: Run, feed: Feed, rowed: set[str], inputs: dict[str, str], outputs: dict[str, str]) -> list[int]:
    """The numbers of rows that were run together. Raises Dependent.

    `feed` holds the rows; `inputs` and `outputs` are datatypes by name, in the order of the runs' results.
    """
    rows = len(next(iter(feed.values())))
    alone = [run(pick(feed, rowed, [row])) for row in range(rows)]
    again = run(pick(feed, rowed, [0]))
    compare(outputs, [alone[0]], again, [0], "one row gives two different answers")
    seen = set()
    for picked in choices(rows):
        results = run(pick(feed, rowed, picked))
        compare(outputs, alone, results, picked, f"{len(picked)} rows together differ from the same rows alone")
        seen.add(len(picked))
    for edge in edge_rows(feed, rowed, inputs):
        _among(run, feed, rowed, edge, alone, outputs)
    return sorted(seen)


def choices(rows: int) -> Iterator[list[int]]:
    """Which rows go together: all, backwards, shuffled, parts, and one repeated."""
    random = np.random.default_rng(0)
    everything = list(range(rows))
    yield everything
    yield everything[::-1]
    for count in {2, 3, 5, rows} & set(range(2, rows + 1)):
        yield random.permutation(rows)[:count].tolist()
    yield [0, 0, rows - 1]
    yield [rows - 1, 0, 0, 0]


def pick(feed: Feed, rowed: set[str], rows: Sequence[int]) -> Feed:
    """The feed with these rows only; inputs without rows as they are."""
    return {name: array[list(rows)] if name in rowed else array for name, array in feed.items()}


def _among(run: Run, feed: Feed, rowed: set[str], edge: Feed, alone: list[list[Array]], outputs: dict[str, str]) -> None:
    """Ordinary rows keep their answers beside an extreme one, first, in the middle and last."""
    try:
        run({**feed, **edge})
    except Exception:  # the model refuses such values: a batch with them fails as a whole, and is rerun one by one
        return
    for place in (0, 1, 2):
        picked = [0, 1]
        batch = pick(feed, rowed, picked)
        mixed = {
            name: np.concatenate([array[:place], edge[name], array[place:]]) if name in rowed else array
            for name, array in batch.items()
        }
        results = [np.delete(result, place, axis=0) if result.ndim else result for result in run(mixed)]
        compare(outputs, alone, results, picked, "a row changes when an extreme one is in the same batch")


def compare(
    outputs: dict[str, str], alone: list[list[Array]], together: list[Array], picked: Sequence[int], complaint: str
) -> None:
    """Raise Dependent unless each row of `together` is the one that `picked` names of those alone."""
    for place, (name, datatype) in enumerate(outputs.items()):
        result = together[place]
        if result.ndim < 1 or len(result) != len(picked):
            raise Dependent(f"output {name} of {len(picked)} rows has the shape {list(result.shape)}")
        for row, number in enumerate(picked):
            if not is_same(datatype, alone[number][place], result[row : row + 1]):
                raise Dependent(f"{complaint} (output {name})")


def is_same(datatype: str, one: Array, other: Array) -> bool:
    """Equal, numbers within TOLERANCE; NaN equals NaN."""
    if one.shape != other.shape:
        return False
    if datatype not in TOLERANCE:
        return bool(np.array_equal(one, other))
    left, right = as_float64(datatype, one), as_float64(datatype, other)
    finite = np.isfinite(left)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return False
    if not finite.any():
        return True
    left, right = left[finite], right[finite]
    bound = TOLERANCE[datatype] * max(1.0, float(np.abs(left).max()))
    return bool((np.abs(left - right) <= bound).all())  # false where the other one is not finite


def as_float64(datatype: str, array: Array) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Numbers to compare; BF16 from its raw bits."""
    if datatype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)
