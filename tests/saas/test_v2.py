"""The Open Inference Protocol V2, as requests and answers."""

import json
import re
import struct

import msgspec
import numpy as np
import pytest

from tests.saas.serving import DTYPES, READ_ONLY_KEY, request_bytes, tensor

pytestmark = pytest.mark.no_servers

VALUES = {
    "BOOL": [True, False, False, True],
    "INT8": [-128, 127, 0, 1],
    "INT16": [-32768, 32767, 0, 1],
    "INT32": [-(2**31), 2**31 - 1, 0, 1],
    "INT64": [-(2**63), 2**63 - 1, 0, 1],
    "UINT8": [0, 255, 1, 2],
    "UINT16": [0, 65535, 1, 2],
    "UINT32": [0, 2**32 - 1, 1, 2],
    "UINT64": [0, 2**64 - 1, 1, 2],
    "FP16": [0.5, -65504.0, 6.1e-5, 1.0],
    "FP32": [0.1, -3.4e38, 1e-40, 1.0],
    "FP64": [0.1, -1.7e308, 1e-310, 1.0],
}


def binary(head: dict, *parts: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return text + b"".join(parts), {"Inference-Header-Content-Length": str(len(text))}


def split(headers: dict[str, str], data: bytes) -> tuple[dict, bytes]:
    length = int(headers["inference-header-content-length"])
    return json.loads(data[:length]), data[length:]


def test_an_answer_says_what_the_protocol_says(served):
    status, headers, body = served.infer("rows", {"id": "a b", "inputs": [tensor()]})
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert body == {
        "model_name": "rows",
        "model_version": "1.0.0",
        "id": "a b",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.0, 3.0, 4.0]}],
    }


@pytest.mark.parametrize("datatype", VALUES)
def test_every_datatype_goes_through_json_unchanged(served, datatype):
    values = VALUES[datatype]
    expected = np.array(values, DTYPES[datatype]).tolist()
    for data in (values, [values[:2], values[2:]]):
        _, _, body = served.infer(f"echo-{datatype.lower()}", {"inputs": [tensor("x", datatype, (2, 2), data)]})
        assert body["outputs"][0]["datatype"] == datatype
        given = np.array(body["outputs"][0]["data"], DTYPES[datatype]).tolist()
        assert given == pytest.approx(expected, rel=1e-6, abs=0)


@pytest.mark.parametrize("datatype", VALUES)
def test_many_elements_go_through_json_unchanged(served, datatype):
    values = VALUES[datatype] * 100
    _, _, body = served.infer(f"echo-{datatype.lower()}", {"inputs": [tensor("x", datatype, (200, 2), values)]})
    expected = np.array(values, DTYPES[datatype])
    np.testing.assert_allclose(np.array(body["outputs"][0]["data"], DTYPES[datatype]), expected, rtol=1e-6)


@pytest.mark.parametrize("datatype", [*VALUES, "BF16"])
def test_every_datatype_goes_through_binary_unchanged(served, datatype):
    data = b"\x00\x3f\x80\x40\x00\x00\x80\xff" if datatype == "BF16" else np.array(VALUES[datatype], DTYPES[datatype]).tobytes()
    given = tensor("x", datatype, (2, 2), None, parameters={"binary_data_size": len(data)})
    body, headers = binary({"inputs": [given], "parameters": {"binary_data_output": True}}, data)
    status, headers, answer = served.infer(f"echo-{datatype.lower()}", body, headers)
    assert status == 200
    head, rest = split(headers, answer)
    assert rest == data
    assert head["outputs"] == [
        {"name": "y", "datatype": datatype, "shape": [2, 2], "parameters": {"binary_data_size": len(data)}}
    ]


def test_bf16_has_a_json_form_on_the_way_out_only(served):
    given = tensor("x", "BF16", (1, 2), None, parameters={"binary_data_size": 4})
    body, headers = binary({"inputs": [given]}, b"\x80\x3f\x00\x40")
    assert served.infer("echo-bf16", body, headers)[2]["outputs"][0]["data"] == [1.0, 2.0]
    status, _, answer = served.infer("echo-bf16", {"inputs": [tensor("x", "BF16", (1, 2), [1, 2])]})
    assert (status, "binary" in answer["error"]) == (400, True)


