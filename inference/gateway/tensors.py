"""Tensors between JSON or binary bodies and the lane's form: checked once, here, against the version's signature.

Numbers from JSON are packed with `struct`, which refuses what numpy would quietly take (strings, 1e39 as FP32, 300 as UINT8);
for the sizes of JSON bodies it is also the fastest way (4 floats 0.13 µs, 784 floats 5 µs; np.array 0.5 and 13).
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from struct import Struct
from struct import error as StructError
from typing import Any

import numpy as np
import orjson

from inference.gateway.weight import MAX_ELEMENTS
from inference.lanes import Tensor
from inference.routes import TensorSpec
from saas.lib.errors import InvalidTensor, OutputNotFinite, ValidationFailed

MAX_EMPTY_ROWS = 65_536  # a leading dimension that carries no data costs its sender nothing, but a model's outputs may have it

# Open Inference Protocol V2, tensor data types: struct's format character, bytes per element, numpy's name
TYPES = {
    "BOOL": ("?", 1, "?"),
    "UINT8": ("B", 1, "u1"),
    "UINT16": ("H", 2, "<u2"),
    "UINT32": ("I", 4, "<u4"),
    "UINT64": ("Q", 8, "<u8"),
    "INT8": ("b", 1, "i1"),
    "INT16": ("h", 2, "<i2"),
    "INT32": ("i", 4, "<i4"),
    "INT64": ("q", 8, "<i8"),
    "FP16": ("e", 2, "<f2"),
    "FP32": ("f", 4, "<f4"),
    "FP64": ("d", 8, "<f8"),
}
BF16 = "BF16"  # Triton's addition: the upper half of an FP32; it has no JSON form on the way in
FLOATS = frozenset({"FP16", "FP32", "FP64"})
NARROW = frozenset({"FP16", "FP32", BF16})  # written by orjson from numpy, in as few digits as name the number
LENGTH = Struct("<I")
CHUNK = 50_000  # elements that are packed or written as JSON at once: about a millisecond in which no other thread runs
SMALL = 64  # elements up to which struct is faster than numpy on the way out


@lru_cache(maxsize=4096)
def packer(datatype: str, count: int) -> Struct:
    return Struct(f"<{count}{TYPES[datatype][0]}")


def size_of(datatype: str) -> int:
    """Bytes per element of a datatype that is not BYTES."""
    return 2 if datatype == BF16 else TYPES[datatype][1]


def wrong(name: str, detail: str) -> InvalidTensor:
    """The refusal of one input; every message names it."""
    detail = f"input '{name[:200]}': {detail}"
    return InvalidTensor(detail, errors=[{"field": f"inputs.{name[:200]}", "detail": detail}])


def printable(name: str) -> str:
    """A name from a body for a message: JSON can carry half of a surrogate pair, an answer cannot."""
    return name[:200].encode("utf-8", "replace").decode()


def check_signature(spec: TensorSpec, datatype: str, shape: list[int]) -> int:
    """The number of elements, if the version's input takes this datatype and shape (-1 takes any). Raises InvalidTensor."""
    if datatype != spec.datatype:
        raise wrong(spec.name, f"datatype {datatype[:20]} was given, the model expects {spec.datatype}")
    if len(shape) != len(spec.shape):
        raise wrong(spec.name, f"shape {shape[:20]} was given, the model expects {len(spec.shape)} dimensions: {spec.shape}")
    count = 1
    for given, expected in zip(shape, spec.shape):  # noqa: B905  # of the same length, as checked above
        if given != expected and expected != -1:
            raise wrong(spec.name, f"shape {shape} was given, the model expects {spec.shape} (-1 is any size)")
        count *= given
    if count == 0 and shape[0] > MAX_EMPTY_ROWS:
        raise wrong(spec.name, f"shape {shape} has no elements, and more than {MAX_EMPTY_ROWS} rows")
    return count


def from_json(spec: TensorSpec, datatype: str, shape: list[int], data: Any, *, may_hold_bools: bool) -> Tensor:  # Any: JSON
    """A tensor from `data`, flat or nested as `shape` says. `may_hold_bools`: false if the caller knows that none is in it.

    Raises InvalidTensor on any element that is not exactly of the datatype's kind, or outside its range.
    """
    count = check_signature(spec, datatype, shape)
    flat = flatten(spec.name, shape, data)
    check_count(spec.name, shape, count, len(flat))
    return spec.name, datatype, shape, pack(spec.name, datatype, flat, may_hold_bools=may_hold_bools)


def check_count(name: str, shape: list[int], expected: int, given: int) -> None:
    if given != expected:
        raise wrong(name, f"shape {shape} takes {expected} elements, {given} were given")


def check_outer(name: str, shape: list[int], length: int) -> None:
    """The outermost list of nested data has `length` elements."""
    if length != (shape[0] if shape else -1):
        raise wrong(name, f"nested data must have the shape {shape}; its outer list has {length} elements")


def check_row(name: str, depth: int, width: int, row: Any) -> None:  # Any: JSON
    """One list within nested data, `depth` lists deep."""
    if type(row) is not list:
        raise wrong(name, f"data is ragged: a list of {width} elements is expected at depth {depth}, not {kind(row)}")
    check_width(name, depth, width, len(row))


