"""Requests that come many at once: each is answered in its order, and nobody else waits until all of them are."""

import json
import random
import socket
import threading
from contextlib import suppress

import pytest

from saas import feeding
from tests.saas.serving import Served, request_bytes, tensor
from tests.waiting import until

pytestmark = pytest.mark.no_servers

ROWS = "/v2/models/rows/infer"
BODY = json.dumps({"inputs": [tensor()]}).encode()
CALL = request_bytes(ROWS, BODY)
LOOK = request_bytes("/v2/models/rows", method="GET")


@pytest.fixture
def busy():
    """A server of its own whose loop is held up while `busy.held_up()` lasts."""
    with Served() as served:
        served.infer("rows", BODY)
        yield served


class HeldUp:
    """The loop does nothing inside, so that whatever is sent meanwhile is there at once afterwards."""

    def __init__(self, served):
        self.served, self.is_held, self.goes_on = served, threading.Event(), threading.Event()

    def __enter__(self):
        self.served.loop.call_soon_threadsafe(lambda: (self.is_held.set(), self.goes_on.wait()))
        self.is_held.wait()

    def __exit__(self, *exc):
        self.goes_on.set()


def connection(served):
    """The server's side of the only connection."""
    (found,) = until(lambda: list(served.server.server_state.connections))
    return found


def sending(raw, data):
    """A thread that sends `data`, or as much of it as the server reads."""

    def send():
        with suppress(OSError):
            raw.send(data)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "flood",
    [request_bytes(ROWS, BODY, key="maas_live_nobody"), request_bytes("/v2/health/live", method="GET"), b"\r\n\r\n" + LOOK],
)
def test_thousands_of_pipelined_requests_do_not_stand_before_somebody_elses(busy, flood):
    """Seen from the order of service: the first turn of each flooding connection may come first, and little more."""
    floods = [busy.connect() for _ in range(5)]
    for raw in floods:
        raw.send(LOOK)
        assert raw.response()[0] == 200
    with busy.connect() as innocent:
        innocent.send(LOOK)
        assert innocent.response()[0] == 200
        before = len(busy.lines)
        with HeldUp(busy):
            for raw in floods:
                raw.send(flood * 800)
            innocent.send(CALL)
        status, headers, _ = innocent.response()
        assert status == 200

        def order():
            return [line["request_id"] for line in busy.lines[before:]]

        until(lambda: headers["x-request-id"] in order())
        assert order().index(headers["x-request-id"]) <= 100
        for raw in floods:
            assert {raw.response()[0] for _ in range(800)} <= {200, 401}
    for raw in floods:
        raw.socket.close()


def test_nothing_behind_an_unfinished_request_is_parsed(served):
    served.gateway.hold = True
    with served.connect() as raw:
        raw.send(CALL + LOOK * 100)
        until(lambda: served.gateway.held)
        until(lambda: served.server.server_state.unparsed == 100 * len(LOOK))
        served.on_loop(served.gateway.finish, served.gateway.held[0])
        assert [raw.response()[0] for _ in range(101)] == [200] * 101
    assert served.server.server_state.unparsed == 0