def test_bytes_are_text_in_json_and_prefixed_in_binary(served):
    texts = ["", "a", "größe", "😀" * 10]
    _, _, body = served.infer("echo-bytes", {"inputs": [tensor("x", "BYTES", (2, 2), texts)]})
    assert body["outputs"][0]["data"] == texts
    data = b"".join(struct.pack("<I", len(part)) + part for part in (b"", b"\xff\xfe", b"c", b"dd"))
    given = tensor("x", "BYTES", (2, 2), None, parameters={"binary_data_size": len(data)})
    body, headers = binary({"inputs": [given], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}, data)
    _, headers, answer = served.infer("echo-bytes", body, headers)
    assert split(headers, answer)[1] == data
    body, headers = binary({"inputs": [given]}, data)
    status, _, answer = served.infer("echo-bytes", body, headers)
    assert (status, answer["code"]) == (422, "validation_failed")


def test_binary_and_json_inputs_and_outputs_can_be_mixed(served):
    b = np.array([7, 8], "<i8").tobytes()
    inputs = [tensor("b", "INT64", (2,), None, parameters={"binary_data_size": 16}), tensor("a", "FP32", (2, 2), [1, 2, 3, 4])]
    outputs = [{"name": "yb", "parameters": {"binary_data": False}}, {"name": "ya"}]
    body, headers = binary({"inputs": inputs, "outputs": outputs, "parameters": {"binary_data_output": True}}, b)
    _, headers, answer = served.infer("two", body, headers)
    head, rest = split(headers, answer)
    by_name = {output["name"]: output for output in head["outputs"]}
    assert by_name["yb"]["data"] == [7, 8]
    assert rest == np.array([1, 2, 3, 4], "<f4").tobytes()


def test_only_requested_outputs_come_back(served):
    inputs = [tensor("a", "FP32", (1, 2), [1, 2]), tensor("b", "INT64", (1,), [3])]
    _, _, body = served.infer("two", {"inputs": inputs, "outputs": [{"name": "yb"}]})
    assert [output["name"] for output in body["outputs"]] == ["yb"]
    assert served.gateway.calls[-1].outputs == ("yb",)


def test_zero_rows_scalars_and_models_without_a_batch_dimension(served):
    _, _, body = served.infer("rows", {"inputs": [tensor("x", "FP32", (0, 4), [])]})
    assert body["outputs"][0] == {"name": "y", "datatype": "FP32", "shape": [0, 4], "data": []}
    assert served.gateway.calls[-1].rows == 0
    for data in ([5], 5):
        assert served.infer("scalar", {"inputs": [tensor("x", "FP32", (), data)]})[2]["outputs"][0]["data"] == [5.0]
    _, _, body = served.infer("matrix", {"inputs": [tensor("x", "FP32", (2, 2), [[1, 2], [3, 4]])]})
    assert body["outputs"][0]["shape"] == [2, 2]
    assert served.gateway.calls[-1].rows == 1
    _, _, body = served.infer("dynamic", {"inputs": [tensor("x", "FP32", (3, 2), [1, 2, 3, 4, 5, 6])]})
    assert body["outputs"][0]["shape"] == [3, 2]
    assert served.gateway.calls[-1].rows == 3
    given = tensor("x", "FP32", (0, 4), None, parameters={"binary_data_size": 0})
    body, headers = binary({"inputs": [given]})
    assert served.infer("rows", body, headers)[2]["outputs"][0]["shape"] == [0, 4]


def test_a_raw_binary_request_has_no_json(served):
    data = np.array([1, 2, 3, 4], "<f4").tobytes()
    status, headers, answer = served.infer("rows", data, {"Inference-Header-Content-Length": "0"})
    assert status == 200
    head, rest = split(headers, answer)
    assert (head["outputs"][0]["shape"], rest) == ([1, 4], data)
    _, headers, answer = served.infer("dynamic", data, {"Inference-Header-Content-Length": "0"})
    assert split(headers, answer)[0]["outputs"][0]["shape"] == [1, 4]
    for model, body in (("rows", data[:-1]), ("two", data), ("dynamic", data[:-1]), ("echo-bytes", b"abc")):
        status, _, answer = served.infer(model, body, {"Inference-Header-Content-Length": "0"})
        assert (status, answer["code"]) == (400, "invalid_tensor")


