"""Whether rows of a batch know of each other: rows together must give what the same rows give alone.

Without it two callers' rows would not be safe in one run (design.md, Batching). It is an experiment and no proof, so it is made
for every number of rows that a run may have: 2, 3, 4, … up to the engine's most, or as far as there is time for, and the engine
then never runs more of different calls together. Each number is tried in several orders, with a row repeated, and with rows of
NaN, infinity, large numbers or nothing among the others: these show in their neighbours' results wherever rows are added,
averaged, sorted or scaled together. Every place of every run is compared.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from inference.engine.tensors import Array
from inference.intake.feeds import Feed, edge_rows

TOLERANCE = {"FP64": 1e-9, "FP32": 1e-5, "FP16": 4e-3, "BF16": 3e-2}
"""How far a number may be from its row alone, in parts of the row's largest (at least 1): kernels round differently by size."""

MAX_BYTES = 256 << 20  # of the inputs and outputs of one run

Run = Callable[[Feed], list[Array]]
Picked = npt.NDArray[np.int64]


class Dependent(Exception):
    """Rows are not independent, or it could not be shown; the text says what was seen."""


def most_together(run: Run, feed: Feed, inputs: dict[str, str], outputs: dict[str, str], *, most: int, seconds: float) -> int:
    """The largest number of rows, at most `most`, that was tried with all smaller ones: 1 if not even two. Raises Dependent.

    `feed` holds three rows or more in each input; `inputs` and `outputs` are datatypes by name, the outputs in the order of the
    runs' results. It ends after `seconds` of processor time, and where a run would need more memory than there is. Raises what
    `run` raises for another reason.
    """
    began = time.process_time()
    rows = len(next(iter(feed.values())))
    alone = [run(pick(feed, set(feed), [row])) for row in range(rows)]
    expected = columns(outputs, alone)
    compare(outputs, expected, run(pick(feed, set(feed), [0])), np.array([0]), "One row gives two different answers")
    extremes = [edge for edge in edge_rows(feed, inputs) if _is_taken(run, edge)]
    pool = {name: np.concatenate([array, *[edge[name] for edge in extremes]]) for name, array in feed.items()}
    width = sum(array[:1].nbytes for array in (*feed.values(), *alone[0]))
    random = np.random.default_rng(0)
    for size in range(2, min(most, MAX_BYTES // max(width, 1)) + 1):
        for picked in choices(random, size, rows, len(extremes)):
            if time.process_time() - began > seconds:
                return size - 1
            try:
                results = run(pick(pool, set(pool), picked))
            except MemoryError:
                return size - 1
            compare(outputs, expected, results, picked, f"{size} rows together differ from the same rows alone")
    return max(1, min(most, MAX_BYTES // max(width, 1)))


def choices(random: np.random.Generator, size: int, rows: int, extremes: int) -> Iterator[Picked]:
    """Which rows go together in runs of `size`: numbers below `rows` are ordinary ones, those from there on the extreme ones.

    Drawn in two orders, one row repeated beside a single other, and half of them replaced by each extreme one.
    """
    drawn = random.permutation(max(size, rows))[:size] % rows
    yield drawn
    yield random.permutation(drawn)
    same = np.full(size, drawn[0])
    same[random.integers(size)] = (drawn[0] + 1) % rows
    yield same
    for extreme in range(rows, rows + extremes):
        mixed = drawn.copy()
        mixed[random.permutation(size)[: size // 2]] = extreme
        yield mixed


def pick(feed: Feed, rowed: set[str], rows: Sequence[int] | Picked) -> Feed:
    """The feed with these rows only; inputs without rows as they are."""
    chosen = np.asarray(rows, np.int64)
    return {name: array[chosen] if name in rowed else array for name, array in feed.items()}


def _is_taken(run: Run, row: Feed) -> bool:
    """A model may refuse such values: a batch with them fails as a whole, and is rerun one call at a time."""
    try:
        run(row)
    except MemoryError:
        raise
    except Exception:  # onnxruntime's types and RuntimeError
        return False
    return True


def columns(outputs: dict[str, str], alone: list[list[Array]]) -> list[Array]:
    """Each output of all rows that were run alone, (rows, …). Raises Dependent if they do not fit together."""
    for results in alone:
        for name, result, first in zip(outputs, results, alone[0], strict=True):
            if result.ndim < 1 or len(result) != 1 or result.shape != first.shape:
                raise Dependent(f"Output {name} of one row has the shapes {list(first.shape)} and {list(result.shape)}")
    return [np.concatenate(results) for results in zip(*alone, strict=True)]


def compare(outputs: dict[str, str], expected: list[Array], together: list[Array], picked: Picked, complaint: str) -> None:
    """Raise Dependent unless each ordinary row of `together` is the one of `expected` that `picked` says."""
    ordinary = picked < len(expected[0])
    for (name, datatype), alone, result in zip(outputs.items(), expected, together, strict=True):
        if result.ndim < 1 or len(result) != len(picked):
            raise Dependent(f"Output {name} of {len(picked)} rows has the shape {list(result.shape)}")
        if not are_same(datatype, alone[picked[ordinary]], result[ordinary]):
            raise Dependent(f"{complaint} (output {name})")


def are_same(datatype: str, some: Array, others: Array) -> bool:
    """Equal, numbers within TOLERANCE of their row's largest; NaN equals NaN."""
    if some.shape != others.shape:
        return False
    if datatype not in TOLERANCE:
        return bool(np.array_equal(some, others))
    left, right = (as_float64(datatype, array).reshape(len(array), -1) for array in (some, others))
    finite = np.isfinite(left)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return False
    largest = np.abs(np.where(finite, left, 0)).max(axis=1, keepdims=True, initial=1.0)
    with np.errstate(invalid="ignore"):
        near = np.abs(left - right) <= TOLERANCE[datatype] * largest  # false where the other one is not finite
    return bool((near | ~finite).all())


def as_float64(datatype: str, array: Array) -> npt.NDArray[Any]:
    """Numbers to compare; BF16 from its raw bits."""
    if datatype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)
