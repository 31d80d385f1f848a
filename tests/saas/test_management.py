"""Requests on their way to Django: whose turn it is, what waits without a thread, what is refused."""

import asyncio
import threading

import orjson
import pytest

from inference.gateway.metrics import Metrics
from saas import management
from saas.callers import Caller
from saas.management import Management, nobody
from tests.saas.serving import key_record
from tests.waiting import PATIENCE, until_async

pytestmark = pytest.mark.no_servers


class Slow:
    """A WSGI application whose requests stay in their threads until `go_on` is set; `seen` are their paths and bodies."""

    def __init__(self):
        self.seen, self.go_on, self.has_left = [], threading.Event(), None

    def __call__(self, environ, start_response):
        self.seen.append((environ["PATH_INFO"], environ["wsgi.input"].read()))
        if watch := environ["asgi.scope"].get("watch_client"):
            self.has_left = watch()
        assert self.go_on.wait(PATIENCE)
        start_response("200 OK", [])
        return [b"done"]


class Client:
    """One request; its body comes as the test says."""

    def __init__(self, management, caller, path="/api/v1/usage", method="GET", headers=(), body=b"", *, is_stranger=False):
        self.messages, self.sent = asyncio.Queue(), []
        if body is not None:
            self.messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
        scope = {
            "type": "http", "method": method, "path": path, "query_string": b"", "http_version": "1.1",
            "client": (caller if is_stranger else "proxy", 1), "headers": [(b"x-api-key", caller.encode()), *headers],
        }  # fmt: skip
        self.metrics = Metrics("")
        known = nobody if is_stranger else self._known
        self.task = asyncio.create_task(management.answer(scope, self.messages.get, self._send, self.metrics, known))

    def _known(self, presented):
        return key_record(organization=presented)

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


def key(text):
    return b"authorization", f"Bearer {text}".encode()


@pytest.fixture
async def slow():
    slow = Slow()
    yield slow
    slow.go_on.set()
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(left, timeout=PATIENCE)


@pytest.fixture
def managed(slow):
    return Management(slow, threads=4, body_max=1 << 20, spool_bytes=1 << 20)


async def test_one_caller_s_requests_leave_threads_to_others(managed, slow):
    mine = [Client(managed, "mallory", "/mallory") for _ in range(20)]
    await until_async(lambda: len(slow.seen) == 2)
    other = Client(managed, "alice", "/alice")
    await until_async(lambda: len(slow.seen) == 3)

    assert [path for path, _ in slow.seen] == ["/mallory", "/mallory", "/alice"]
    slow.go_on.set()
    assert [(await client.answer())[0] for client in (*mine, other)] == [200] * 21


async def test_callers_take_turns(slow):
    managed = Management(slow, threads=1, body_max=1 << 20, spool_bytes=1 << 20)
    first = [Client(managed, "mallory", "/mallory") for _ in range(5)]
    await until_async(lambda: len(slow.seen) == 1)
    other = Client(managed, "alice", "/alice")
    await until_async(lambda: Caller("organization alice", False) in managed._turns._waiting)
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


async def test_inventing_keys_or_addresses_gains_no_more_than_half_of_the_threads(managed, slow):
    """One address is one caller whatever keys it names; and all that is unproved shares what is left to strangers."""
    one_place = [Client(managed, "mallory", "/m", headers=[key(f"key{n}")], is_stranger=True) for n in range(20)]
    await until_async(lambda: len(slow.seen) == 1)
    many_places = [Client(managed, f"10.0.0.{n}", "/n", is_stranger=True) for n in range(20)]
    await until_async(lambda: len(slow.seen) == 2)
    proved = [Client(managed, name, "/proved") for name in ("alice", "bob")]
    await until_async(lambda: len(slow.seen) == 4)

    assert [path for path, _ in slow.seen] == ["/m", "/n", "/proved", "/proved"]
    slow.go_on.set()
    assert [(await client.answer())[0] for client in (*one_place, *many_places, *proved)] == [200] * 42


async def test_strangers_leave_room_to_those_who_are_proved(managed, slow, monkeypatch):
    monkeypatch.setattr(managed._turns, "_present_most", 8)
    for n in range(4):
        Client(managed, f"10.0.0.{n}", is_stranger=True)
    await until_async(lambda: managed._turns._present.total() == 4)

    assert (await Client(managed, "10.0.0.9", is_stranger=True).answer())[:2] == (503, "capacity_exhausted")
    proved = Client(managed, "alice")
    await until_async(lambda: managed._turns._present.total() == 5)
    slow.go_on.set()
    assert (await proved.answer())[0] == 200


async def test_strangers_bodies_leave_memory_to_those_who_are_proved(managed, slow, monkeypatch):
    monkeypatch.setattr(management, "MAX_BYTES", 20)
    slow.go_on.set()

    assert (await Client(managed, "mallory", method="POST", body=bytes(11), is_stranger=True).answer())[:2] == (
        503,
        "capacity_exhausted",
    )
    assert (await Client(managed, "alice", method="POST", body=bytes(11)).answer())[0] == 200


class Door:
    """A WSGI application that looks at uploads twice, as Django does: admits heads that name an organization, reads bodies."""

    def __init__(self):
        self.read, self.go_on = [], threading.Event()

    def __call__(self, environ, start_response):
        admit, organization = environ["asgi.scope"].get("admit"), environ.get("HTTP_ORGANIZATION")
        if organization is None:
            start_response("401 Unauthorized", [])
            return [b'{"code":"api_key_missing"}']
        if admit is not None:
            assert environ["wsgi.input"].read() == b""
            admit(organization, lambda size: None)
            start_response("204 No Content", [])
            return []
        self.read.append((organization, environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))))
        if organization.startswith("slow"):
            assert self.go_on.wait(PATIENCE)
        start_response("202 Accepted", [])
        return [b"taken"]