def test_classification_gives_the_best_classes_as_text(served):
    outputs = [{"name": "scores", "parameters": {"classification": 2}}]
    _, _, body = served.infer(
        "flowers", {"inputs": [tensor("x", "FP32", (2, 3), [0.1, 0.7, 0.2, 3, 2, 1])], "outputs": outputs}
    )
    assert body["outputs"][0]["datatype"] == "BYTES"
    assert body["outputs"][0]["shape"] == [2, 2]
    assert body["outputs"][0]["data"] == ["0.700000:1:green", "0.200000:2:blue", "3.000000:0:red", "2.000000:1:green"]


def test_an_output_that_is_not_finite_is_carried_by_binary_only(served):
    data = np.array([1, np.nan, np.inf, 4], "<f4").tobytes()
    given = tensor("x", "FP32", (1, 4), None, parameters={"binary_data_size": 16})
    body, headers = binary({"inputs": [given]}, data)
    status, _, answer = served.infer("rows", body, headers)
    assert (status, answer["code"]) == (422, "output_not_finite")
    body, headers = binary({"inputs": [given], "parameters": {"binary_data_output": True}}, data)
    status, headers, answer = served.infer("rows", body, headers)
    assert (status, split(headers, answer)[1]) == (200, data)


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_has_no_best_classes(served, value, is_binary):
    given = tensor("x", "FP32", (1, 3), None, parameters={"binary_data_size": 12})
    outputs = [{"name": "scores", "parameters": {"classification": 2, "binary_data": is_binary}}]
    body, headers = binary({"inputs": [given], "outputs": outputs}, np.array([1, value, 2], "<f4").tobytes())
    status, _, answer = served.infer("flowers", body, headers)
    assert (status, answer["code"]) == (422, "output_not_finite")
    assert "scores" in answer["error"]


X = {"name": "x", "datatype": "FP32", "shape": [1, 4]}


def asking(**parameters):
    """A right request whose one requested output has these parameters."""
    return {"inputs": [X | {"data": [1, 2, 3, 4]}], "outputs": [{"name": "y", "parameters": parameters}]}


