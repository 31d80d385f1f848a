"""Uploads on the running platform: slow ones hold up nobody, refused ones are not received, nothing is left behind."""

import os
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.e2e.customers import Customer, identity_model
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.no_servers, pytest.mark.timeout(180)]

BOUNDARY = "b" * 20
EACH = 16  # uploads of one organization at the same time


def form(artifact: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="artifact"; filename="m.onnx"\r\n\r\n'
    return head.encode() + artifact + f"\r\n--{BOUNDARY}--\r\n".encode()


class Sending:
    """An upload over a bare connection: its head, and after that what the test sends."""

    def __init__(self, service, name, length, headers):
        self.socket = socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE)
        lines = [
            f"POST /api/v1/models/{name}/versions HTTP/1.1",
            "Host: localhost",
            "Expect: 100-continue",
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
            f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def status(self) -> int:
        """Of the next answer, which is 100 where the body is wanted; answers must not come together."""
        data = b""
        while b"\r\n\r\n" not in data:
            received = self.socket.recv(1 << 16)
            assert received, "closed"
            data += received
        return int(data.split()[1])


@pytest.fixture
def sending(service):
    """Starts an upload of a customer's."""
    with ExitStack() as stack:

        def start(customer, name="own", length=10_000_000, headers=None):
            upload = Sending(service, name, length, headers or customer.session)
            stack.callback(upload.socket.close)
            return upload

        yield start


@pytest.fixture
def customers(service):
    made = [Customer(service) for _ in range(3)]
    for customer in made:
        assert customer.post("models", json={"name": "own"}).status_code == 201
    return made


def test_slow_uploads_of_several_organizations_hold_up_nobody(service, customers, sending):
    *slow, alice = customers
    for customer in slow:
        for _ in range(EACH):
            upload = sending(customer)
            assert upload.status() == 100
            upload.socket.sendall(form(b"")[:50])

    model = identity_model()
    files = {"artifact": model}
    assert alice.post("models/own/versions", files=files).status_code == 202
    assert slow[0].get("models").status_code == 200
    upload = sending(slow[0])
    assert upload.status() == 429


def test_several_uploads_of_one_organization_are_all_taken(customers):
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: customers[0].post("models/own/versions", files={"artifact": identity_model()}), range(8))
        )
    assert [answer.status_code for answer in answers] == [202] * 8
    assert len({answer.json()["version"] for answer in answers}) == 8


def test_an_upload_is_refused_before_its_body_where_its_head_says_enough(customers, sending):
    alice, charlie, _ = customers
    reader = {"X-API-Key": alice.key(name="reader", scopes=["models:read"])}

    assert sending(alice, headers={"X-API-Key": "maas_live_invented"}).status() == 401
    assert sending(alice, headers=reader).status() == 403
    assert sending(charlie, name=f"{alice.slug}/own").status() == 404
    assert sending(alice, length=1 << 31).status() == 413
    assert sending(alice).status() == 100


def test_a_chunked_upload_is_taken(customers, sending):
    upload = sending(customers[0], length=None)
    assert upload.status() == 100
    body = form(identity_model())
    for part in (body[:100], body[100:]):
        upload.socket.sendall(b"%x\r\n%b\r\n" % (len(part), part))
    upload.socket.sendall(b"0\r\n\r\n")
    assert upload.status() == 202


def test_a_page_s_upload_needs_its_token_in_the_head(service):
    browser = requests.Session()
    address = f"{service.base_url}/_allauth/browser/v1"
    browser.get(f"{address}/config", timeout=PATIENCE)
    account = {"email": f"{secrets.token_hex(6)}@example.org", "password": secrets.token_urlsafe(16)}

    def post(path, **options):
        headers = {"X-CSRFToken": browser.cookies["csrftoken"], "Referer": service.base_url}
        return browser.post(path, headers=headers, timeout=PATIENCE, **options)

    assert post(f"{address}/auth/signup", json=account).status_code == 200
    models = f"{service.base_url}/api/v1/models"
    assert post(models, json={"name": "own"}).status_code == 201

    token = browser.cookies["csrftoken"]
    files = {"artifact": identity_model()}
    for form in ({}, {"csrfmiddlewaretoken": token}):
        assert browser.post(f"{models}/own/versions", files=files, data=form, timeout=PATIENCE).status_code == 403
    assert post(f"{models}/own/versions", files=files).status_code == 202


def test_a_killed_gateway_leaves_nothing_of_uploads_that_arrived(service, customers, sending):
    uploads = [sending(customers[0]) for _ in range(3)]
    for upload in uploads:
        assert upload.status() == 100
        upload.socket.sendall(form(b"x" * 300_000)[:-30])
    pids = family(service.process("gateway"))
    folder = service.data_dir / "uploads"

    def held():
        return [target for pid in pids for target in files_of(pid) if target.startswith(str(folder))]

    until(lambda: len(held()) == 3)
    assert all(target.endswith("(deleted)") for target in held())
    service.kill("gateway")
    until(lambda: not any(map(files_of, pids)))  # its workers serve until they see that it is gone
    until(lambda: is_ready(service))
    assert list(folder.iterdir()) == []


def family(pid):
    """The process and its children."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def files_of(pid):
    """What the process has open; nothing, if it is gone or just ending: then only root may look."""
    try:
        return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    except (FileNotFoundError, PermissionError):
        return []


def is_ready(service):
    try:
        return requests.get(f"{service.base_url}/readyz", timeout=PATIENCE).status_code == 200
    except requests.ConnectionError:
        return False