def numbered(number):
    """A request whose answer tells its number: of every form, with what ends a head inside of bodies."""
    body = json.dumps({"id": str(number), "inputs": [tensor()]}).encode() + b" " * (number % 7 * 300)
    if number % 4 == 0:
        chunks = [body[at : at + 400] for at in range(0, len(body), 400)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nX-Trailer: a\r\n\r\n"
        return request_bytes(ROWS, body, "Transfer-Encoding: chunked", length=-1)
    if number % 4 == 1:
        return request_bytes("/else", b"\r\n\r\n" * number)
    if number % 4 == 2:
        return request_bytes(ROWS, body.replace(b", ", b",\r\n\r\n"), f"X-Filler: {'z' * (number % 5 * 900)}")
    return request_bytes(ROWS, body, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA")


def answer_of(number, body):
    return body == b"django:%d" % (4 * number) if number % 4 == 1 else json.loads(body)["id"] == str(number)


@pytest.mark.parametrize("seed", range(5))
def test_wherever_reads_end_all_is_answered_once_and_in_order(served, seed):
    chance = random.Random(seed)
    data = b"".join(numbered(number) for number in range(60))
    cuts = sorted(chance.choices(range(len(data)), k=chance.choice((0, 10, 300))))
    with served.connect() as raw:
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            served.on_loop(connection(served).data_received, data[start:end])
        for number in range(60):
            status, _, body = raw.response()
            assert status == 200
            assert answer_of(number, body), (number, body)
        raw.send(CALL)
        assert raw.response()[0] == 200
    until(lambda: served.server.server_state.unparsed == 0)


def test_the_end_of_a_request_is_seen_wherever_a_read_ends(served):
    """The second request must not be parsed with the last bytes of the first."""
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    first = request_bytes(ROWS, chunked, "Transfer-Encoding: chunked", length=-1)
    served.gateway.hold = True
    for cut in range(1, len(first) + 1):
        with served.connect() as raw:
            mine = connection(served)
            for data in (first[:cut], first[cut:] + LOOK + CALL):
                served.on_loop(mine.data_received, data)
            until(lambda: len(served.gateway.held) == 1)
            assert served.server.server_state.unparsed == len(LOOK + CALL)
            served.on_loop(served.gateway.finish, served.gateway.held.pop())
            assert [raw.response()[0], raw.response()[0]] == [200, 200]
            until(lambda: len(served.gateway.held) == 1)
        until(lambda: not served.server.server_state.connections)
        served.gateway.held.clear()


def test_who_has_much_waiting_is_not_read_from(served):
    served.gateway.hold = True
    with served.connect() as raw:
        raw.send(CALL)
        until(lambda: served.gateway.held)
        sender = sending(raw, LOOK * 200_000)
        until(lambda: connection(served).flow.read_paused)
        assert served.server.server_state.unparsed <= feeding.MAX_READ + (256 << 10)
        assert sender.is_alive()
        raw.socket.shutdown(socket.SHUT_RDWR)
    sender.join()
    served.on_loop(served.gateway.finish, served.gateway.held[0])
    until(lambda: not served.server.server_state.connections)
    assert served.server.server_state.unparsed == 0


def test_a_pipeline_longer_than_what_may_wait_is_answered_to_its_end(served):
    count = 2 * (feeding.MAX_READ + (256 << 10)) // len(LOOK)
    with served.connect() as raw:
        sender = sending(raw, LOOK * count)
        assert {raw.response()[0] for _ in range(count)} == {200}
        sender.join()


def test_where_all_together_have_too_much_waiting_who_adds_to_it_is_ended(served, monkeypatch):
    monkeypatch.setattr(feeding, "MAX_WAITING", 20_000)
    served.gateway.hold = True
    with served.connect() as first, served.connect() as second:
        for raw in (first, second):
            raw.send(CALL)
        until(lambda: len(served.gateway.held) == 2)
        first.send(LOOK * (15_000 // len(LOOK)))
        until(lambda: served.server.server_state.unparsed > 10_000)
        second.send(LOOK * (15_000 // len(LOOK)))
        assert second.is_closed()
        served.on_loop(served.gateway.finish, served.gateway.held[0])
        assert first.response()[0] == 200
        assert first.response()[0] == 200
    until(lambda: served.server.server_state.unparsed == 0)


def test_a_chunked_body_of_tiny_chunks_takes_turns_too(busy):
    """Each byte of it is a call of the parser's back."""
    data = json.dumps({"inputs": [tensor(shape=(2000, 4), data=[1.5] * 8000)]}).encode()
    tiny = b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n"
    with busy.connect() as raw, busy.connect() as innocent:
        with HeldUp(busy):
            raw.send(request_bytes(ROWS, tiny, "Transfer-Encoding: chunked", length=-1))
            innocent.send(CALL)
        assert innocent.response()[0] == 200
        assert raw.response()[0] == 200
        first, second = (call.rows for call in busy.gateway.calls[-2:])
    assert (first, second) == (1, 2000)