MALFORMED = {
    "no JSON": ("rows", b"{", "JSON"),
    "empty body": ("rows", b"", "JSON"),
    "not an object": ("rows", b"[]", "object"),
    "not UTF-8": ("rows", b'{"id": "\xff", "inputs": []}', "JSON"),
    "deeply nested": ("rows", b'{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ' + b"[" * 100_000, ""),
    "no inputs": ("rows", {}, "inputs"),
    "empty inputs": ("rows", {"inputs": []}, "input 'x': it is missing"),
    "inputs not a list": ("rows", {"inputs": {}}, "inputs"),
    "unnamed input": ("rows", {"inputs": [{"shape": [1, 4], "datatype": "FP32", "data": [1]}]}, "name"),
    "no shape": ("rows", {"inputs": [{"name": "x", "datatype": "FP32", "data": [1, 2, 3, 4]}]}, "input 'x'.*shape"),
    "no datatype": ("rows", {"inputs": [{"name": "x", "shape": [1, 4], "data": [1, 2, 3, 4]}]}, "input 'x'.*datatype"),
    "no data": ("rows", {"inputs": [X]}, "input 'x': data is missing"),
    "null data": ("rows", {"inputs": [X | {"data": None}]}, "input 'x': data is missing"),
    "data not a list": ("rows", {"inputs": [X | {"data": {}}]}, "input 'x'.*list"),
    "unknown input": ("rows", {"inputs": [X | {"name": "z", "data": [1, 2, 3, 4]}]}, "input 'z'.*'x'"),
    "duplicate input": ("rows", {"inputs": [X | {"data": [1, 2, 3, 4]}] * 2}, "input 'x'.*twice"),
    "missing input": ("two", {"inputs": [tensor("a", "FP32", (1, 2), [1, 2])]}, "input 'b'.*missing"),
    "wrong datatype": ("rows", {"inputs": [X | {"datatype": "FP64", "data": [1, 2, 3, 4]}]}, "input 'x'.*FP64.*FP32"),
    "unknown datatype": ("rows", {"inputs": [X | {"datatype": "F", "data": [1, 2, 3, 4]}]}, "input 'x'.*FP32"),
    "wrong rank": ("rows", {"inputs": [X | {"shape": [4], "data": [1, 2, 3, 4]}]}, r"input 'x'.*\[-1, 4\]"),
    "wrong shape": ("rows", {"inputs": [X | {"shape": [1, 3], "data": [1, 2, 3]}]}, r"input 'x'.*\[-1, 4\]"),
    "negative dimension": ("rows", {"inputs": [X | {"shape": [-1, 4], "data": []}]}, "input 'x'.*shape"),
    "huge dimension": ("rows", {"inputs": [X | {"shape": [2**40, 4], "data": []}]}, "input 'x'.*shape"),
    "boolean dimension": ("rows", {"inputs": [X | {"shape": [True, 4], "data": []}]}, "input 'x'.*shape"),
    "float dimension": ("rows", {"inputs": [X | {"shape": [1.5, 4], "data": []}]}, "input 'x'.*shape"),
    "too few elements": ("rows", {"inputs": [X | {"data": [1, 2, 3]}]}, "input 'x'.*4 elements, 3"),
    "too many elements": ("rows", {"inputs": [X | {"data": [1, 2, 3, 4, 5]}]}, "input 'x'.*4 elements, 5"),
    "no elements": ("rows", {"inputs": [X | {"data": []}]}, "input 'x'.*4 elements, 0"),
    "ragged": ("rows", {"inputs": [X | {"shape": [2, 4], "data": [[1, 2, 3, 4], [1, 2, 3]]}]}, "input 'x'.*ragged"),
    "half nested": ("rows", {"inputs": [X | {"shape": [2, 4], "data": [[1, 2, 3, 4], 5]}]}, "input 'x'.*ragged"),
    "nested late": ("rows", {"inputs": [X | {"data": [1, 2, 3, [4]]}]}, "input 'x': element 3"),
    "nested too deep": ("rows", {"inputs": [X | {"data": [[[1, 2, 3, 4]]]}]}, "input 'x'"),
    "wrongly nested": ("rows", {"inputs": [X | {"data": [[1, 2], [3, 4]]}]}, "input 'x'"),
    "strings as numbers": ("rows", {"inputs": [X | {"data": ["1", "2", "3", "4"]}]}, "input 'x': element 0 is a string"),
    "null as number": ("rows", {"inputs": [X | {"data": [1, 2, 3, None]}]}, "input 'x': element 3 is null"),
    "object as number": ("rows", {"inputs": [X | {"data": [1, 2, 3, {}]}]}, "input 'x': element 3 is an object"),
    "boolean as number": ("rows", {"inputs": [X | {"data": [1, 2, True, 4]}]}, "input 'x': element 2 is a boolean"),
    "booleans under an escaped key": (
        "rows",
        b'{"inputs":[{"name":"x","d\\u0061ta":[1,2,true,4],"datatype":"FP32","shape":[1,4]}]}',
        "input 'x': element 2 is a boolean",
    ),
    "boolean as integer": ("echo-int64", {"inputs": [tensor("x", "INT64", (1, 2), [1, False])]}, "'x': element 1 is a boolean"),
    "number as boolean": ("echo-bool", {"inputs": [tensor("x", "BOOL", (1, 2), [1, False])]}, "input 'x': element 0"),
    "string as boolean": ("echo-bool", {"inputs": [tensor("x", "BOOL", (1, 2), [True, "false"])]}, "input 'x': element 1"),
    "fraction as integer": ("echo-int64", {"inputs": [tensor("x", "INT64", (1, 2), [1, 2.5])]}, "input 'x': element 1.*whole"),
    "INT8 out of range": ("echo-int8", {"inputs": [tensor("x", "INT8", (1, 2), [1, 128])]}, "input 'x': element 1.*range"),
    "UINT8 negative": ("echo-uint8", {"inputs": [tensor("x", "UINT8", (1, 2), [1, -1])]}, "input 'x': element 1.*range"),
    "INT64 out of range": ("echo-int64", {"inputs": [tensor("x", "INT64", (1, 2), [1, 2**63])]}, "input 'x': element 1.*range"),
    "UINT64 out of range": ("echo-uint64", {"inputs": [tensor("x", "UINT64", (1, 2), [1, 2**64])]}, "input 'x': element 1"),
    "FP32 overflow": ("rows", {"inputs": [X | {"data": [1, 2, 3, 1e39]}]}, "input 'x': element 3.*range"),
    "FP16 overflow": ("echo-fp16", {"inputs": [tensor("x", "FP16", (1, 2), [1, 70000])]}, "input 'x': element 1.*range"),
    "FP64 overflow": ("echo-fp64", b'{"inputs":[{"name":"x","datatype":"FP64","shape":[1,2],"data":[1,1e999]}]}', "'x'.*range"),
    "inputs twice": ("rows", b'{"inputs":[],"inputs":[]}', "'inputs' twice"),
    "NaN literal": ("rows", {"inputs": [X | {"data": [1, 2, 3, float("nan")]}]}, "input 'x': NaN"),
    "Infinity literal": ("rows", {"inputs": [X | {"data": [1, 2, -float("inf"), 4]}]}, "input 'x': NaN and Infinity"),
    "number as text": ("echo-bytes", {"inputs": [tensor("x", "BYTES", (1, 2), ["a", 1])]}, "input 'x': element 1.*string"),
    "lone surrogate": ("echo-bytes", b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1,2],"data":["a","\\ud800"]}]}', ""),
    "id too long": ("rows", {"id": "x" * 1025, "inputs": [X | {"data": [1, 2, 3, 4]}]}, "length <= 1024 .* `..id`"),
    "id not a string": ("rows", {"id": 5, "inputs": [X | {"data": [1, 2, 3, 4]}]}, "id"),
    "unknown output": ("rows", {"inputs": [X | {"data": [1, 2, 3, 4]}], "outputs": [{"name": "z"}]}, "output 'z'.*'y'"),
    "duplicate output": ("rows", {"inputs": [X | {"data": [1, 2, 3, 4]}], "outputs": [{"name": "y"}] * 2}, "output 'y'.*twice"),
    "request parameter": ("rows", {"inputs": [X | {"data": [1, 2, 3, 4]}], "parameters": {"sequence_id": 1}}, "sequence_id"),
    "input parameter": ("rows", {"inputs": [X | {"data": [1, 2, 3, 4], "parameters": {"a": 1}}]}, "input 'x'.*parameter a"),
    "output parameter": (
        "rows",
        {"inputs": [X | {"data": [1, 2, 3, 4]}], "outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
        "output 'y'",
    ),
    "binary flag not a flag": ("rows", asking(binary_data="yes"), "binary_data of output 'y' must be"),
    "unknown beside classification": ("rows", asking(classification=1, labels=True), "labels of output 'y' is not"),
    "classification of no classes": ("rows", asking(classification=0), "output 'y'.*classification.*1 or more"),
    "classification negative": ("rows", asking(classification=-1), "output 'y'.*1 or more"),
    "classification a fraction": ("rows", asking(classification=1.0), "output 'y'.*1 or more"),
    "classification a boolean": ("rows", asking(classification=True), "output 'y'.*1 or more"),
    "classification null": ("rows", asking(classification=None), "output 'y'.*1 or more"),
    "classification a text": ("rows", asking(classification="2"), "output 'y'.*1 or more"),
    "classification of a request": (
        "rows",
        {"inputs": [X | {"data": [1, 2, 3, 4]}], "parameters": {"classification": 2}},
        "classification of the request is not supported",
    ),
    "classification of an input": (
        "rows",
        {"inputs": [X | {"data": [1, 2, 3, 4], "parameters": {"classification": 2}}]},
        "input 'x'.*classification is not supported",
    ),
    "classification of texts": (
        "echo-bytes",
        {
            "inputs": [tensor("x", "BYTES", (1, 2), ["a", "b"])],
            "outputs": [{"name": "y", "parameters": {"classification": 2}}],
        },
        "output 'y'.*on an output of numbers",
    ),
    "binary flag not a boolean": (
        "rows",
        {"inputs": [X | {"data": [1, 2, 3, 4]}], "parameters": {"binary_data_output": 1}},
        "binary_data_output",
    ),
    "size without a binary part": ("rows", {"inputs": [X | {"parameters": {"binary_data_size": 16}}]}, "input 'x'.*0 bytes"),
    "different rows": (
        "two",
        {"inputs": [tensor("a", "FP32", (2, 2), [1, 2, 3, 4]), tensor("b", "INT64", (3,), [1, 2, 3])]},
        "input 'b'.*3.*2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("path", ["/v2/models/rows/infer", "/v2/models/rows/versions/1.0.0/infer"])
def test_another_format_is_refused_by_hot_routes_too(served, path):
    body = json.dumps(asking()).encode()
    assert served.request("POST", f"{path}?format=json", body)[0] == 200
    status, _, answer = served.request("POST", f"{path}?format=csv", body)
    assert (status, json.loads(answer)["code"]) == (422, "validation_failed")
    assert len(served.gateway.calls) == 1


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_input_is_400_and_says_what_is_wrong(served, case):
    model, body, message = MALFORMED[case]
    status, headers, answer = served.infer(model, body)
    assert status == 400, answer
    assert isinstance(answer["error"], str)
    assert answer["code"] in ("invalid_request", "invalid_tensor")
    assert answer["request_id"] == headers["x-request-id"]
    assert re.search(message, answer["error"]), answer["error"]
    assert not served.gateway.calls


SIZED = X | {"parameters": {"binary_data_size": 16}}
BAD_BINARY = {
    "truncated": ({"inputs": [SIZED]}, b"x" * 15, None, "input 'x'.*16.*15"),
    "surplus": ({"inputs": [SIZED]}, b"x" * 17, None, "input 'x'.*1 bytes follow.*shape \\[1, 4\\] of FP32 takes 16"),
    "size too small": (
        {"inputs": [X | {"parameters": {"binary_data_size": 12}}]},
        b"x" * 16,
        None,
        "input 'x'.*FP32 takes 16 bytes.*12",
    ),
    "size too large": (
        {"inputs": [X | {"parameters": {"binary_data_size": 20}}]},
        b"x" * 16,
        None,
        "input 'x'.*binary_data_size is 20.*16 bytes are left.*shape \\[1, 4\\] of FP32 takes 16",
    ),
    "size and shape too large": (
        {"inputs": [X | {"shape": [2**31 - 1] * 9, "parameters": {"binary_data_size": 20}}]},
        b"x" * 16,
        None,
        "input 'x'.*the model expects 2 dimensions",
    ),
    "no size at all": (
        {"inputs": [X | {"data": [1, 2, 3, 4]}]},
        b"x" * 16,
        None,
        "16 bytes follow.*no input.*binary_data_size",
    ),
    "both forms": ({"inputs": [SIZED | {"data": [1, 2, 3, 4]}]}, b"x" * 16, None, "input 'x'.*both"),
    "wrong length": ({"inputs": [X | {"parameters": {"binary_data_size": 12}}]}, b"x" * 12, None, "input 'x'.*16 bytes.*12"),
    "negative size": ({"inputs": [X | {"parameters": {"binary_data_size": -1}}]}, b"", None, "input 'x'.*binary_data_size"),
    "size as text": (
        {"inputs": [X | {"parameters": {"binary_data_size": "16"}}]},
        b"x" * 16,
        None,
        "input 'x'.*binary_data_size",
    ),
    "header too long": ({"inputs": [SIZED]}, b"x" * 16, "100000", "Inference-Header-Content-Length"),
    "header negative": ({"inputs": [SIZED]}, b"x" * 16, "-5", "Inference-Header-Content-Length"),
    "header no number": ({"inputs": [SIZED]}, b"x" * 16, "abc", "Inference-Header-Content-Length"),
    "header too short": ({"inputs": [SIZED]}, b"x" * 16, "10", "JSON"),
}


@pytest.mark.parametrize("case", BAD_BINARY)
def test_bad_binary_requests_are_400(served, case):
    head, data, length, message = BAD_BINARY[case]
    body, headers = binary(head, data)
    if length:
        headers["Inference-Header-Content-Length"] = length
    status, _, answer = served.infer("rows", body, headers)
    assert status == 400
    assert re.search(message, answer["error"]), answer["error"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x05\x00\x00\x00abc",
        b"\x01\x00\x00",
        b"\x01\x00\x00\x00a",
        b"\x00\x00\x00\x00" * 3,
        b"\xff\xff\xff\xffa\x00\x00\x00\x00",
    ],
)
def test_bad_binary_strings_are_400(served, data):
    given = tensor("x", "BYTES", (1, 2), None, parameters={"binary_data_size": len(data)})
    status, _, answer = served.infer("echo-bytes", *binary({"inputs": [given]}, data))
    assert (status, answer["error"][:10]) == (400, "input 'x':")


def test_binary_booleans_are_0_or_1(served):
    given = tensor("x", "BOOL", (1, 2), None, parameters={"binary_data_size": 2})
    assert served.infer("echo-bool", *binary({"inputs": [given]}, b"\x01\x02"))[0] == 400


def test_models_are_found_by_name_owner_version_and_alias(served):
    body = {"inputs": [tensor()]}
    for model in ("rows", "alice/rows", "rows/versions/1.0.0", "rows/versions/stable", "alice/rows/versions/production"):
        status, headers, _ = served.infer(model, body)
        assert (status, headers["x-model-version"]) == (200, "1.0.0"), model
    assert served.infer("alice/rows", body)[2]["model_name"] == "alice/rows"
    for model in ("nothing", "charlie/rows", "rows/versions/9.9.9", "rows/versions/none", "a/b/c", "rows/versions"):
        status, _, answer = served.infer(model, body)
        assert (status, answer["code"]) == (404, "not_found"), model
    status, _, answer = served.infer("rows/versions/2.0.0", body)
    assert (status, answer["code"]) == (409, "state_conflict")


def test_metadata_health_and_index(served):
    def get(path, **kw):
        status, _, body = served.request("GET", path, **kw)
        return status, json.loads(body)

    for path in ("/v2", "/v2/"):
        assert get(path, key=None)[1]["extensions"] == ["binary_tensor_data", "classification", "parameters"]
    assert get("/v2/health/live", key=None) == (200, {"live": True})
    assert get("/v2/health/ready", key=None) == (200, {"ready": True})
    for path in ("/v2/models/rows", "/v2/models/rows/", "/v2/models/rows/versions/1.0.0"):
        status, body = get(path, key=READ_ONLY_KEY)
        assert status == 200
        assert body["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        assert (body["versions"], body["platform"]) == (["1.0.0"], "onnx_onnxv1")
    assert get("/v2/models/alice/rows/ready")[1] == {"name": "alice/rows", "ready": True}
    assert get("/v2/models/rows/versions/2.0.0/ready")[1] == {"name": "rows", "ready": False}
    assert get("/v2/models/rows", key=None)[0] == 401
    assert get("/v2/models/nothing")[0] == 404
    for path in (
        "/v2/models/stats",
        "/v2/logging",
        "/v2/models/rows/config",
        "/v2/trace/setting",
        "/v2/models",
        "/v2/systemsharedmemory/status",
    ):
        status, body = get(path)
        assert (status, isinstance(body["error"], str)) == (404, True), path


def test_the_repository_index_shows_what_the_key_may_see(served):
    def index(body=None, **kw):
        status, _, answer = served.request("POST", "/v2/repository/index", body, **kw)
        return status, json.loads(answer)

    status, models = index()
    assert status == 200
    assert {"name": "rows", "version": "1.0.0", "state": "READY", "reason": ""} in models
    assert {"name": "rows", "version": "2.0.0", "state": "UNAVAILABLE", "reason": "rejected"} in models
    assert any(model["name"] == "catalog/flowers" for model in models)
    assert all(model["state"] == "READY" for model in index(b'{"ready": true}')[1])
    assert index(b'{"ready": 1}')[0] == 400
    assert index(key=None)[0] == 401
    served.gateway.keys["maas_live_one"] = msgspec.structs.replace(served.gateway.keys[READ_ONLY_KEY], models=["rows"])
    assert {model["name"] for model in index(key="maas_live_one")[1]} == {"rows"}


def test_a_trailing_slash_and_a_query_change_nothing(served):
    body = json.dumps({"inputs": [tensor()]}).encode()
    for path in ("/v2/models/rows/infer/", "/v2/models/rows/infer?a=b", "/v2/models/%72ows/infer"):
        assert served.request("POST", path, body)[0] == 200


def test_keys_are_taken_from_both_headers_and_refused_alike(served):
    body = {"inputs": [tensor()]}
    assert served.infer("rows", body, {"X-API-Key": "maas_live_alice"}, key=None)[0] == 200
    assert served.infer("rows", body, {"Authorization": "bearer maas_live_alice"}, key=None)[0] == 200
    for headers, code in (
        ({}, "api_key_missing"),
        ({"Authorization": "Basic YTpi"}, "api_key_missing"),
        ({"Authorization": "Bearer maas_live_wrong"}, "api_key_invalid"),
        ({"X-API-Key": "x"}, "api_key_invalid"),
    ):
        status, answer_headers, answer = served.infer("rows", body, headers, key=None)
        assert (status, answer["code"]) == (401, code)
        assert answer_headers["www-authenticate"].startswith("Bearer")
    status, _, answer = served.infer("rows", body, key=READ_ONLY_KEY)
    assert (status, answer["code"]) == (403, "scope_missing")


def test_a_deciding_header_that_is_given_twice_is_refused(served):
    with served.connect() as raw:
        raw.send(request_bytes("/v2/models/rows/infer", b"{}", "Authorization: Bearer maas_live_other"))
        assert raw.response()[0] == 400
