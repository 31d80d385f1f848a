"""Requests on their way to Django: whose turn it is, what waits without a thread, what is refused."""

import asyncio
import threading

import orjson
import pytest

from inference.gateway.metrics import Metrics
from saas import management
from saas.management import Management, caller_of
from tenants import keys
from tests.waiting import PATIENCE, until_async

pytestmark = pytest.mark.no_servers

UPLOAD = "/api/v1/models/iris/versions"


class Slow:
    """A WSGI application whose requests stay in their threads until `go_on` is set; `seen` are their paths and bodies."""

    def __init__(self):
        self.seen, self.go_on, self.has_left = [], threading.Event(), None

    def __call__(self, environ, start_response):
        self.seen.append((environ["PATH_INFO"], b"" if "upload" in environ["HTTP_AS"] else environ["wsgi.input"].read()))
        if watch := environ["asgi.scope"].get("watch_client"):
            self.has_left = watch()
        assert self.go_on.wait(PATIENCE)
        start_response("200 OK", [])
        return [b"done"]


class Client:
    """One request; its body comes as the test says."""

    def __init__(self, management, caller, path="/api/v1/usage", method="GET", headers=(), body=b""):
        self.messages, self.sent = asyncio.Queue(), []
        if body is not None:
            self.messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
        scope = {
            "type": "http", "method": method, "path": path, "query_string": b"", "http_version": "1.1", "client": (caller, 1),
            "headers": [(b"as", b"upload" if path == UPLOAD else b""), *headers],
        }  # fmt: skip
        self.metrics = Metrics("")
        self.task = asyncio.create_task(management.answer(scope, self.messages.get, self._send, self.metrics))

    async def _send(self, message):
        self.sent.append(message)

    def leave(self):
        self.messages.put_nowait({"type": "http.disconnect"})

    async def answer(self):
        """(status, code, headers)"""
        async with asyncio.timeout(PATIENCE):
            await self.task
        start = self.sent[0]
        body = b"".join(message["body"] for message in self.sent[1:])
        code = orjson.loads(body)["code"] if body.startswith(b"{") else ""
        return start["status"], code, dict(start["headers"])


@pytest.fixture
async def slow():
    slow = Slow()
    yield slow
    slow.go_on.set()
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(left, timeout=PATIENCE)


@pytest.fixture
def managed(slow):
    return Management(slow, threads=4, body_max=1 << 20)


async def test_one_caller_s_requests_leave_threads_to_others(managed, slow):
    mine = [Client(managed, "mallory", "/mallory") for _ in range(20)]
    await until_async(lambda: len(slow.seen) == 2)
    other = Client(managed, "alice", "/alice")
    await until_async(lambda: len(slow.seen) == 3)

    assert [path for path, _ in slow.seen] == ["/mallory", "/mallory", "/alice"]
    slow.go_on.set()
    assert [(await client.answer())[0] for client in (*mine, other)] == [200] * 21


async def test_callers_take_turns(slow):
    managed = Management(slow, threads=1, body_max=1 << 20)
    first = [Client(managed, "mallory", "/mallory") for _ in range(5)]
    await until_async(lambda: len(slow.seen) == 1)
    other = Client(managed, "alice", "/alice")
    await until_async(lambda: "address alice" in managed._turns._waiting)
    slow.go_on.set()

    assert [(await client.answer())[0] for client in (*first, other)] == [200] * 6
    assert [path for path, _ in slow.seen].index("/alice") == 2


async def test_a_request_whose_client_leaves_before_its_turn_is_not_done(managed, slow):
    running = [Client(managed, "mallory") for _ in range(2)]
    waiting = [Client(managed, "mallory", "/left") for _ in range(30)]
    await until_async(lambda: len(slow.seen) == 2)
    for client in waiting:
        client.leave()
    await asyncio.wait([client.task for client in waiting], timeout=PATIENCE)
    slow.go_on.set()

    assert [(await client.answer())[0] for client in running] == [200] * 2
    assert (len(slow.seen), [client.sent for client in waiting]) == (2, [[]] * 30)
    assert not managed._turns._present


