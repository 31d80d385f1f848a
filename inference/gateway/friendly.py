"""The friendly call: rows, images or text in, by the model's task; labels with confidence out.

JSON `{"inputs": …, "top"?: k}`, multipart files, a bare image or a bare text. What the engine prepares (images, texts) travels
as `items`; numbers travel as tensors, checked here.
"""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson
from msgspec import Meta, Raw, Struct
from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header

from inference.effort import prepare_us
from inference.gateway import tensors
from inference.gateway.call import Call, Rendered
from inference.gateway.v2 import JSON, with_literal
from inference.gateway.weight import LIGHT, check_json
from inference.lanes import Prediction, Reply, Tensor
from inference.routes import ModelRoute, TensorSpec, VersionRoute
from saas.lib.errors import AppError, InvalidRequest, InvalidTensor, ModelFailed, PayloadTooLarge, UnsupportedMediaType
from saas.lib.fingerprints import READ_AS_JSON, kind_of

IMAGES, TEXTS = "image-classification", "text-classification"
MAX_TOP = 1000
MAX_ROWS = 10_000  # of one call
MAX_PREPARE_US = 2e6  # expected for the items of one call
MAX_LABELS = 100_000  # shown in one answer: rows times top
MAX_DEPTH = 8
MAX_FILES = 1000
FORM = f"The form must hold 1 to {MAX_FILES} files named file or image, and may hold the field top"
FORM_LIMITS = {"MAX_MEMORY_FILE_SIZE": 1 << 40, "MAX_FIELDS": 8, "MAX_FIELD_SIZE": 64}  # in memory: the body is there already


class PredictRequest(Struct, forbid_unknown_fields=True):
    inputs: Any  # JSON, by task
    top: Annotated[int, Meta(ge=1, le=MAX_TOP)] | None = None


class LargeRequest(Struct, forbid_unknown_fields=True):
    inputs: Raw
    top: Annotated[int, Meta(ge=1, le=MAX_TOP)] | None = None


class Predict(Struct):
    """A checked friendly request: `inputs` or `items`; `top` is None where it was not asked for."""

    rows: int
    inputs: list[Tensor] | None = None
    items: list[bytes | str] | None = None
    prepare_us: float = 0.0
    outputs: tuple[str, ...] = ()
    top: int | None = None


decode = msgspec.json.Decoder(PredictRequest).decode
decode_large = msgspec.json.Decoder(LargeRequest).decode
decode_rows = msgspec.json.Decoder(list[Raw]).decode
holds_rows = re.compile(rb'\s*\[\s*[\[{"]').match


def read_predict(body: bytes, content_type: str, top: str | None, route: ModelRoute, version: VersionRoute) -> Predict:
    """The request in `body`; `top` is the query parameter. Raises InvalidRequest, InvalidTensor, UnsupportedMediaType."""
    kind = kind_of(content_type)
    if kind == "multipart/form-data":
        predict = _of_items(*_read_form(body, content_type), route)
    elif kind.startswith("image/"):
        predict = _of_items([body], None, route, wanted=IMAGES)
    elif kind == "text/plain":
        predict = _of_items([_text(body)], None, route, wanted=TEXTS)
    elif kind in READ_AS_JSON:
        predict = _read_json(body, route, version)
    else:
        raise UnsupportedMediaType(f"{kind[:100]} is not supported; send application/json, multipart/form-data or an image")
    if top is not None:
        predict.top = _top(top)
    if not predict.outputs and (version.labels or route.task != "tensor" or len(version.outputs) == 1) and version.output:
        predict.outputs = (version.output,)
    check_rows(predict.rows)
    if predict.items:
        predict.prepare_us = prepare_us(predict.items)
        check_preparation(predict.prepare_us)
    shown = min(predict.top or 1, len(version.labels) or MAX_TOP)
    if predict.rows * shown > MAX_LABELS:
        raise InvalidRequest(f"{predict.rows} rows with {shown} labels each were asked for; at most {MAX_LABELS} are shown")
    return predict


def check_preparation(expected_us: float) -> None:
    """Raises PayloadTooLarge for items that would keep a model from its other callers."""
    if expected_us > MAX_PREPARE_US:
        raise PayloadTooLarge(
            f"To prepare these items would take about {expected_us / 1e6:.1f} s; one call may bring {MAX_PREPARE_US / 1e6:g} s "
            "of them: send fewer in each of several calls"
        )


def check_rows(count: int) -> None:
    """Raises InvalidRequest for more rows than one call may bring."""
    if count > MAX_ROWS:
        raise InvalidRequest(
            f"{count} rows were given; this form of call takes at most {MAX_ROWS}. Send several calls, or binary tensors to /v2"
        )


