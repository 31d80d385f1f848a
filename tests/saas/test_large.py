"""Large bodies: read beside the loop, one after the other, while small calls go on."""

import gzip
import json
import struct
import threading

import pytest

from inference.gateway.weight import LIGHT
from tests.saas.serving import Served, tensor
from tests.waiting import until

pytestmark = pytest.mark.no_servers

ROWS = "/v2/models/rows/infer"
SMALL = json.dumps({"inputs": [tensor()]}).encode()


@pytest.fixture(scope="module")
def spacious():
    with Served(body_max=4 << 20) as served:
        served.request("POST", ROWS, SMALL)
        yield served


@pytest.fixture
def busy(spacious):
    """The thread for large bodies is at work until the test sets `may_go_on`."""
    spacious.may_go_on = threading.Event()
    spacious.on_loop(lambda: spacious.front._thread.run("other", 1, lambda: spacious.may_go_on.wait(60)) and None)
    spacious.gateway.calls.clear()
    yield spacious
    spacious.may_go_on.set()


def binary(name, datatype, shape, data):
    given = tensor(name, datatype, shape, None, parameters={"binary_data_size": len(data)})
    head = json.dumps({"inputs": [given]}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head))}


FLOATS = bytes(4 * 4 * 8000)
LARGE = {
    "JSON tensors": (ROWS, json.dumps({"inputs": [tensor(shape=(8000, 4), data=[0.5] * 32_000)]}).encode(), {}),
    "rows": ("/api/v1/models/flowers/predict", json.dumps({"inputs": [[1.5, 2.5, 3.5]] * 9000}).encode(), {}),
    "a text": ("/api/v1/models/texts/predict", b"word " * 20_000, {"Content-Type": "text/plain"}),
    "strings": ("/v2/models/echo-bytes/infer", *binary("x", "BYTES", (9000, 2), struct.pack("<I4s", 4, b"word") * 18_000)),
    "booleans": ("/v2/models/echo-bool/infer", *binary("x", "BOOL", (40_000, 2), bytes(80_000))),
    "a fingerprint": (ROWS, (made := binary("x", "FP32", (8000, 4), FLOATS))[0], made[1] | {"Idempotency-Key": "k"}),
}


@pytest.mark.parametrize("what", LARGE)
def test_a_large_body_waits_for_its_turn_and_small_calls_do_not(busy, what):
    path, body, headers = LARGE[what]
    assert len(body) > LIGHT
    statuses = []
    sender = threading.Thread(target=lambda: statuses.append(busy.request("POST", path, body, headers)[0]))
    sender.start()
    until(lambda: busy.front._thread._all.jobs == 2)

    assert busy.request("POST", ROWS, SMALL)[0] == 200
    assert not statuses
    busy.may_go_on.set()
    sender.join(60)
    assert statuses == [200]


def test_large_binary_numbers_are_only_cut_and_wait_for_nobody(busy):
    body, headers = binary("x", "FP32", (8000, 4), FLOATS)

    assert busy.request("POST", ROWS, body, headers)[0] == 200


def test_a_large_body_that_is_not_read_in_time_is_504(busy):
    status, _, answer = busy.infer(
        "rows", {"inputs": [tensor(shape=(8000, 4), data=[0.5] * 32_000)]}, {"X-Request-Timeout": "0.01"}
    )

    assert (status, answer["code"]) == (504, "deadline_exceeded")


def test_an_organization_with_too_many_large_bodies_is_told_so(busy, monkeypatch):
    monkeypatch.setattr("inference.gateway.threads.SHARE_JOBS", 1)
    path, body, headers = LARGE["rows"]
    sender = threading.Thread(target=lambda: busy.request("POST", path, body, headers))
    sender.start()
    until(lambda: busy.front._thread._all.jobs == 2)

    status, headers, answer = busy.predict("flowers", body)

    assert (status, answer["code"], answer["limit_source"]) == (429, "concurrency_limited", "organization")
    assert headers["retry-after"] == "1"
    busy.may_go_on.set()
    sender.join(60)


@pytest.mark.parametrize("what", ["large", "index", "metadata", "compressed"])
def test_work_before_admission_takes_from_the_organization_s_allowance(spacious, what):
    path, body, _ = LARGE["JSON tensors"]
    method, path, body, headers = {
        "large": ("POST", path, body, {}),
        "index": ("POST", "/v2/repository/index", b"", {}),
        "metadata": ("GET", "/v2/models/rows", None, {}),
        "compressed": ("POST", path, gzip.compress(SMALL), {"Content-Encoding": "gzip"}),
    }[what]
    assert spacious.request(method, path, body, headers)[0] == 200
    spacious.gateway.is_worn_out = True
    try:
        status, headers, answer = spacious.request(method, path, body, headers)
        assert spacious.request("POST", ROWS, SMALL)[0] == 200  # what memory knows meets only the limits of calls
    finally:
        spacious.gateway.is_worn_out = False

    assert (status, json.loads(answer)["code"], headers["retry-after"]) == (429, "rate_limited", "1")


def test_a_call_that_would_take_long_to_prepare_is_refused_before_anything_is_done(spacious):
    calls = len(spacious.gateway.calls)

    status, _, body = spacious.predict("texts", {"inputs": ["wort und ein " * 200] * 1200})

    assert (status, body["code"]) == (413, "payload_too_large")
    assert "2.5 s" in body["detail"]
    assert len(spacious.gateway.calls) == calls
    assert spacious.predict("texts", {"inputs": ["wort und ein " * 200] * 900})[0] == 200
