"""The Open Inference Protocol V2 over REST: infer bodies in and out, and the metadata objects.

Sources: kserve/open-inference-protocol (inference_rest) and triton-inference-server (docs/protocol: binary data,
classification, model repository). Parameters that would change an answer and are not supported are refused, never ignored.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson
from msgspec import Meta, Raw, Struct

from inference.gateway import pieces, tensors
from inference.gateway.call import Call, Rendered
from inference.gateway.weight import LIGHT, check_json
from inference.lanes import Reply, Tensor
from inference.routes import ModelRoute, TensorSpec, VersionRoute
from saas.lib.errors import AppError, InvalidRequest, InvalidTensor, ValidationFailed

SERVER = {"name": "model-service", "version": "0.1.0", "extensions": ["binary_tensor_data", "classification", "parameters"]}
PLATFORM = "onnx_onnxv1"  # KServe's name
JSON = (b"content-type", b"application/json")
BINARY = (b"content-type", b"application/octet-stream")
LITERALS = re.compile(rb"NaN|Infinity")
PLACE = re.compile(r"\$\.(inputs|outputs)\[(\d+)\]")
MAX_CLASSES = 100_000  # shown in one answer: rows times classes
EXPLAINED_BYTES = 1 << 20  # a larger body is not parsed a second time only to explain what is wrong in it
Id = Annotated[str, Meta(max_length=1024)]  # characters: answers bring it back, and are stored
Dimension = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class InputTensor(Struct, gc=False):
    name: str
    shape: list[Dimension]
    datatype: str
    data: Any = None  # JSON: flat or nested; checked against the signature by tensors.py
    parameters: dict[str, Any] | None = None  # JSON: only binary_data_size is known


class LargeTensor(Struct, gc=False):
    """The same, its data not decoded yet (pieces.py)."""

    name: str
    shape: list[Dimension]
    datatype: str
    data: Raw = Raw()
    parameters: dict[str, Any] | None = None  # as above


class RequestedOutput(Struct):
    name: str
    parameters: dict[str, Any] | None = None  # JSON: binary_data, classification


class InferRequest(Struct):
    inputs: list[InputTensor]
    id: Id | None = None
    parameters: dict[str, Any] | None = None  # JSON: only binary_data_output is known
    outputs: list[RequestedOutput] | None = None


class LargeRequest(Struct):
    inputs: list[LargeTensor]
    id: Id | None = None
    parameters: dict[str, Any] | None = None  # as above
    outputs: list[RequestedOutput] | None = None


class IndexRequest(Struct):
    ready: bool = False


class Infer(Struct):
    """A checked infer request. `binary` and `classes` are by output name; `is_binary` is for those not named there."""

    inputs: list[Tensor]
    rows: int
    outputs: tuple[str, ...] = ()
    items: None = None
    id: str | None = None
    is_binary: bool = False
    binary: dict[str, bool] = {}
    classes: dict[str, int] = {}


decode = msgspec.json.Decoder(InferRequest).decode
decode_large = msgspec.json.Decoder(LargeRequest).decode


def read_infer(body: bytes, header_length: bytes | None, version: VersionRoute) -> Infer:
    """The request in `body`; `header_length` is Inference-Header-Content-Length. Raises InvalidRequest, InvalidTensor."""
    if header_length is None:
        return _checked(body, parse(body), b"", version)
    size = int(header_length) if header_length.isdigit() and len(header_length) < 12 else -1
    if not 0 <= size <= len(body):
        raise InvalidRequest(f"Inference-Header-Content-Length must be a number from 0 to the body's {len(body)} bytes")
    if size == 0:
        return _read_raw(body, version)
    return _checked(body[:size], parse(body[:size]), body[size:], version)


def parse(body: bytes) -> InferRequest:
    """The request, unchecked; the data of a large one stay Raw. Raises InvalidRequest."""
    check_json(body)
    try:
        return decode(body) if len(body) <= LIGHT else _parse_large(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_placed(body, str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(body, error) from None


def _parse_large(body: bytes) -> InferRequest:
    request = decode_large(body)
    inputs = [
        InputTensor(given.name, given.shape, given.datatype, _undecoded(given.data), given.parameters)
        for given in request.inputs
    ]
    return InferRequest(inputs, request.id, request.parameters, request.outputs)


def _undecoded(data: Raw) -> Any:  # Any: JSON
    if len(data) > LIGHT:
        return data
    return msgspec.json.decode(data) if len(data) else None


def _placed(body: bytes, message: str) -> str:
    """msgspec's message, with the tensor's name in place of its number where the body has one."""
    place = PLACE.search(message)
    if place is None or len(body) > EXPLAINED_BYTES:
        return message
    try:
        name = json.loads(body)[place[1]][int(place[2])]["name"]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return message  # the tensor has no name, or the rest of the body is malformed too
    return f"{place[1][:-1]} '{tensors.printable(str(name))}': {message}"


def _malformed(body: bytes, error: Exception) -> AppError:
    """Why the JSON cannot be read. NaN and Infinity are a common case: the input that holds them is named."""
    found = with_literal(body, lambda inputs: [(given["name"], given.get("data")) for given in inputs])
    if found is not None:
        return tensors.wrong(found, "NaN and Infinity are not JSON numbers; send them as a binary tensor")
    return InvalidRequest(f"The body is not the JSON of an inference request: {error}")


def with_literal(body: bytes, by_name: Callable[[Any], Iterable[tuple[Any, Any]]]) -> str | None:  # Any: JSON
    """The input that holds NaN or Infinity, for a message; None: nobody can tell. `by_name` takes the body's `inputs` apart.

    Raises nothing: a body that is malformed in another way too gets the first parser's message.
    """
    if len(body) > EXPLAINED_BYTES or not LITERALS.search(body):
        return None
    try:
        named = by_name(json.loads(body)["inputs"])
        return next((tensors.printable(str(name)) for name, data in named if LITERALS.search(json.dumps(data).encode())), None)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _checked(head: bytes, request: InferRequest, binary: bytes, version: VersionRoute) -> Infer:
    inputs, specs = request.inputs, version.inputs
    ordered = _in_order(inputs, specs)
    places, rest = _slices(inputs, binary, version)
    # Booleans can only be after the first key "data". No number has the letters t or f, so mostly this ends the question.
    after = head.find(b'"data"') + 6
    from_json = tensors.from_json if len(head) <= LIGHT else pieces.from_json
    may_hold_bools = head.find(b"t", after) >= 0 or head.find(b"f", after) >= 0
    found = [
        from_json(spec, given.datatype, given.shape, given.data, may_hold_bools=may_hold_bools)
        if (part := places.get(given.name)) is None
        else tensors.from_binary(spec, given.datatype, given.shape, part)
        for given, spec in zip(ordered, specs, strict=True)
    ]
    if rest:
        raise _left_over(inputs, rest, version)
    infer = Infer(found, tensors.rows_of(found, specs, has_batch=version.has_batch), id=request.id)
    if request.parameters:
        infer.is_binary = _flag(request.parameters, "binary_data_output", "the request")
    if request.outputs:
        _read_outputs(infer, request.outputs, version)
    return infer


def _in_order(inputs: list[InputTensor], specs: list[TensorSpec]) -> list[InputTensor]:
    """`inputs` in the order of the signature. Raises InvalidTensor for duplicate, unknown and missing ones."""
    if len(inputs) == 1 and len(specs) == 1 and inputs[0].name == specs[0].name:
        return inputs
    expected = ", ".join(f"'{spec.name}'" for spec in specs)
    by_name: dict[str, InputTensor] = {}
    for given in inputs:
        if given.name in by_name:
            raise tensors.wrong(given.name, "it is given twice")
        by_name[given.name] = given
    for name in by_name:
        if not any(spec.name == name for spec in specs):
            raise tensors.wrong(name, f"the model has no such input; it expects {expected}")
    for spec in specs:
        if spec.name not in by_name:
            raise tensors.wrong(spec.name, f"it is missing; the model expects {expected}")
    return [by_name[spec.name] for spec in specs]


def _slices(sent: list[InputTensor], binary: bytes, version: VersionRoute) -> tuple[dict[str, bytes], int]:
    """The binary data of each input that has some, in the order in which they are listed, and how many bytes are left over."""
    places: dict[str, bytes] = {}
    at = 0
    for given in sent:
        if not given.parameters:
            continue
        size = _binary_size(given.name, given.parameters)
        if given.data is not None:
            raise tensors.wrong(given.name, "it has both data and binary_data_size; one is expected")
        if at + size > len(binary):
            said = f"binary_data_size is {size}, but only {len(binary) - at} bytes are left in the body"
            raise tensors.wrong(given.name, said + _expected(given, version))
        places[given.name] = binary[at : at + size]
        at += size
    return places, len(binary) - at


def _left_over(sent: list[InputTensor], rest: int, version: VersionRoute) -> AppError:
    """Why there are `rest` bytes behind the last binary input, all of which are as their shapes say."""
    last = next((given for given in reversed(sent) if given.parameters), None)
    if last is None:
        return InvalidTensor(f"{rest} bytes follow the JSON, but no input has a binary_data_size")
    said = f"{rest} bytes follow its binary data, the last of the body; nothing is expected there"
    return tensors.wrong(last.name, said + _expected(last, version))


def _expected(given: InputTensor, version: VersionRoute) -> str:
    """What the input's shape takes, for a message. Raises InvalidTensor if the shape itself is wrong."""
    spec = next(spec for spec in version.inputs if spec.name == given.name)
    count = tensors.check_signature(spec, given.datatype, given.shape)
    if given.datatype == "BYTES":
        return f"; shape {given.shape} of BYTES takes {count} elements, each after its length"
    return f"; shape {given.shape} of {given.datatype} takes {count * tensors.size_of(given.datatype)} bytes"


