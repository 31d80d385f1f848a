"""Tensors between the wire and numpy, for every datatype of the Open Inference Protocol V2 that onnxruntime takes.

On the wire a tensor is (name, datatype, shape, data): little-endian, row-major, without padding; BOOL is one byte, 0 or 1;
each BYTES element is preceded by its length as 4 bytes (Open Inference Protocol V2, extension for binary tensors).
In numpy BYTES is an array of `str` objects, because onnxruntime takes text only, and BF16 the raw bits as uint16.
"""

import math
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from inference.engine.errors import InvalidTensor, ModelFailed
from inference.lanes import Tensor

Array = npt.NDArray[np.generic] | npt.NDArray[np.object_]

DTYPES: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),
}
SIZES = {datatype: dtype.itemsize for datatype, dtype in DTYPES.items()}  # bytes of one element; BYTES has no fixed size
FLOATS = frozenset({"FP16", "FP32", "FP64", "BF16"})
BF16_EXPONENT = 0x7F80  # all ones: infinity or not a number

ORT_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}


def check_length(name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> None:
    """Refuse data that has not exactly the length that datatype and shape say. BYTES is counted when it is decoded."""
    size = SIZES.get(datatype)
    if size is not None and len(data) != size * math.prod(shape):
        raise InvalidTensor(
            f"input {name}: {size * math.prod(shape)} bytes expected for {datatype} {list(shape)}, got {len(data)}"
        )


def decode(name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """The array of a wire tensor; read-only where it shares the data's memory. Raises InvalidTensor."""
    if datatype == "BYTES":
        return _decode_texts(name, shape, data)
    check_length(name, datatype, shape, data)
    if datatype == "BOOL":
        return np.frombuffer(data, np.uint8).astype(np.bool_).reshape(shape)  # any byte but 0 and 1 is no numpy bool
    return np.frombuffer(data, DTYPES[datatype]).reshape(shape)


def _decode_texts(name: str, shape: Sequence[int], data: bytes | memoryview) -> npt.NDArray[np.object_]:
    texts: list[str] = []
    at, end = 0, len(data)
    while at < end:
        if at + 4 > end:
            raise InvalidTensor(f"input {name}: the length of element {len(texts)} is cut off")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4 + length
        if at > end:
            raise InvalidTensor(f"input {name}: element {len(texts)} is {length} bytes long, but the data ends before")
        try:
            texts.append(str(data[at - length : at], "utf-8"))
        except UnicodeDecodeError:
            raise InvalidTensor(f"input {name}: element {len(texts)} is not text in UTF-8") from None
    if len(texts) != math.prod(shape):
        raise InvalidTensor(f"input {name}: {math.prod(shape)} elements expected for {list(shape)}, got {len(texts)}")
    array = np.empty(len(texts), np.object_)
    array[:] = texts
    return array.reshape(shape)


def encode(name: str, datatype: str, array: Array) -> Tensor:
    """The wire tensor of an array that has this datatype."""
    return name, datatype, list(array.shape), encode_data(datatype, array)


def encode_data(datatype: str, array: Array) -> bytes:
    """Only the bytes."""
    if datatype != "BYTES":
        return array.tobytes()
    elements = [text if isinstance(text, bytes) else str(text).encode() for text in array.ravel().tolist()]
    return b"".join([part for element in elements for part in (struct.pack("<I", len(element)), element)])


def is_finite(datatype: str, array: Array) -> bool:
    """False if any number is infinite or not a number."""
    if datatype not in FLOATS:
        return True
    if datatype == "BF16":
        return bool(((array & BF16_EXPONENT) != BF16_EXPONENT).all())  # type: ignore[operator]  # uint16 by construction
    return bool(np.isfinite(array).all())


def check_output(tensor: Tensor) -> None:
    """Refuse a tensor from a customer's child process that is not what it says it is. Raises ModelFailed."""
    name, datatype, shape, data = tensor
    size = SIZES.get(datatype)
    if datatype != "BYTES" and (size is None or min(shape, default=0) < 0 or len(data) != size * math.prod(shape)):
        raise ModelFailed(f"output {name} is not a {datatype} tensor")
