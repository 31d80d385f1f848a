"""Answers that clients read slowly or not at all: what a gateway keeps of them is bounded, and nobody who reads is cut off."""

import json
import socket

import numpy as np
import pytest

from saas import unread
from tests.saas.serving import Raw, Served, request_bytes, tensor
from tests.waiting import until

pytestmark = pytest.mark.no_servers

ROWS = "/v2/models/rows/infer"
DATA = np.full((1 << 18, 4), 1 / 3, "<f4").tobytes()
HEAD = json.dumps({"inputs": [tensor(shape=(1 << 18, 4), data=None, parameters={"binary_data_size": len(DATA)})]}).encode()
REQUEST = request_bytes(ROWS, HEAD + DATA, f"Inference-Header-Content-Length: {len(HEAD)}")  # its answer has 11 MB


@pytest.fixture
def served(monkeypatch):
    monkeypatch.setattr(unread, "FRESH_SECONDS", 0.1)
    monkeypatch.setattr(unread, "STALLED_SECONDS", 1e6)
    with Served() as running:
        running.request("POST", ROWS, json.dumps({"inputs": [tensor()]}).encode())
        yield running


def slow_reader(served) -> Raw:
    """It has asked, its answer is under way, and nothing is read of it."""
    before = behind(served)
    reader = served.connect()
    reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    reader.send(REQUEST)
    until(lambda: behind(served) > before)
    return reader


def behind(served) -> int:
    return served.on_loop(lambda: sum(1 for one in served.server.server_state.connections if one.unread.since))


def sweeps(served, count: int) -> None:
    """Wait for as many sweeps over all connections."""
    for _ in range(count):
        before = served.server._swept
        until(lambda before=before: served.server._swept > before)


def test_who_reads_slowest_is_closed_when_too_much_is_unread(served, monkeypatch):
    with slow_reader(served), slow_reader(served) as pacer:
        sweeps(served, 2)
        assert behind(served) == 2
        while len(pacer.data) < 4 << 20:
            pacer._more()

        monkeypatch.setattr(unread, "MAX_BYTES", 16 << 20)  # one of the two answers

        until(lambda: behind(served) == 1)
        sweeps(served, 2)
        assert behind(served) == 1
        status, _, body = pacer.response()
        assert (status, json.loads(body)["outputs"][0]["shape"]) == (200, [1 << 18, 4])


def test_a_bound_is_kept_however_many_read_nothing(served, monkeypatch):
    monkeypatch.setattr(unread, "MAX_BYTES", 1)
    readers = [slow_reader(served) for _ in range(3)]

    until(lambda: behind(served) == 0)
    assert all(reader.is_closed() for reader in readers)
    assert served.request("POST", ROWS, json.dumps({"inputs": [tensor()]}).encode())[0] == 200
    for reader in readers:
        reader.socket.close()


def test_a_client_below_the_lowest_pace_is_closed_and_one_above_it_may_take_longer(served, monkeypatch):
    with slow_reader(served) as reader:
        monkeypatch.setattr(unread, "STALLED_SECONDS", 0.1)
        monkeypatch.setattr(unread, "MIN_RATE", 0.0)
        sweeps(served, 3)
        assert behind(served) == 1

        monkeypatch.setattr(unread, "MIN_RATE", 1 << 40)
        until(lambda: behind(served) == 0)
        assert reader.is_closed()