def _binary_size(name: str, parameters: dict[str, Any]) -> int:
    for parameter in parameters:
        if parameter != "binary_data_size":
            raise tensors.wrong(name, f"the parameter {parameter[:100]} is not supported")
    size = parameters["binary_data_size"]
    if type(size) is not int or size < 0:
        raise tensors.wrong(name, "binary_data_size must be a number of bytes")
    return size


def _flag(parameters: dict[str, Any], known: str, where: str) -> bool:
    """The boolean parameter `known`; any other is refused."""
    for name in parameters:
        if name != known:
            raise InvalidRequest(f"The parameter {name[:100]} of {where} is not supported")
    flag = parameters.get(known, False)
    if type(flag) is not bool:
        raise InvalidRequest(f"The parameter {known} of {where} must be true or false")
    return flag


def _read_outputs(infer: Infer, outputs: list[RequestedOutput], version: VersionRoute) -> None:
    known = {spec.name: spec for spec in version.outputs}
    for output in outputs:
        name = output.name
        if name not in known:
            expected = ", ".join(f"'{spec}'" for spec in known)
            raise InvalidTensor(f"output '{name[:200]}': the model has no such output; it has {expected}")
        if name in infer.outputs:
            raise InvalidTensor(f"output '{name}': it is requested twice")
        infer.outputs += (name,)
        if output.parameters:
            _read_output_parameters(infer, output.parameters, known[name])


