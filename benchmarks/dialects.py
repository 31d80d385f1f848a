"""What is asked of each server, in the form that it takes, and whether it answered right.

| dialect | request | answer |
|---|---|---|
| `v2`, `v2-binary` | Open Inference Protocol V2, JSON or binary tensors | the same |
| `plain` | `{"x": [row]}` | `{"y": [row]}`, or the rows alone |
| `raw` | a row's float32 values, little-endian | as plain |
| `predict` | this service's friendly call with one PNG file in base64 | `{"predictions": [{"label", "confidence"}]}` |
| `image` | `{"image": PNG in base64}` | `{"label", "confidence"}` |
"""

from __future__ import annotations

import base64
import re
import struct
from math import prod
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:  # it would bring onnxruntime into the load generator
    from benchmarks.models import Model

Row = list[float | str]
"""A row of the model's output; or the best label and its confidence."""

TOLERANCE = 1e-4
MAX_REMEMBERED = 10_000  # answers of one sample that were found right; some servers put an id into each
HEADER_LENGTH = "Inference-Header-Content-Length"  # Open Inference Protocol V2, binary tensor data extension
JSON = {"Content-Type": "application/json"}
BINARY = {"Content-Type": "application/octet-stream"}
_header_length = re.compile(rb"inference-header-content-length: *(\d+)", re.IGNORECASE)


def question(dialect: str, model: Model, sample: int) -> tuple[dict[str, str], bytes]:
    """Headers and body of a request with one row: sample number `sample` of the model."""
    if dialect in ("predict", "image"):
        image = base64.b64encode(model.images[sample]).decode()
        return JSON, orjson.dumps({"inputs": [image]} if dialect == "predict" else {"image": image})
    row = model.rows[sample]
    if dialect == "plain":
        return JSON, orjson.dumps({"x": [_nested(row, model.shape)]})
    if dialect == "raw":
        return BINARY, _packed(row)
    tensor: dict[str, Any] = {"name": model.input, "shape": [1, *model.shape], "datatype": "FP32"}
    if dialect == "v2":
        return JSON, orjson.dumps({"inputs": [tensor | {"data": row}]})
    data = _packed(row)
    tensor["parameters"] = {"binary_data_size": len(data)}
    outputs = [{"name": model.output, "parameters": {"binary_data": True}}]
    head = orjson.dumps({"inputs": [tensor], "outputs": outputs})
    return BINARY | {HEADER_LENGTH: str(len(head))}, head + data


def requests(path: str, dialect: str, model: Model, headers: dict[str, str]) -> list[bytes]:
    """One whole HTTP request per sample of the model."""
    made = []
    for sample in range(len(model.rows)):
        own, body = question(dialect, model, sample)
        all_ = {"Host": "127.0.0.1", **headers, **own, "Content-Length": str(len(body))}
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in all_.items()), "", ""]
        made.append("\r\n".join(lines).encode() + body)
    return made


def answer(dialect: str, head: bytes, body: bytes) -> Row:
    """What a body with status 200 brings. Raises ValueError for any other form."""
    try:
        return _answer(dialect, head, body)
    except (LookupError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"not an answer: {body[:100]!r}") from error


def _answer(dialect: str, head: bytes, body: bytes) -> Row:
    if dialect == "v2-binary":
        found = _header_length.search(head)
        data = body[int(found[1]) if found else 0 :]
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    said = orjson.loads(body)
    if dialect == "v2":
        return [float(value) for value in said["outputs"][0]["data"]]
    if dialect in ("predict", "image"):
        best = said["predictions"][0] if dialect == "predict" else said
        return [str(best["label"]), float(best["confidence"])]
    rows = said["y"] if isinstance(said, dict) else said
    return [float(value) for value in rows[0]]


def is_close(given: Row, expected: Row) -> bool:
    """Whether all numbers are within TOLERANCE, and labels are the same. False for NaN, which no comparison holds for."""
    return len(given) == len(expected) and all(
        abs(x - y) <= TOLERANCE if isinstance(x, float) and isinstance(y, float) else x == y
        for x, y in zip(given, expected, strict=True)
    )


class Checker:
    """Whether answers are right. One that came before, byte by byte, was right already: this costs next to nothing."""

    def __init__(self, dialect: str, expected: list[Row]) -> None:
        self.dialect, self.expected = dialect, expected
        self.fault = ""  # the first answer that was wrong
        self._right: list[set[bytes]] = [set() for _ in expected]

    def is_right(self, sample: int, status: bytes, head: bytes, body: bytes) -> bool:
        """Whether this is status 200 with the expected numbers of `sample`."""
        if status == b"200" and body in self._right[sample]:
            return True
        try:
            is_right = status == b"200" and is_close(answer(self.dialect, head, body), self.expected[sample])
        except ValueError:
            is_right = False
        if not is_right:
            self.fault = self.fault or f"{status.decode('latin-1')} {body[:200].decode('utf-8', 'replace')}"
        elif len(self._right[sample]) < MAX_REMEMBERED:
            self._right[sample].add(body)
        return is_right


def _nested(values: list[float], shape: list[int]) -> list[Any]:  # Any: lists as deep as the shape
    if len(shape) == 1:
        return values
    step = prod(shape[1:])
    return [_nested(values[start : start + step], shape[1:]) for start in range(0, len(values), step)]


def _packed(row: list[float]) -> bytes:
    return struct.pack(f"<{len(row)}f", *row)