@pytest.fixture
async def door():
    door = Door()
    yield door
    door.go_on.set()
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(left, timeout=PATIENCE)


def upload(managed, organization, body=b"model", headers=(), **options):
    headers = [(b"organization", organization.encode()), *headers] if organization else headers
    path = "/api/v1/models/iris/versions"
    return Client(managed, organization or "x", path, method="POST", body=body, headers=headers, **options)


async def test_uploads_that_arrive_hold_no_thread(door):
    managed = Management(door, threads=1, body_max=1 << 20, spool_bytes=1 << 20)
    arriving = [upload(managed, f"organization{n // 16}", body=None) for n in range(64)]
    for client in arriving:
        client.messages.put_nowait({"type": "http.request", "body": b"mo", "more_body": True})
    await until_async(lambda: sum(map(len, managed._spools._of.values())) == 64)

    assert (await upload(managed, "alice").answer())[0] == 202
    for client in arriving:
        client.messages.put_nowait({"type": "http.request", "body": b"del", "more_body": False})
    assert [(await client.answer())[0] for client in arriving] == [202] * 64
    assert {body for _, body in door.read} == {b"model"}
    assert not managed._spools._of


async def test_an_organization_s_whole_uploads_wait_for_their_turn(door):
    managed = Management(door, threads=1, body_max=1 << 20, spool_bytes=1 << 20)
    mine = [upload(managed, "slow") for _ in range(10)]
    await until_async(lambda: len(door.read) == management.UPLOADS_EACH)

    assert (await upload(managed, "alice").answer())[0] == 202
    assert len(door.read) == management.UPLOADS_EACH + 1
    mine[-1].leave()
    await asyncio.wait([mine[-1].task], timeout=PATIENCE)
    door.go_on.set()
    assert [(await client.answer())[0] for client in mine[:-1]] == [202] * 9
    assert (len(door.read), mine[-1].sent) == (10, [])


async def test_an_upload_is_refused_by_its_head(door):
    managed = Management(door, threads=1, body_max=1 << 20, spool_bytes=1 << 20)
    refused = upload(managed, "", body=None)
    waiting = upload(managed, "", body=None, headers=[(b"expect", b"100-continue")])

    status, code, headers = await refused.answer()
    assert (status, code, b"connection" in headers) == (401, "api_key_missing", False)
    status, code, headers = await waiting.answer()
    assert (status, code, headers[b"connection"]) == (401, "api_key_missing", b"close")
    assert not managed._spools._of


async def test_a_thread_is_told_that_its_client_left(managed, slow):
    client = Client(managed, "alice")
    await until_async(lambda: slow.has_left)
    assert not slow.has_left()
    client.leave()

    await until_async(slow.has_left)


async def test_large_bodies_take_turns_while_others_find_threads(slow):
    managed = Management(slow, threads=8, body_max=management.LARGE * 4, spool_bytes=1 << 20)
    large = b"x" * (management.LARGE + 1)
    mine = [Client(managed, "mallory", f"/{number}", "POST", body=large) for number in range(3)]
    await until_async(lambda: len(slow.seen) == 1)
    others = [Client(managed, name, f"/{name}", "POST", body=large) for name in ("alice", "bob")]
    small = Client(managed, "mallory", "/small")
    await until_async(lambda: len(slow.seen) == 3)

    assert {path for path, _ in slow.seen} == {"/0", "/alice", "/small"}
    slow.go_on.set()
    assert [(await client.answer())[0] for client in (*mine, *others, small)] == [200] * 6
    assert all(body == large for path, body in slow.seen if path != "/small")
    assert not managed._large._running


async def test_a_large_body_that_is_done_with_holds_up_no_other():
    waits, go_on = [], threading.Event()

    def app(environ, start_response):
        environ["wsgi.input"].read()
        environ["asgi.scope"]["done_with_body"]()
        waits.append(environ["PATH_INFO"])
        assert go_on.wait(PATIENCE)
        start_response("200 OK", [])
        return [b"done"]

    managed = Management(app, threads=8, body_max=management.LARGE * 4, spool_bytes=1 << 20)
    clients = [Client(managed, "alice", f"/{i}", "POST", body=b"x" * (management.LARGE + 1)) for i in range(3)]
    try:
        await until_async(lambda: len(waits) == 3)
    finally:
        go_on.set()

    assert [(await client.answer())[0] for client in clients] == [200] * 3
    assert not managed._large._running


async def test_a_large_body_whose_client_leaves_gives_its_turn_back(slow):
    managed = Management(slow, threads=8, body_max=management.LARGE * 4, spool_bytes=1 << 20)
    large = b"x" * (management.LARGE + 1)
    running = Client(managed, "mallory", "/0", "POST", body=large)
    await until_async(lambda: len(slow.seen) == 1)
    left = Client(managed, "mallory", "/left", "POST", body=large)
    await until_async(lambda: Caller("organization mallory", False) in managed._large._waiting)
    left.leave()
    await asyncio.wait([left.task], timeout=PATIENCE)
    slow.go_on.set()

    assert (await running.answer())[0] == 200
    assert not managed._large._waiting
    assert not managed._large._running