def _top(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 6 or not 1 <= int(text) <= MAX_TOP:
        raise InvalidRequest(f"top must be a whole number from 1 to {MAX_TOP}")
    return int(text)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("The text is not UTF-8") from None


def _of_items(items: list[bytes | str], top: int | None, route: ModelRoute, *, wanted: str = IMAGES) -> Predict:
    if route.task != wanted:
        raise InvalidRequest(f"{route.full_name} is a model for {route.task}; this form of request is for {wanted}")
    if not items:
        raise InvalidRequest("inputs is empty: at least one item is expected")
    return Predict(len(items), items=items, top=top)


def _read_form(body: bytes, content_type: str) -> tuple[list[bytes | str], int | None]:
    """The files named `file` or `image` of a multipart body, in order, and the field `top`."""
    files: list[bytes | str] = []
    fields: dict[bytes, bytes] = {}
    ends: list[bool] = []

    def on_file(file: File) -> None:
        if file.field_name not in (b"file", b"image") or len(files) >= MAX_FILES:
            raise InvalidRequest(FORM)
        file.file_object.seek(0)
        files.append(file.file_object.read())
        file.close()

    def on_field(field: Field) -> None:
        fields[field.field_name or b""] = field.value or b""

    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidRequest("The multipart body has no boundary")
    try:
        parser = FormParser(
            "multipart/form-data", on_field, on_file, lambda: ends.append(True), boundary=boundary, config=FORM_LIMITS
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"The multipart body cannot be read: {error}") from None
    if not ends:
        raise InvalidRequest("The multipart body is truncated")
    if not files or set(fields) - {b"top"}:
        raise InvalidRequest(FORM)
    return files, _top(fields[b"top"].decode("latin-1")) if fields else None


def _read_json(body: bytes, route: ModelRoute, version: VersionRoute) -> Predict:
    check_json(body)
    try:
        request = decode(body) if len(body) <= LIGHT else _decode_large(body, version)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(body, version, error) from None
    inputs, task = request.inputs, route.task
    if task == TEXTS and not isinstance(inputs, dict):
        return _read_texts(inputs, request.top)
    if task == IMAGES and (isinstance(inputs, str) or (isinstance(inputs, list) and inputs and isinstance(inputs[0], str))):
        images = inputs if isinstance(inputs, list) else [inputs]
        check_rows(len(images))
        decoded: list[bytes | str] = [_image(place, image) for place, image in enumerate(images)]
        return Predict(len(decoded), items=decoded, top=request.top)
    found = _read_tensors(inputs, version)
    return Predict(tensors.rows_of(found, version.inputs, has_batch=version.has_batch), inputs=found, top=request.top)


def _malformed(body: bytes, version: VersionRoute, error: Exception) -> AppError:
    """Why the JSON cannot be read; the input that holds NaN or Infinity is named."""
    only = version.inputs[0].name if len(version.inputs) == 1 else None
    found = with_literal(body, lambda inputs: inputs.items() if only is None else [(only, inputs)])
    if found is not None:
        return tensors.wrong(found, "NaN and Infinity are not JSON numbers; send them to /v2, as a binary tensor")
    return InvalidRequest(f"The body is not JSON: {error}")


def _decode_large(body: bytes, version: VersionRoute) -> PredictRequest:
    """The same as `decode`, row by row, so that other threads may run; more than MAX_ROWS are refused before they are made.

    Raises what msgspec raises, too.
    """
    request = decode_large(body)
    if not version.has_batch or not holds_rows(request.inputs):
        return PredictRequest(msgspec.json.decode(request.inputs), request.top)
    rows = decode_rows(request.inputs)
    check_rows(len(rows))
    return PredictRequest([msgspec.json.decode(row) for row in rows], request.top)


def _read_texts(inputs: Any, top: int | None) -> Predict:  # Any: JSON
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, list):
        raise InvalidRequest("inputs must be a text or a list of texts")
    check_rows(len(texts))
    for place, text in enumerate(texts):
        if type(text) is not str:
            raise InvalidTensor(f"inputs[{place}] must be a text, not {tensors.kind(text)}")
    return Predict(len(texts), items=texts, top=top)


def _image(place: int, text: Any) -> bytes:  # Any: JSON
    """An image file from base64, with or without a `data:` prefix."""
    if type(text) is not str:
        raise InvalidTensor(f"inputs[{place}] must be an image in base64, not {tensors.kind(text)}")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        image = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidTensor(f"inputs[{place}] is not valid base64: an image file in base64 is expected") from None
    if not image:
        raise InvalidTensor(f"inputs[{place}] is empty: an image file in base64 is expected")
    return image


def _read_tensors(inputs: Any, version: VersionRoute) -> list[Tensor]:  # Any: JSON
    specs = version.inputs
    if len(specs) == 1 or not isinstance(inputs, dict) or not any(spec.name in inputs for spec in specs):
        if len(specs) != 1:
            expected = ", ".join(f"'{spec.name}'" for spec in specs)
            raise InvalidTensor(f"inputs must be an object with the model's inputs {expected}")
        spec = specs[0]
        if isinstance(inputs, dict) and list(inputs) == [spec.name] and not version.features:
            inputs = inputs[spec.name]
        return [_tensor(spec, _rows(inputs, version), version)]
    for name in inputs:
        if not any(spec.name == name for spec in specs):
            raise tensors.wrong(name, "the model has no such input")
    for spec in specs:
        if spec.name not in inputs:
            raise tensors.wrong(spec.name, "it is missing")
    return [_tensor(spec, inputs[spec.name], version) for spec in specs]