async def test_beyond_its_share_a_caller_is_told_to_wait(managed, slow):
    for _ in range(management.PRESENT_EACH):
        Client(managed, "mallory")
    await until_async(lambda: len(slow.seen) == 2)
    refused = Client(managed, "mallory")
    status, code, headers = await refused.answer()

    assert (status, code, headers[b"retry-after"]) == (429, "concurrency_limited", b"1")
    assert refused.metrics._requests == {("GET", "", 429, "concurrency_limited"): 1}


async def test_beyond_all_places_to_wait_the_platform_is_at_capacity(managed, slow, monkeypatch):
    monkeypatch.setattr(managed._turns, "_present_most", 2)
    for name in ("alice", "bob"):
        Client(managed, name)

    assert (await Client(managed, "charlie").answer())[:2] == (503, "capacity_exhausted")


async def test_a_body_on_its_way_holds_no_thread(managed, slow):
    trickling = [Client(managed, f"mallory{n}", "/body", method="POST", body=None) for n in range(20)]
    for client in trickling:
        client.messages.put_nowait({"type": "http.request", "body": b"ab", "more_body": True})
    await until_async(lambda: managed._bodies._held.total() == 40)
    slow.go_on.set()
    assert (await Client(managed, "alice").answer())[0] == 200
    for client in trickling:
        client.messages.put_nowait({"type": "http.request", "body": b"c", "more_body": False})

    assert [(await client.answer())[0] for client in trickling] == [200] * 20
    assert slow.seen == [("/api/v1/usage", b""), *[("/body", b"abc")] * 20]
    assert not managed._bodies._held


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_no_route_takes_is_refused(managed, slow, declared):
    headers = [(b"content-length", b"9000000")] if declared else [(b"transfer-encoding", b"chunked")]
    client = Client(managed, "alice", method="POST", headers=headers, body=None)
    if not declared:
        client.messages.put_nowait({"type": "http.request", "body": bytes(9_000_000), "more_body": True})
    status, code, answered = await client.answer()

    assert (status, code, answered[b"connection"], slow.seen) == (413, "payload_too_large", b"close", [])


async def test_bodies_in_memory_are_bounded(managed, monkeypatch):
    monkeypatch.setattr(management, "MAX_BYTES", 10)
    client = Client(managed, "alice", method="POST", body=bytes(11))

    assert (await client.answer())[:2] == (503, "capacity_exhausted")


async def test_uploads_hold_none_of_the_others_threads_and_have_a_share_of_their_own(managed, slow):
    uploads = [Client(managed, f"mallory{n // 2}", UPLOAD, method="POST", body=None) for n in range(management.UPLOADS)]
    await until_async(lambda: len(slow.seen) == management.UPLOADS)
    third = Client(managed, "mallory0", UPLOAD, method="POST", body=None)
    other = Client(managed, "alice", UPLOAD, method="POST", body=None)
    assert (await third.answer())[:2] == (429, "concurrency_limited")
    assert (await other.answer())[:2] == (503, "capacity_exhausted")
    read = [Client(managed, name) for name in ("alice", "mallory0")]
    await until_async(lambda: len(slow.seen) == management.UPLOADS + 2)
    slow.go_on.set()

    assert [(await client.answer())[0] for client in (*uploads, *read)] == [200] * (management.UPLOADS + 2)


async def test_a_thread_is_told_that_its_client_left(managed, slow):
    client = Client(managed, "alice")
    await until_async(lambda: slow.has_left)
    assert not slow.has_left()
    client.leave()

    await until_async(slow.has_left)


def test_a_caller_is_a_key_else_a_session_else_an_address():
    public_id, key = keys._new_text("live")

    def caller(**headers):
        sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        return caller_of({"headers": sent, "client": ("10.0.0.1", 5)})

    assert caller(authorization=f"Bearer {key}", cookie="sessionid=s") == f"key {public_id}"
    assert caller(x_api_key=key) == f"key {public_id}"
    assert caller(authorization="Bearer made-up", x_session_token="t") == "session t"
    assert caller(cookie="a=b; sessionid=s") == "session s"
    assert caller(authorization="Bearer made-up") == "address 10.0.0.1"
