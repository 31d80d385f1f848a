"""What is asked in each dialect, and which answers count as right."""

import base64
import json
import struct
from pathlib import Path

import pytest

from benchmarks.dialects import Checker, answer, is_close, question, requests
from benchmarks.models import Model

pytestmark = pytest.mark.no_servers

MODEL = Model("m", Path("m.onnx"), "x", "y", [1, 2], [[0.5, 1.5], [2.0, 3.0]], [[0.25, 0.75], [0.5, 0.5]])
DIGITS = Model(
    "d", Path("d.onnx"), "x", "y", [2], [[0.0, 0.0]], [[0.2, 0.8]], labels=["no", "yes"], images=[b"\x89PNG"]
)  # fmt: skip


def v2(data):
    return json.dumps({"id": "1", "outputs": [{"name": "y", "shape": [1, 2], "datatype": "FP32", "data": data}]}).encode()


def test_every_form_of_a_row_says_the_same_numbers():
    assert json.loads(question("v2", MODEL, 1)[1])["inputs"] == [
        {"name": "x", "shape": [1, 1, 2], "datatype": "FP32", "data": [2.0, 3.0]}
    ]
    assert json.loads(question("plain", MODEL, 1)[1]) == {"x": [[[2.0, 3.0]]]}
    assert struct.unpack("<2f", question("raw", MODEL, 1)[1]) == (2.0, 3.0)
    headers, body = question("v2-binary", MODEL, 1)
    head = int(headers["Inference-Header-Content-Length"])
    assert json.loads(body[:head])["inputs"][0]["parameters"] == {"binary_data_size": 8}
    assert struct.unpack("<2f", body[head:]) == (2.0, 3.0)


def test_an_image_is_sent_as_base64():
    image = base64.b64encode(b"\x89PNG").decode()

    assert json.loads(question("predict", DIGITS, 0)[1]) == {"inputs": [image]}
    assert json.loads(question("image", DIGITS, 0)[1]) == {"image": image}


def test_a_whole_request_carries_its_length_and_the_given_headers():
    first, second = requests("/path", "raw", MODEL, {"Authorization": "Bearer k"})
    head, _, body = first.partition(b"\r\n\r\n")

    assert head.startswith(b"POST /path HTTP/1.1\r\nHost: ")
    assert b"\r\nAuthorization: Bearer k\r\n" in head
    assert head.endswith(b"\r\nContent-Length: 8")
    assert body == struct.pack("<2f", 0.5, 1.5)
    assert first != second


@pytest.mark.parametrize(
    ("dialect", "head", "body"),
    [
        ("v2", b"", v2([0.25, 0.75])),
        ("v2-binary", b"HTTP/1.1 200 OK\r\ninference-header-content-length: 3", b"{ }" + struct.pack("<2f", 0.25, 0.75)),
        ("plain", b"", b'{"y": [[0.25, 0.75]]}'),
        ("plain", b"", b"[[0.25, 0.75]]"),
    ],
)
def test_the_row_is_found_in_every_form_of_an_answer(dialect, head, body):
    assert answer(dialect, head, body) == [0.25, 0.75]


def test_a_label_comes_with_its_confidence():
    best = {"label": "yes", "confidence": 0.8}

    assert answer("predict", b"", json.dumps({"predictions": [best]}).encode()) == ["yes", 0.8]
    assert answer("image", b"", json.dumps(best).encode()) == ["yes", 0.8]
    assert DIGITS.right_answers() == [["yes", 0.8]]


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b'{"outputs": []}', b'{"outputs": [{"data": null}]}', b"\xff"])
@pytest.mark.parametrize("dialect", ["v2", "plain", "predict", "image"])
def test_what_is_no_answer_is_told_as_such(dialect, body):
    with pytest.raises(ValueError):
        answer(dialect, b"", body)


@pytest.mark.parametrize(
    ("given", "is_right"),
    [
        ([0.25, 0.75], True),
        ([0.25005, 0.75], True),
        ([0.2502, 0.75], False),
        ([0.25], False),
        ([0.25, 0.75, 0.0], False),
        ([0.25, float("nan")], False),
        (["yes", 0.75], False),
    ],
)
def test_an_answer_is_right_if_all_its_numbers_are(given, is_right):
    assert is_close(given, [0.25, 0.75]) is is_right


def test_a_label_must_be_the_same():
    assert is_close(["yes", 0.80001], ["yes", 0.8])
    assert not is_close(["no", 0.8], ["yes", 0.8])
    assert not is_close(["yes", 0.7], ["yes", 0.8])


def test_an_answer_that_was_right_for_one_sample_is_not_right_for_another():
    checker = Checker("v2", MODEL.right_answers())

    assert checker.is_right(0, b"200", b"", v2([0.25, 0.75]))
    assert checker.is_right(0, b"200", b"", v2([0.25, 0.75]))
    assert not checker.is_right(1, b"200", b"", v2([0.25, 0.75]))


def test_only_status_200_is_right():
    checker = Checker("v2", MODEL.right_answers())
    checker.is_right(0, b"200", b"", v2([0.25, 0.75]))

    assert not checker.is_right(0, b"503", b"", v2([0.25, 0.75]))
    assert checker.fault.startswith("503 ")