def _rows(inputs: Any, version: VersionRoute) -> Any:  # Any: JSON
    """Objects by feature name become lists in the order of the features."""
    features = version.features
    if isinstance(inputs, dict):
        inputs = [inputs]
    if not features or not isinstance(inputs, list) or not any(type(row) is dict for row in inputs):
        return inputs
    check_rows(len(inputs))
    rows = []
    for place, row in enumerate(inputs):
        if type(row) is not dict:
            raise InvalidTensor(f"inputs[{place}] must be an object like the others, not {tensors.kind(row)}")
        for feature in features:
            if feature not in row:
                raise InvalidTensor(f"inputs[{place}] has no {feature}; expected are {', '.join(features[:50])}")
        if len(row) != len(features):
            unknown = next(name for name in row if name not in features)
            raise InvalidTensor(
                f"inputs[{place}] has the unknown feature {unknown[:100]}; expected are {', '.join(features[:50])}"
            )
        rows.append([row[feature] for feature in features])
    return rows


def _tensor(spec: TensorSpec, data: Any, version: VersionRoute) -> Tensor:  # Any: JSON
    """A tensor whose shape is read off the nesting; one row may come without its batch dimension."""
    shape: list[int] = []
    inner = data
    while type(inner) is list and len(shape) < MAX_DEPTH:
        shape.append(len(inner))
        inner = inner[0] if inner else None
    if shape and shape[-1] == 0 and len(shape) == 1 and version.has_batch:
        shape = [0, *(0 if dimension == -1 else dimension for dimension in spec.shape[1:])]
    fitted = _fitted(shape, spec, version)
    if version.has_batch and fitted:
        check_rows(fitted[0])
    flat = tensors.flatten(spec.name, shape, data)
    return tensors.from_json(spec, spec.datatype, fitted, flat, may_hold_bools=True)


def _fitted(shape: list[int], spec: TensorSpec, version: VersionRoute) -> list[int]:
    """`shape` with the batch dimension, and with dimensions of size 1, that the model expects and the caller left out."""
    if len(shape) == len(spec.shape) or not version.has_batch:
        return shape
    if len(shape) == len(spec.shape) - 1 and all(want in (-1, have) for have, want in zip(shape, spec.shape[1:], strict=True)):
        return [1, *shape]
    row = [dimension for dimension in spec.shape[1:] if dimension != 1]
    if -1 not in row:
        if shape == row:
            return [1, *spec.shape[1:]]
        if shape[1:] == row:
            return [shape[0], *spec.shape[1:]]
    return shape


def render_predict(predict: Predict, name: str, call: Call, reply: Reply) -> Rendered:
    """The answer: `{"model", "version", "predictions"}`. Raises OutputNotFinite."""
    body = {"model": name, "version": call.version.number, "predictions": _predictions(predict, call, reply)}
    headers = [JSON, (b"x-model-version", call.version.number.encode())]
    return Rendered(200, headers, orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY))


def _predictions(predict: Predict, call: Call, reply: Reply) -> Any:  # Any: what orjson takes
    number = _number_of(call.version)
    if reply.predictions is not None:
        return [_shown(best, predict.top, number) for best in reply.predictions]
    outputs = reply.outputs or []
    labels = call.version.labels
    if labels and len(outputs) == 1 and outputs[0][1] in tensors.FLOATS:
        rows = ranked(outputs[0], labels, predict.top or 1, is_finite=reply.is_finite)
        return [_shown(best, predict.top, number) for best in rows]
    if len(outputs) == 1:
        return tensors.nested(outputs[0], is_finite=reply.is_finite)
    return {output[0]: tensors.nested(output, is_finite=reply.is_finite) for output in outputs}


def ranked(tensor: Tensor, labels: list[str], top: int, *, is_finite: bool) -> list[list[Prediction]]:
    """The `top` best labels of each row of scores, (n, labels), best first."""
    tensors.check_finite(tensor, is_finite=is_finite)
    scores = tensors.to_array(tensor)
    if scores.ndim == 1:
        scores = scores[None, :]
    if scores.ndim != 2 or scores.shape[1] != len(labels):
        raise ModelFailed(f"output '{tensor[0]}' has the shape {tensor[2]}, which does not fit {len(labels)} labels")
    best = np.argsort(-scores.astype("f8"), axis=1, kind="stable")[:, :top]
    return [[Prediction(labels[index], float(row[index])) for index in order] for row, order in zip(scores, best, strict=True)]


def _number_of(version: VersionRoute) -> Callable[[float], Any]:  # Any: what orjson takes with OPT_SERIALIZE_NUMPY
    """How confidences are written: those of an FP64 output in full, others in the digits of an FP32."""
    is_double = any(spec.name == version.output and spec.datatype == "FP64" for spec in version.outputs)
    return float if is_double else np.float32


def _shown(best: list[Prediction], top: int | None, number: Callable[[float], Any]) -> dict[str, Any]:  # JSON
    shown: dict[str, Any] = {"label": best[0].label, "confidence": number(best[0].confidence)}
    if top is not None:
        shown["top"] = [{"label": each.label, "confidence": number(each.confidence)} for each in best[:top]]
    return shown
