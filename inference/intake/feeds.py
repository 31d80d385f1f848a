"""Inputs that intake makes up, to see what a model does. Always the same ones: the generator's seed is fixed."""

import math
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np

from inference.engine.manifest import Manifest, Resize, Tokenize
from inference.engine.tensors import DTYPES, FLOATS, Array
from inference.routes import TensorSpec

SIZES = (1, 4, 8, 16, 32, 64, 224, 2, 3)  # tried for free dimensions that are not rows
KINDS = ("declared", "spread", "unit", "binary", "zeros")  # of values, tried in this order
WORDS = ("alpha", "the quick brown fox", "12", "", "Ünïcode ✓", "a" * 40)
MAX_VALUES = 1 << 22  # in one row of a made-up tensor; a larger one says nothing more
WHOLE = frozenset(DTYPES) - FLOATS - {"BYTES", "BOOL"}
EDGES: tuple[tuple[frozenset[str], tuple[float | str, ...]], ...] = (
    (FLOATS, (float("nan"), float("inf"), 1e4, -1e4, 0.0)),
    (WHOLE, (0, 100)),
    (frozenset({"BYTES"}), ("", "z" * 1000)),
)
MOST_PAIRED = 4  # inputs of which each two are tried together, one with the least number, the other with -1
SEED = 7

Feed = dict[str, Array]


class Inputs:
    """Makes feeds of `rows` rows for a signature; inputs in `rowed` have rows in their leading dimension."""

    def __init__(self, specs: list[TensorSpec], rowed: set[str], manifest: Manifest) -> None:
        self.specs, self.rowed, self.manifest = specs, rowed, manifest

    def sizes(self) -> tuple[int, ...]:
        """Sizes to try for the free inner dimensions; what the manifest says comes first."""
        if not any(-1 in self._inner(spec) for spec in self.specs):
            return (1,)
        steps = self.manifest.preprocessing
        declared = [step.max_length for step in steps if isinstance(step, Tokenize)]
        declared += [step.width for step in steps if isinstance(step, Resize)]
        declared += [len(self.manifest.features)] if self.manifest.features else []
        return (*declared, *SIZES)

    def make(self, rows: int, size: int, kind: str, seed: int = SEED) -> Feed | None:
        """A feed of this kind of values; None if it would be too large."""
        random = np.random.default_rng(seed)
        feed = {}
        for spec in self.specs:
            if math.prod(self.shape(spec, 1, size)) > MAX_VALUES:
                return None
            feed[spec.name] = values(spec.datatype, self.shape(spec, rows, size), kind, random)
        return feed

    def shape(self, spec: TensorSpec, rows: int, size: int) -> list[int]:
        inner = [size if dim == -1 else dim for dim in self._inner(spec)]
        return [rows, *inner] if spec.name in self.rowed else inner

    def _inner(self, spec: TensorSpec) -> list[int]:
        return spec.shape[1:] if spec.name in self.rowed else spec.shape


def values(datatype: str, shape: list[int], kind: str, random: np.random.Generator) -> Array:
    """An array of a datatype of the protocol; BF16 as its raw bits."""
    if datatype == "BYTES":
        return _texts(shape, kind, random)
    if kind == "zeros":
        return np.zeros(shape, np.bool_ if datatype == "BOOL" else DTYPES[datatype])
    if datatype == "BOOL" or kind == "binary":
        return cast(datatype, random.integers(0, 2, shape).astype(np.float64))
    if datatype in FLOATS:
        return cast(datatype, random.uniform(0 if kind == "unit" else -2, 1 if kind == "unit" else 2, shape))
    lowest, highest = (0, 2) if kind == "unit" else (1, 10)  # first none that cannot divide
    return cast(datatype, random.integers(lowest, highest, shape).astype(np.float64))


def cast(datatype: str, array: np.ndarray[Any, Any]) -> Array:
    """float64 values in a datatype of the protocol."""
    if datatype == "BOOL":
        return array.astype(np.bool_)
    if datatype == "BF16":
        return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return array.astype(DTYPES[datatype])


def _texts(shape: list[int], kind: str, random: np.random.Generator) -> Array:
    words = ["0", "1"] if kind == "binary" else [""] if kind == "zeros" else list(WORDS)
    array = np.empty(math.prod(shape), np.object_)
    array[:] = [words[place] for place in random.integers(0, len(words), math.prod(shape))]
    return array.reshape(shape)


def edge_rows(feed: Feed, datatypes: dict[str, str]) -> Iterator[Feed]:
    """One row each, extreme in all of its floats, whole numbers or texts: what spoils others if rows are mixed."""
    for kinds, edges in EDGES:
        spoilt = [name for name in feed if datatypes[name] in kinds]
        for edge in edges if spoilt else ():
            row = {name: array[:1].copy() for name, array in feed.items()}
            for name in spoilt:
                row[name] = _filled(datatypes[name], row[name].shape, edge)
            yield row


def extreme_whole_rows(feed: Feed, datatypes: dict[str, str]) -> Iterator[tuple[str, Feed]]:
    """One row each, with its description: whole numbers at the ends of their types, and -1, in all inputs and in each two.

    The least number by -1 is the quotient that does not exist, for which processors end a process (SIGFPE).
    """
    whole = [name for name in feed if datatypes[name] in WHOLE]
    row = {name: array[:1] if array.ndim else array for name, array in feed.items()}
    for pick in (_least, _minus_one, _most) if whole else ():
        yield _extreme(row, {name: [pick(row[name])] for name in whole})
    for pattern in ((_least, _minus_one), (_minus_one, _least)) if any(row[name].size > 1 for name in whole) else ():
        yield _extreme(row, {name: [pick(row[name]) for pick in pattern] for name in whole})
    for one, other in permutations(whole[:MOST_PAIRED], 2):
        yield _extreme(row, {one: [_least(row[one])], other: [_minus_one(row[other])]})


def _least(array: Array) -> int:
    return int(np.iinfo(array.dtype.str).min)


def _most(array: Array) -> int:
    return int(np.iinfo(array.dtype.str).max)


def _minus_one(array: Array) -> int:
    """1 where there are no negative numbers."""
    return -1 if _least(array) < 0 else 1


def _extreme(row: Feed, numbers: dict[str, list[int]]) -> tuple[str, Feed]:
    """`row` with these numbers, in turns, in these inputs."""
    changed = {name: np.resize(np.array(mine, row[name].dtype), row[name].shape) for name, mine in numbers.items()}
    said = "; ".join(f"{name} = {', '.join(map(str, mine))}" for name, mine in numbers.items())
    return said, {**row, **changed}


def _filled(datatype: str, shape: tuple[int, ...], edge: float | str) -> Array:
    return np.full(shape, edge, np.object_) if isinstance(edge, str) else cast(datatype, np.full(shape, float(edge)))