def check_width(name: str, depth: int, width: int, length: int) -> None:
    if length != width:
        raise wrong(name, f"data is ragged: lists of {width} elements are expected at depth {depth}, not of {length}")


def flatten(name: str, shape: list[int], data: Any) -> list[Any]:  # Any: JSON
    """The elements of `data` in row-major order: it is flat, or nested exactly as `shape`; a scalar may stand alone."""
    if type(data) is not list:
        if data is None:
            raise wrong(name, "data is missing: a list of elements is expected")
        if shape:
            raise wrong(name, f"data must be a list, not {kind(data)}")
        return [data]
    if not data or type(data[0]) is not list:
        return data
    check_outer(name, shape, len(data))
    for depth, width in enumerate(shape[1:], 1):
        for row in data:
            if type(row) is not list or len(row) != width:
                check_row(name, depth, width, row)
        data = list(chain.from_iterable(data))
    return data  # type: ignore[no-any-return]  # a list, as checked above


def pack(name: str, datatype: str, flat: list[Any], *, may_hold_bools: bool, first: int = 0) -> bytes:
    """`flat` as the lane's bytes: little-endian, or length-prefixed strings for BYTES. Raises InvalidTensor.

    `first` is the place of its first element among all that are packed.
    """
    if datatype == "BYTES":
        return pack_strings(name, flat)
    if len(flat) > CHUNK:  # in between, other threads may run
        starts = range(0, len(flat), CHUNK)
        return b"".join(
            [pack(name, datatype, flat[at : at + CHUNK], may_hold_bools=may_hold_bools, first=first + at) for at in starts]
        )
    if datatype == BF16:
        raise wrong(name, "BF16 has no JSON form; send it as a binary tensor")
    if datatype == "BOOL":
        if not set(map(type, flat)) <= {bool}:
            raise explained(name, datatype, flat, first)
    elif may_hold_bools and bool in set(map(type, flat)):
        raise explained(name, datatype, flat, first)
    try:
        return packer(datatype, len(flat)).pack(*flat)
    except (StructError, OverflowError, TypeError):
        raise explained(name, datatype, flat, first) from None


def pack_strings(name: str, flat: list[Any]) -> bytes:
    """BYTES elements, JSON strings in UTF-8, each after its length."""
    parts: list[bytes] = []
    for place, text in enumerate(flat):
        if type(text) is not str:
            raise wrong(name, f"element {place} must be a string for BYTES, not {kind(text)}")
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            raise wrong(name, f"element {place} is not valid Unicode text") from None
        parts += (LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)


def explained(name: str, datatype: str, flat: list[Any], first: int) -> InvalidTensor:
    """Which element does not fit, and what was expected."""
    wanted = "true or false" if datatype == "BOOL" else "numbers" if datatype in FLOATS else "whole numbers"
    one = packer(datatype, 1)
    for place, value in enumerate(flat, first):
        if (type(value) is bool) != (datatype == "BOOL") or not isinstance(value, bool | int | float):
            return wrong(name, f"element {place} is {kind(value)}; {datatype} expects {wanted}")
        try:
            one.pack(value)
        except (StructError, OverflowError):
            if isinstance(value, float) and datatype not in FLOATS:
                return wrong(name, f"element {place} is not a whole number; {datatype} expects {wanted}")
            return wrong(name, f"element {place} is out of range for {datatype}")
    return wrong(name, f"{datatype} expects {wanted}")


def kind(value: Any) -> str:  # Any: JSON
    """What a JSON value is, in JSON's words; never the value itself."""
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number")


def from_binary(spec: TensorSpec, datatype: str, shape: list[int], data: bytes) -> Tensor:
    """A tensor from its binary form (Triton, extension_binary_data). Raises InvalidTensor."""
    count = check_signature(spec, datatype, shape)
    if datatype == "BYTES":
        if count > MAX_ELEMENTS:
            raise wrong(spec.name, f"shape {shape} has more than {MAX_ELEMENTS} elements of BYTES; send several calls")
        check_strings(spec.name, data, count)
        return spec.name, datatype, shape, data
    expected = count * size_of(datatype)
    if len(data) != expected:
        raise wrong(spec.name, f"shape {shape} of {datatype} takes {expected} bytes of binary data, {len(data)} were given")
    if datatype == "BOOL" and data.translate(None, b"\0\1"):
        raise wrong(spec.name, "binary BOOL data must hold the bytes 0 and 1 only")
    return spec.name, datatype, shape, data


def check_strings(name: str, data: bytes, count: int) -> None:
    """Binary BYTES data must be `count` elements, each after its 4-byte length, and nothing else."""
    at = found = 0
    while at < len(data):
        end = at + 4
        if end > len(data):
            raise wrong(name, f"binary BYTES data is truncated in the length of element {found}")
        at = end + LENGTH.unpack_from(data, at)[0]
        if at > len(data):
            raise wrong(name, f"binary BYTES data is truncated in element {found}")
        found += 1
        if found > count:
            break
    if found != count:
        raise wrong(name, f"binary BYTES data must hold {count} elements, it holds {'more' if found > count else found}")