def _read_output_parameters(infer: Infer, parameters: dict[str, Any], spec: TensorSpec) -> None:
    rest = dict(parameters)
    if "classification" in rest:
        count = rest.pop("classification")
        if type(count) is not int or count < 1 or spec.datatype in ("BYTES", "BOOL"):
            said = "classification must be a number of classes, 1 or more, on an output of numbers"
            raise InvalidTensor(f"output '{spec.name}': {said}; without it the output comes as it is")
        infer.classes[spec.name] = count
    if rest:
        infer.binary[spec.name] = _flag(rest, "binary_data", f"output '{spec.name}'")


def _read_raw(body: bytes, version: VersionRoute) -> Infer:
    """A raw binary request: the body is the only input, every output comes back binary."""
    if len(version.inputs) != 1:
        names = ", ".join(f"'{spec.name}'" for spec in version.inputs)
        raise InvalidTensor(f"a raw binary request needs a model with one input; this one expects {names}")
    spec = version.inputs[0]
    data = tensors.LENGTH.pack(len(body)) + body if spec.datatype == "BYTES" else body
    tensor = tensors.from_binary(spec, spec.datatype, tensors.raw_shape(spec, len(body), has_batch=version.has_batch), data)
    return Infer([tensor], tensors.rows_of([tensor], version.inputs, has_batch=version.has_batch), is_binary=True)


