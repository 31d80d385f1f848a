"""One HTTP connection, seen from the socket."""

import gzip
import json
import threading
import zlib

import pytest

from saas import protocol, unread
from tests.saas.serving import Raw, Served, request_bytes, tensor
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.no_servers

ROWS = "/v2/models/rows/infer"
BODY = json.dumps({"inputs": [tensor()]}).encode()


def error_of(body: bytes) -> str:
    return json.loads(body)["code"]


def test_many_requests_share_a_connection(served):
    with served.connect() as raw:
        for _ in range(3):
            raw.send(request_bytes(ROWS, BODY))
            status, headers, _ = raw.response()
            assert status == 200
            assert "connection" not in headers


def test_http_1_0_and_connection_close_end_the_connection(served):
    for request in (
        request_bytes(ROWS, BODY, "Connection: close"),
        request_bytes(ROWS, BODY).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ):
        with served.connect() as raw:
            raw.send(request)
            status, headers, _ = raw.response()
            assert (status, headers["connection"]) == (200, "close")
            assert raw.is_closed()


def test_a_request_may_arrive_byte_by_byte(served):
    with served.connect() as raw:
        for byte in request_bytes(ROWS, BODY):
            raw.send(bytes([byte]))
        assert raw.response()[0] == 200


def test_a_chunked_body_is_taken(served):
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:10], BODY[10:])) + b"0\r\n\r\n"
    with served.connect() as raw:
        raw.send(request_bytes(ROWS, b"", "Transfer-Encoding: chunked", length=-1) + chunks)
        assert raw.response()[0] == 200
        raw.send(request_bytes(ROWS, BODY))
        assert raw.response()[0] == 200


def test_pipelined_requests_are_answered_in_order_whichever_way_they_go(served):
    requests = [
        request_bytes(ROWS, json.dumps({"id": "1", "inputs": [tensor()]}).encode()),
        request_bytes(ROWS, json.dumps({"id": "2", "inputs": [tensor()]}).encode()),
        request_bytes("/else", b"abc"),
        request_bytes("/v2/models/rows", method="GET"),
        request_bytes(ROWS, json.dumps({"id": "3", "inputs": [tensor()]}).encode()),
    ]
    with served.connect() as raw:
        raw.send(b"".join(requests))
        answers = [raw.response() for _ in requests]
        assert [status for status, *_ in answers] == [200] * 5
        assert json.loads(answers[0][2])["id"] == "1"
        assert json.loads(answers[1][2])["id"] == "2"
        assert answers[2][2] == b"django:3"
        assert json.loads(answers[3][2])["name"] == "rows"
        assert json.loads(answers[4][2])["id"] == "3"
        raw.send(request_bytes(ROWS, BODY))
        assert raw.response()[0] == 200


def test_a_second_request_waits_for_the_first_one_s_answer(served):
    served.gateway.hold = True
    with served.connect() as raw:
        raw.send(request_bytes(ROWS, json.dumps({"id": "1", "inputs": [tensor()]}).encode()))
        until(lambda: len(served.gateway.held) == 1)
        served.gateway.hold = False
        raw.send(request_bytes(ROWS, json.dumps({"id": "2", "inputs": [tensor()]}).encode()))
        served.on_loop(served.gateway.finish, served.gateway.held[0])
        assert json.loads(raw.response()[2])["id"] == "1"
        assert json.loads(raw.response()[2])["id"] == "2"


def test_expect_100_continue_is_answered_before_the_body(served):
    with served.connect() as raw:
        raw.send(request_bytes(ROWS, b"", "Expect: 100-continue", length=len(BODY)))
        assert raw.response()[0] == 100
        raw.send(BODY)
        assert raw.response()[0] == 200


def test_a_too_large_body_is_refused_before_it_is_read(served):
    with served.connect() as raw:
        raw.send(request_bytes(ROWS, b"", "Expect: 100-continue", length=10_000_000))
        status, headers, body = raw.response()
        assert (status, error_of(body), headers["connection"]) == (413, "payload_too_large", "close")
        assert raw.is_closed()


