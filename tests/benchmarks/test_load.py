"""The load generator against a small server of its own: what it counts, and from when."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

import pytest

from benchmarks.connection import Broken, parsed
from benchmarks.load import Plan, drive, run

pytestmark = pytest.mark.no_servers

RIGHT = b'{"y": [[1.0]]}'
REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"


def said(body, status=b"200 OK"):
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


class Server:
    """Answers each request with what `reply(number)` gives; None closes the connection. One thread per connection."""

    def __init__(self, reply) -> None:
        self._reply, self._numbers, self._lock = reply, 0, threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection) -> None:
        with connection:
            while connection.recv(len(REQUEST), socket.MSG_WAITALL):
                with self._lock:
                    self._numbers += 1
                    number = self._numbers
                answer = self._reply(number)
                if answer is None:
                    return
                connection.sendall(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # it wakes who accepts
        self._listener.close()


@contextmanager
def serving(reply) -> Iterator[Server]:
    server = Server(reply)
    try:
        yield server
    finally:
        server.close()


def plan(port, **changes):
    usual = {"clients": 3, "seconds": 1.5, "rate": 0.0, "dialect": "plain", "requests": [REQUEST], "expected": [[1.0]]}
    return Plan(port=port, **usual | changes)


def test_a_closed_loop_asks_again_when_it_is_answered_and_counts_right_answers():
    with serving(lambda number: said(RIGHT)) as server:
        load = run(plan(server.port))

    assert load.good > 3
    assert load.bad == 0
    assert 0 < load.p50 <= load.p99 < inf


def test_wrong_numbers_and_refusals_are_counted_and_have_no_latency():
    answers = [said(RIGHT), said(b'{"y": [[2.0]]}'), said(b"busy", b"503 Unavailable")]
    with serving(lambda number: answers[number % 3]) as server:
        load = run(plan(server.port, clients=1))

    assert load.good > 0
    assert load.bad >= load.good
    assert load.p99 == inf
    assert load.fault.startswith(("503", "200"))


def test_a_closed_connection_is_a_bad_answer_and_is_made_anew():
    with serving(lambda number: said(RIGHT) if number % 2 else None) as server:
        load = run(plan(server.port, clients=1))

    assert load.good > 1
    assert load.bad > 1
    assert "closed the connection" in load.fault


def test_an_open_loop_sends_as_many_as_are_due_whatever_the_server_does():
    with serving(lambda number: said(RIGHT)) as server:
        load = run(plan(server.port, rate=100.0, seconds=1.0))
        again = run(plan(server.port, rate=100.0, seconds=1.0))

    assert load.good == again.good
    assert 50 < load.good < 150
    assert load.bad == 0


def test_a_stall_is_charged_to_every_request_that_was_due_meanwhile():
    stall = threading.Event()

    def reply(number):
        if number == 1:
            time.sleep(0.5)  # the stall itself, not a wait for something
            stall.set()
        stall.wait()
        return said(RIGHT)

    with serving(reply) as server:
        load = run(plan(server.port, rate=100.0, seconds=0.6, clients=1))

    assert load.bad == 0
    assert load.p50 > 0.05  # most were due while the server stood still, and waited for the rest of it


def test_the_generator_runs_in_a_process_of_its_own():
    with serving(lambda number: said(RIGHT)) as server:
        load = drive(plan(server.port))

    assert load.good > 0
    assert load.cpu > 0


def test_a_server_that_is_not_there_is_told():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen

        with pytest.raises(RuntimeError, match="refused"):
            drive(plan(nobody.getsockname()[1]))


def test_an_answer_is_complete_when_its_length_has_come():
    whole = said(b"abc")

    assert all(parsed(whole[:size]) is None for size in range(len(whole)))
    assert parsed(whole).status == b"200"
    assert parsed(whole).body == b"abc"


def test_chunks_are_put_together():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    assert parsed(head + b"3\r\nabc\r\n") is None
    assert parsed(head + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n").body == b"abcde"


@pytest.mark.parametrize(
    "received",
    [
        said(b"abc") + b"more",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n?\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_single_answer_is_told(received):
    with pytest.raises(Broken):
        parsed(received)