def split_strings(data: bytes) -> list[bytes]:
    """The elements of BYTES data in the lane's form."""
    elements, at = [], 0
    while at < len(data):
        start = at + 4
        at = start + LENGTH.unpack_from(data, at)[0]
        elements.append(data[start:at])
    return elements


def check_finite(tensor: Tensor, *, is_finite: bool) -> None:
    """Raises OutputNotFinite if the output holds NaN or infinity. `is_finite`: the engine found none in any output."""
    name, datatype, _, _ = tensor
    if not is_finite and (datatype in FLOATS or datatype == BF16) and not np.isfinite(numbers(tensor)).all():
        raise OutputNotFinite(f"output '{name}' holds NaN or infinity, which JSON cannot carry; ask for it as a binary tensor")


def to_json(tensor: Tensor, *, is_finite: bool) -> Any:  # Any: what orjson takes with OPT_SERIALIZE_NUMPY
    """An output's elements, flat and row-major. Raises OutputNotFinite, and ValidationFailed for BYTES that are no text."""
    name, datatype, _, data = tensor
    if datatype == "BYTES":
        try:
            return [element.decode() for element in split_strings(data)]
        except UnicodeDecodeError:
            raise ValidationFailed(f"output '{name}' is not UTF-8 text; ask for it as a binary tensor") from None
    check_finite(tensor, is_finite=is_finite)
    count = len(data) // size_of(datatype)
    if count <= SMALL and datatype not in NARROW:
        return packer(datatype, count).unpack(data)
    return in_pieces(numbers(tensor))


def nested(tensor: Tensor, *, is_finite: bool) -> Any:  # Any: what orjson takes with OPT_SERIALIZE_NUMPY
    """The same, nested as the output's shape."""
    if tensor[1] == "BYTES":
        return np.array(to_json(tensor, is_finite=is_finite), dtype=object).reshape(tensor[2]).tolist()
    check_finite(tensor, is_finite=is_finite)
    array = to_array(tensor)
    return in_pieces(array) if array.ndim else array[()]


def in_pieces(array: "np.ndarray[Any, np.dtype[Any]]") -> Any:  # Any: what orjson takes with OPT_SERIALIZE_NUMPY
    """`array`, its JSON made ahead in pieces if it is large: between two of them other threads may run."""
    return array if array.size <= CHUNK else orjson.Fragment(b"".join(_pieces(array)))


def _pieces(array: "np.ndarray[Any, np.dtype[Any]]") -> Iterator[bytes]:
    if array.size <= CHUNK:
        yield orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
        return
    row = array.size // len(array)
    yield b"["
    for start in range(0, len(array), step := max(1, CHUNK // row)):
        if start:
            yield b","
        if row > CHUNK:
            yield from _pieces(array[start])
        else:
            yield orjson.dumps(array[start : start + step], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    yield b"]"


def numbers(tensor: Tensor) -> "np.ndarray[Any, np.dtype[Any]]":
    """The elements of an output of numbers, flat; BF16 as FP32."""
    _, datatype, _, data = tensor
    if datatype == BF16:
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, TYPES[datatype][2])


def to_array(tensor: Tensor) -> "np.ndarray[Any, np.dtype[Any]]":
    """The same in its shape."""
    return numbers(tensor).reshape(tensor[2])


def rows_of(tensors: list[Tensor], specs: list[TensorSpec], *, has_batch: bool) -> int:
    """The leading dimension that the inputs share; 1 for a version without one. Raises InvalidTensor if they differ."""
    if not has_batch:
        return 1
    rows = tensors[0][2][0]
    if len(specs) == 1:
        return rows
    for tensor, spec in zip(tensors, specs, strict=True):
        if spec.shape[:1] == [-1] and tensor[2][0] != rows:
            raise wrong(
                spec.name, f"its leading dimension is {tensor[2][0]}, that of '{specs[0].name}' is {rows}: they must be equal"
            )
    return rows


def raw_shape(spec: TensorSpec, size: int, *, has_batch: bool) -> list[int]:
    """The shape of a raw binary request's only input (Triton: batch 1, at most one variable dimension; BYTES: one element).

    `size` is the body's length in bytes. Raises InvalidTensor if the shape cannot be known.
    """
    shape = list(spec.shape)
    if has_batch and shape:
        shape[0] = 1
    free = [place for place, dimension in enumerate(shape) if dimension == -1]
    if spec.datatype == "BYTES":
        shape = [1 if dimension == -1 else dimension for dimension in shape]
        if math.prod(shape) != 1:
            raise wrong(spec.name, f"a raw binary request can carry one BYTES element, the model expects {spec.shape}")
        return shape
    if len(free) > 1:
        raise wrong(spec.name, f"a raw binary request needs a shape with one variable dimension at most, not {spec.shape}")
    if free:
        unit = size_of(spec.datatype) * math.prod(dimension for dimension in shape if dimension != -1)
        if not unit or size % unit:
            raise wrong(spec.name, f"{size} bytes do not fill the shape {spec.shape} of {spec.datatype}")
        shape[free[0]] = size // unit
    return shape