def test_the_refusal_of_a_large_body_reaches_a_client_that_goes_on_sending(served):
    """A plain close would answer the unread bytes with a reset, and the client would never see the 413."""
    with served.connect() as raw:
        try:
            raw.send(request_bytes(ROWS, b"x" * 40_000_000))
        except ConnectionError:
            pytest.fail("the connection was reset")
        assert raw.response()[0] == 413


@pytest.mark.parametrize("path", [ROWS, "/api/v1/models/rows/predict", "/v2/models/rows/infer/"])
def test_chunks_are_counted_against_the_limit(served, path):
    with served.connect() as raw:
        raw.send(request_bytes(path, b"", "Transfer-Encoding: chunked", length=-1))
        for _ in range(30):
            raw.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        raw.send(b"0\r\n\r\n")
        status, _, body = raw.response()
        assert (status, error_of(body)) == (413, "payload_too_large")


def test_a_pipelined_request_meets_the_same_limit(served):
    with served.connect() as raw:
        raw.send(request_bytes(ROWS, BODY) + request_bytes(ROWS, b"x" * 300_000))
        assert raw.response()[0] == 200
        assert raw.response()[0] == 413


def test_a_large_body_with_a_bad_key_is_refused_before_it_is_read(served):
    with served.connect() as raw:
        raw.send(request_bytes(ROWS, b"", key="maas_live_wrong", length=150_000))
        status, headers, body = raw.response()
        assert (status, error_of(body)) == (401, "api_key_invalid")
        assert headers["connection"] == "close"


def test_large_bodies_are_counted_down_again(served):
    body = json.dumps({"inputs": [tensor(shape=(5000, 4), data=[1.5] * 20_000)]}).encode()
    assert len(body) > protocol.LARGE
    status, _, answer = served.infer("rows", body)
    assert status == 200
    assert len(answer["outputs"][0]["data"]) == 20_000
    with served.connect() as raw:
        raw.send(request_bytes(ROWS, body[: len(body) - 5], length=len(body)))
        until(lambda: served.server.server_state.body_bytes > 0)
    until(lambda: served.server.server_state.body_bytes == 0)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v2/models/rows/infer HTTP/1.1\r\nContent-Length: abc\r\n\r\n",
        b"POST /v2/models/rows/infer HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /v2/models/rows/infer HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        request_bytes(ROWS, b"zz\r\n", "Transfer-Encoding: chunked", length=-1),
        b"POST /else HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_not_http_gets_a_400_in_json_and_the_end(served, garbage):
    with served.connect() as raw:
        raw.send(garbage)
        status, headers, body = raw.response()
        assert (status, error_of(body), headers["connection"]) == (400, "invalid_request", "close")
        assert headers["x-request-id"]
        assert raw.is_closed()


@pytest.mark.parametrize("path", [ROWS, "/else"])
@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ((b"Host: localhost\r\n", b""), 400, "invalid_request"),
        ((b"Host: localhost\r\n", b"Host: a\r\nhost: b\r\n"), 400, "invalid_request"),
        ((b"HTTP/1.1", b"HTTP/2.0"), 505, "http_version_not_supported"),
        ((b": chunked", b": gzip, chunked"), 501, "not_implemented"),
        ((b": chunked", b": gzip\r\nTransfer-Encoding: chunked"), 501, "not_implemented"),
        ((b": chunked", b": xchunked"), 501, "not_implemented"),
        ((b": chunked", b": chunked, gzip"), 400, "invalid_request"),
    ],
)
def test_a_head_that_http_forbids_is_refused_and_ends_the_connection(served, path, change, status, code):
    chunked = request_bytes(path, b"", "Transfer-Encoding: chunked", length=-1) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    assert change[0] in chunked
    with served.connect() as raw:
        raw.send(chunked.replace(*change) + chunked)
        answered, headers, body = raw.response()
        assert (answered, error_of(body), headers["connection"]) == (status, code, "close")
        assert raw.is_closed()
    assert not served.gateway.calls


