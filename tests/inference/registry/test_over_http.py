"""Uploads to the running platform: streamed through the gateway's process, examined by the ops worker, then served."""

import secrets
import time

import numpy as np
import onnxruntime
import pytest
import requests

from tests.inference.intake.onnx_models import linear
from tests.waiting import PATIENCE

pytestmark = pytest.mark.no_servers


@pytest.fixture
def api(service):
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {service.api_key}"
    session.base = f"{service.base_url}/api/v1/models"
    return session


@pytest.fixture
def name(api):
    name = f"m{secrets.token_hex(6)}"
    assert api.post(api.base, json={"name": name, "task": "tabular"}, timeout=PATIENCE).status_code == 201
    return name


def judged(api, name, version="1.0.0"):
    deadline = time.monotonic() + 60
    while (body := api.get(f"{api.base}/{name}/versions/{version}", timeout=PATIENCE).json())["state"] == "validating":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return body


def test_an_upload_is_examined_and_answers_calls_as_onnxruntime_does(api, name):
    uploaded = api.post(f"{api.base}/{name}/versions", files={"artifact": linear()}, timeout=PATIENCE)
    assert uploaded.status_code == 202

    assert judged(api, name)["state"] == "ready"
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    answer = api.post(f"{api.base}/{name}/predict", json={"inputs": rows.tolist()}, timeout=PATIENCE)

    expected = onnxruntime.InferenceSession(linear()).run(None, {"x": rows})[0]
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(answer.json()["predictions"], expected, rtol=0, atol=1e-5)


def test_a_large_upload_does_not_grow_the_process_that_takes_it(service, api, name):
    """200 MB of something that is no model: streamed, refused by its verdict, and not left in memory."""
    size = 200 << 20
    chunk = secrets.token_bytes(1 << 20)
    boundary = secrets.token_hex(16)  # so long that it is not in the chunk by chance
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="artifact"; filename="m"\r\n\r\n'.encode()
    tail = f"\r\n--{boundary}--\r\n".encode()

    def body():
        yield head
        for _ in range(size >> 20):
            yield chunk
            peaks.append(resident(service))
        yield tail

    peaks = []
    before = resident(service)
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Content-Length": str(len(head) + size + len(tail))}
    request = requests.Request("POST", f"{api.base}/{name}/versions", data=body(), headers=headers)
    prepared = api.prepare_request(request)
    del prepared.headers["Transfer-Encoding"]
    answer = api.send(prepared, timeout=PATIENCE)

    assert answer.status_code == 202, answer.text
    assert max(peaks) - before < 32 << 20
    verdict = judged(api, name)["verdict"]
    assert verdict["code"] == "not_onnx"


def resident(service):
    """Bytes in memory of the gateway's processes together."""
    import os

    gateway = service.process("gateway")
    pids = [gateway]
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == gateway:
            pids.append(int(entry))
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/statm") as file:
            total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def test_an_upload_that_is_too_large_or_without_a_key_is_refused_before_it_is_sent(service, api, name):
    """Only the head is sent; the answer comes all the same."""
    import socket
    from urllib.parse import urlsplit

    address = urlsplit(service.base_url)
    for key, length, status in ((service.api_key, 1 << 40, b"413"), ("maas_live_nonsense", 1000, b"401")):
        with socket.create_connection((address.hostname, address.port), timeout=PATIENCE) as connection:
            head = (
                f"POST /api/v1/models/{name}/versions HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {key}\r\n"
                f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n--b\r\n"
            )
            connection.sendall(head.encode())
            answer = connection.recv(4096)
        assert answer.split(b" ")[1] == status, answer