def render_infer(infer: Infer, name: str, call: Call, reply: Reply) -> Rendered:
    """The answer, JSON or JSON followed by binary tensors. `name` is the model's as it was called. Raises OutputNotFinite."""
    outputs: list[dict[str, Any]] = []  # JSON
    blobs: list[bytes] = []
    for tensor in reply.outputs or []:
        output = tensor[0]
        if output in infer.classes:
            if not reply.is_finite:
                tensors.check_finite(tensor, is_finite=False)
            tensor = classified(tensor, infer.classes[output], call.version.labels, has_batch=call.version.has_batch)
        shown: dict[str, Any] = {"name": output, "datatype": tensor[1], "shape": tensor[2]}
        if infer.binary.get(output, infer.is_binary):
            shown["parameters"] = {"binary_data_size": len(tensor[3])}
            blobs.append(tensor[3])
        else:
            shown["data"] = tensors.to_json(tensor, is_finite=reply.is_finite)
        outputs.append(shown)
    body: dict[str, Any] = {"model_name": name, "model_version": call.version.number}
    if infer.id is not None:
        body["id"] = infer.id
    body["outputs"] = outputs
    head = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    model_version = (b"x-model-version", call.version.number.encode())
    if not blobs:
        return Rendered(200, [JSON, model_version], head)
    length = (b"inference-header-content-length", b"%d" % len(head))
    return Rendered(200, [BINARY, length, model_version], b"".join((head, *blobs)))


def classified(tensor: Tensor, count: int, labels: list[str], *, has_batch: bool) -> Tensor:
    """The `count` best classes per row as BYTES `value:index[:label]` (Triton, extension_classification)."""
    name, _, shape, _ = tensor
    values = tensors.to_array(tensor)
    rows = values.reshape(shape[0] if has_batch else 1, -1) if values.size else values.reshape(shape[0] if has_batch else 1, 0)
    if len(rows) * min(count, rows.shape[1]) > MAX_CLASSES:
        raise ValidationFailed(f"output '{name}': at most {MAX_CLASSES} classes are shown in one answer; ask for fewer")
    best = np.argsort(-rows.astype("f8"), axis=1, kind="stable")[:, :count]
    texts = [
        f"{row[index]:f}:{index}" + (f":{labels[index]}" if index < len(labels) else "")
        for row, order in zip(rows, best, strict=True)
        for index in order
    ]
    return name, "BYTES", [*shape[:1], best.shape[1]] if has_batch else [best.shape[1]], tensors.pack_strings(name, texts)


def metadata(name: str, route: ModelRoute, version: VersionRoute) -> dict[str, Any]:  # JSON
    """The model metadata object."""

    def shown(specs: list[TensorSpec]) -> list[dict[str, Any]]:
        return [{"name": spec.name, "datatype": spec.datatype, "shape": spec.shape} for spec in specs]

    ready = [number for number, other in route.versions.items() if other.state == "ready"]
    return {
        "name": name,
        "versions": sorted(ready, key=lambda number: [int(part) for part in number.split(".")]),
        "platform": PLATFORM,
        "inputs": shown(version.inputs),
        "outputs": shown(version.outputs),
        "properties": {"model_version": version.number, "task": route.task},
    }


def read_index(body: bytes) -> bool:
    """Whether an index request asks for ready versions only. Raises InvalidRequest."""
    if not body.strip():
        return False
    try:
        return msgspec.json.decode(body, type=IndexRequest).ready
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f'The body must be empty or {{"ready": true or false}}: {error}') from None


def repository_index(routes: list[ModelRoute], *, own: str, is_ready_only: bool) -> list[dict[str, str]]:
    """The repository index of what a key may see; `own` is its organization's slug."""
    states = {"ready": "READY", "validating": "LOADING", "rejected": "UNAVAILABLE"}
    return [
        {
            "name": route.name if route.owner_slug == own else route.full_name,
            "version": version.number,
            "state": states.get(version.state, "UNKNOWN"),
            "reason": "" if version.state == "ready" else version.state,
        }
        for route in routes
        for version in route.versions.values()
        if version.state == "ready" or not is_ready_only
    ]