def test_http_1_0_needs_no_host(served):
    with served.connect() as raw:
        raw.send(request_bytes(ROWS, BODY).replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: localhost\r\n", b""))
        assert raw.response()[0] == 200


def test_garbage_behind_a_request_ends_the_connection_after_its_answer(served):
    served.gateway.hold = True
    with served.connect() as raw:
        raw.send(request_bytes(ROWS, BODY) + b"\x00\x01garbage\r\n\r\n")
        until(lambda: served.gateway.held)
        served.on_loop(served.gateway.finish, served.gateway.held[0])
        assert raw.response()[0] == 200
        status, headers, body = raw.response()
        assert (status, error_of(body), headers["connection"]) == (400, "invalid_request", "close")
        assert raw.is_closed()


def test_a_huge_head_is_refused(served):
    with served.connect() as raw:
        raw.send(b"POST /v2/models/rows/infer HTTP/1.1\r\n")
        try:
            for _ in range(200):
                raw.send(b"X-Filler: " + b"a" * 1000 + b"\r\n")
        except ConnectionError:
            pass
        status, _, body = raw.response()
        assert (status, error_of(body)) == (431, "headers_too_large")


LARGE_HEAD = b"X-Filler: " + b"a" * 70_000


@pytest.mark.parametrize("path", [ROWS, "/else"])
def test_a_huge_head_is_refused_also_if_it_comes_at_once(served, path):
    with served.connect() as raw:
        raw.send(request_bytes(path, BODY, LARGE_HEAD.decode()))
        status, headers, body = raw.response()
        assert (status, error_of(body), headers["connection"]) == (431, "headers_too_large", "close")
    assert not served.gateway.calls


def test_a_huge_head_behind_a_call_under_way_does_not_disturb_it(served):
    served.gateway.hold = True
    with served.connect() as raw:
        raw.send(request_bytes(ROWS, BODY) + request_bytes(ROWS, BODY, LARGE_HEAD.decode()))
        until(lambda: served.gateway.held)
        served.on_loop(served.gateway.finish, served.gateway.held[0])
        assert raw.response()[0] == 200
        status, headers, body = raw.response()
        assert (status, error_of(body), headers["connection"]) == (431, "headers_too_large", "close")
        assert raw.is_closed()
    assert len(served.gateway.calls) == 1


def test_nothing_is_said_of_a_huge_head_behind_a_call_that_was_refused_while_it_came(served, caplog):
    refused = request_bytes(ROWS, b"", "Transfer-Encoding: chunked", key="maas_live_nobody", length=-1) + b"1\r\n{\r\n0\r\n\r\n"
    with served.connect() as raw:
        raw.send(refused + request_bytes(ROWS, BODY, LARGE_HEAD.decode()))
        status, headers, _ = raw.response()
        assert (status, headers["connection"]) == (401, "close")
        assert raw.is_closed()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_large_body_that_comes_with_its_head_is_no_large_head(served):
    body = BODY.ljust(200_000)
    with served.connect() as raw:
        raw.send(request_bytes(ROWS, body) + request_bytes(ROWS, BODY, "X-Filler: " + "a" * 60_000))
        assert [raw.response()[0], raw.response()[0]] == [200, 200]


@pytest.mark.parametrize(
    "sent", [b"POST /v2/mod", request_bytes(ROWS, BODY[:5], length=len(BODY)), request_bytes("/else", b"a", length=9)]
)
def test_a_trickling_request_is_ended(served, monkeypatch, sent):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    with served.connect() as raw:
        raw.send(sent)
        status, headers, body = raw.response()
        assert (status, error_of(body), headers["connection"]) == (408, "request_timeout", "close")


@pytest.mark.parametrize("path", [ROWS, "/else"])
def test_a_body_that_came_fast_and_then_stalls_is_ended(served, monkeypatch, path):
    """Whatever its average is by then."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(protocol, "PATIENCE", 0.2)
    monkeypatch.setattr(protocol, "MIN_RATE", 1.0)
    with served.connect() as raw:
        raw.send(request_bytes(path, b"a" * 190_000, length=195_000))
        assert raw.response()[0] == 408


@pytest.mark.parametrize("path", [ROWS, "/else"])
def test_a_body_that_goes_on_coming_may_take_as_long_as_it_needs(served, monkeypatch, path):
    """What came fast before counts no more; each byte buys it time anew."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.0)
    monkeypatch.setattr(protocol, "MIN_RATE", 1 / PATIENCE)
    with served.connect() as raw:
        for sent in (request_bytes(path, BODY[:1], length=len(BODY)), *(bytes([byte]) for byte in BODY[1:5])):
            raw.send(sent)
            sweeps = served.server._swept
            until(lambda sweeps=sweeps: served.server._swept > sweeps)
        raw.send(BODY[5:])
        assert raw.response()[0] == 200


def test_an_idle_connection_is_closed_after_the_keep_alive_time(served, monkeypatch):
    monkeypatch.setattr(served.server.config, "timeout_keep_alive", 0.2)
    with served.connect() as raw:
        raw.send(request_bytes(ROWS, BODY))
        assert raw.response()[0] == 200
        assert raw.is_closed()


def test_a_slow_call_does_not_count_as_idle(served, monkeypatch):
    monkeypatch.setattr(served.server.config, "timeout_keep_alive", 0.2)
    swept = []
    served.gateway.hold = True
    with served.connect() as raw:
        raw.send(request_bytes(ROWS, BODY))
        until(lambda: served.gateway.held)
        before = served.server._swept
        until(lambda: served.server._swept > before + 1.5 or swept)
        served.on_loop(served.gateway.finish, served.gateway.held[0])
        assert raw.response()[0] == 200


def test_who_asks_nothing_makes_room_first_and_a_call_under_way_never_does(served):
    served.gateway.hold = True
    served.server.server_state.most_connections = 3
    with served.connect() as caller, served.connect() as sender, served.connect() as silent:
        caller.send(request_bytes(ROWS, BODY))
        until(lambda: served.gateway.held)
        sender.send(request_bytes("/else", b"abc") + request_bytes("/else", b"a", length=3))
        assert sender.response()[2] == b"django:3"
        with served.connect() as later:
            assert silent.is_closed()
            later.send(request_bytes("/else", b"abc"))
            assert later.response()[2] == b"django:3"
            with served.connect() as last:
                assert last.is_closed()  # the others have asked once
            sender.send(b"bc")
            assert sender.response()[2] == b"django:3"
            served.on_loop(served.gateway.finish, served.gateway.held[0])
            assert caller.response()[0] == 200


def test_a_client_that_leaves_frees_its_call(served):
    served.gateway.hold = True
    with served.connect() as raw:
        raw.send(request_bytes(ROWS, BODY))
        until(lambda: served.gateway.held)
    until(lambda: served.gateway.abandoned == served.gateway.held)
    until(lambda: any(line["status"] == 499 for line in served.lines))


def test_all_pipelined_calls_of_a_client_that_leaves_are_freed(served):
    served.gateway.hold = True
    with served.connect() as raw:
        raw.send(request_bytes(ROWS, BODY) * 3)
        until(lambda: len(served.gateway.held) == 1)
        served.on_loop(served.gateway.finish, served.gateway.held[0])
        until(lambda: len(served.gateway.held) == 2)
    until(lambda: served.gateway.abandoned == served.gateway.held[1:])


def test_a_client_that_never_reads_is_not_read_from_for_ever(served, monkeypatch):
    monkeypatch.setattr(unread, "STALLED_SECONDS", 0.5)
    body = json.dumps({"inputs": [tensor(shape=(5000, 4), data=[1.5] * 20_000)]}).encode()
    with served.connect() as raw:
        raw.socket.settimeout(0.5)
        sent = 0
        try:
            while sent < 400:
                raw.send(request_bytes(ROWS, body))
                sent += 1
        except OSError:
            pass
        assert sent < 400
        until(lambda: not served.server.server_state.connections)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", [ROWS, "/api/v1/models/rows/predict"])
def test_other_methods_on_a_hot_route_are_405_and_keep_the_connection(served, method, path):
    with served.connect() as raw:
        raw.send(request_bytes(path, method=method))
        if method == "HEAD":
            raw.send(request_bytes(ROWS, BODY))
            until(lambda: served.gateway.calls)
            return
        status, headers, body = raw.response()
        assert (status, headers["allow"], error_of(body)) == (405, "POST", "method_not_allowed")
        raw.send(request_bytes(ROWS, BODY))
        assert raw.response()[0] == 200


def test_an_upgrade_offer_is_declined_by_answering(served):
    """Java's client offers h2c with every request."""
    with served.connect() as raw:
        raw.send(
            request_bytes(
                ROWS, BODY, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
            )
        )
        status, headers, _ = raw.response()
        assert (status, "connection" in headers) == (200, False)
        raw.send(request_bytes("/else", b"abc", "Connection: Upgrade", "Upgrade: websocket"))
        assert raw.response()[2] == b"django:3"


def test_a_tunnel_is_refused(served):
    with served.connect() as raw:
        raw.send(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n")
        assert raw.response()[0] == 405


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_bodies_are_taken(served, encoding, pack):
    assert served.infer("rows", pack(BODY), {"Content-Encoding": encoding})[0] == 200


def test_a_gzip_body_may_come_in_members(served):
    parts = gzip.compress(BODY[:7]) + gzip.compress(b"") + gzip.compress(BODY[7:])
    assert served.infer("rows", parts, {"Content-Encoding": "gzip"})[0] == 200


def test_members_cannot_pass_the_limits(served):
    for members, status in ((gzip.compress(b"0" * 1_000_000) * 50, 413), (gzip.compress(b"") * 300, 400)):
        assert served.infer("rows", members, {"Content-Encoding": "gzip"})[0] == status
    assert served.infer("rows", zlib.compress(BODY) * 2, {"Content-Encoding": "deflate"})[0] == 400


def test_a_compression_bomb_is_413_and_a_truncated_one_400(served):
    bomb = gzip.compress(b"0" * 50_000_000)
    assert len(bomb) < 200_000
    status, _, body = served.infer("rows", bomb, {"Content-Encoding": "gzip"})
    assert (status, body["code"]) == (413, "payload_too_large")
    for bad in (gzip.compress(BODY)[:-9], b"no gzip", gzip.compress(BODY) + b"more"):
        status, _, body = served.infer("rows", bad, {"Content-Encoding": "gzip"})
        assert (status, body["code"]) == (400, "invalid_request")
    assert served.infer("rows", BODY, {"Content-Encoding": "br"})[0] == 415


def test_a_stop_lets_running_calls_end_and_loses_none_of_a_kept_connection():
    with Served() as served:
        served.gateway.hold = True
        with served.connect() as busy, served.connect() as idle:
            idle.send(request_bytes("/v2/health/live", method="GET"))
            assert idle.response()[0] == 200
            busy.send(request_bytes(ROWS, BODY))
            until(lambda: served.gateway.held)
            served.server.should_exit = True
            until(lambda: served.server.server_state.is_draining)
            served.gateway.hold = False
            idle.send(request_bytes(ROWS, BODY))
            status, headers, _ = idle.response()
            assert (status, headers["connection"]) == (200, "close")
            served.on_loop(served.gateway.finish, served.gateway.held[0])
            status, headers, _ = busy.response()
            assert (status, headers["connection"]) == (200, "close")


def test_no_request_is_lost_while_the_server_stops_under_load():
    """Each client reconnects when it is told to; a refused connection means the server is gone."""
    failures: list[str] = []
    answered = []

    def client(port: int) -> None:
        try:
            while True:
                with Raw(port) as raw:
                    headers: dict[str, str] = {}
                    while headers.get("connection") != "close":
                        raw.send(request_bytes(ROWS, BODY))
                        status, headers, _ = raw.response()
                        answered.append(status)
        except ConnectionRefusedError:
            return
        except (ConnectionError, OSError) as error:
            failures.append(repr(error))

    with Served() as served:
        clients = [threading.Thread(target=client, args=(served.port,)) for _ in range(8)]
        for thread in clients:
            thread.start()
        until(lambda: len(answered) > 200)
        served.server.should_exit = True
    for thread in clients:
        thread.join(10)
    assert set(answered) == {200}
    assert len(failures) <= len(clients)  # a connection that the closing listener had not accepted yet is reset by the kernel
