"""Large tensors in JSON, decoded piece by piece: between two pieces other threads run, above all the one with the loop.

The JSON decoder holds the interpreter for as long as it works: 20 ms for a million numbers, 90 ms if they are nested in small
lists. Finding where a tensor's data begin and end takes a fifth of that, and a piece less than a millisecond.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

from inference.gateway import tensors
from inference.lanes import Tensor
from inference.routes import TensorSpec

PIECE = 64 << 10  # bytes of JSON
decode = msgspec.json.decode
decode_rows = msgspec.json.Decoder(list[Raw]).decode
holds_lists = re.compile(rb"\s*\[\s*\[").match


def from_json(spec: TensorSpec, datatype: str, shape: list[int], data: Any, *, may_hold_bools: bool) -> Tensor:  # Any: JSON
    """As tensors.from_json; `data` may be Raw, and then is valid JSON that nobody has decoded."""
    if type(data) is not Raw:
        return tensors.from_json(spec, datatype, shape, data, may_hold_bools=may_hold_bools)
    text = bytes(data)
    if b'"' in text or not text.startswith(b"["):
        return tensors.from_json(spec, datatype, shape, decode(text), may_hold_bools=True)
    count = tensors.check_signature(spec, datatype, shape)
    parts: list[bytes] = []
    found = 0
    try:
        for flat in _flat_pieces(spec.name, shape, text):
            parts.append(tensors.pack(spec.name, datatype, flat, may_hold_bools=True, first=found))
            found += len(flat)
    except msgspec.DecodeError as error:  # a piece ended within a list, or holds a number that no type has
        raise tensors.wrong(spec.name, f"data must be a list of numbers, flat or nested as the shape says: {error}") from None
    tensors.check_count(spec.name, shape, count, found)
    return spec.name, datatype, shape, b"".join(parts)


def _flat_pieces(name: str, shape: list[int], text: bytes) -> Iterator[list[Any]]:  # Any: JSON
    """The elements of `text`, a list that is flat or nested exactly as `shape`, in row-major order."""
    if holds_lists(text):
        yield from _nested(name, shape, text)
    else:
        yield from _flat(text)


def _flat(text: bytes) -> Iterator[list[Any]]:  # Any: JSON
    at, end = 1, text.rindex(b"]")
    while at < end:
        cut = text.find(b",", at + PIECE, end)
        cut = end if cut < 0 else cut
        yield decode(b"[%b]" % text[at:cut])
        at = cut + 1


def _nested(name: str, shape: list[int], text: bytes) -> Iterator[list[Any]]:  # Any: JSON
    rows = decode_rows(text)
    tensors.check_outer(name, shape, len(rows))
    group: list[Raw] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row)
        if size > PIECE:
            yield from _group(name, shape, group)
            group, size = [], 0
    if group:
        yield from _group(name, shape, group)


def _group(name: str, shape: list[int], rows: list[Raw]) -> Iterator[list[Any]]:  # Any: JSON
    """Rows of a nested tensor. One that is a piece alone goes the same way as the whole."""
    row = bytes(rows[0])
    if len(rows) == 1 and len(row) > PIECE and row.startswith(b"["):
        if len(shape) > 2 and holds_lists(row):
            yield from _nested(name, shape[1:], row)
            return
        if len(shape) == 2 and not holds_lists(row):
            found = 0
            for piece in _flat(row):
                found += len(piece)
                yield piece
            tensors.check_width(name, 1, shape[1], found)
            return
    data = decode(b"[%b]" % b",".join(rows))
    if len(shape) > 1:
        tensors.check_row(name, 1, shape[1], data[0])
    yield tensors.flatten(name, [len(rows), *shape[1:]], data)
