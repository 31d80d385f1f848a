"""The gateway as processes of gunicorn, with the real databases behind them: start, health, restart, stop."""

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from saas.config import ROOT
from tests.saas.serving import Raw, request_bytes
from tests.waiting import PATIENCE, until


class Gunicorn:
    def __init__(self, environment: dict[str, str], *, files: tuple[int, int] | None = None) -> None:
        """`files`: how many it may have open at first, and at most."""
        self.files = files
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.environment = os.environ | environment | {"PORT": str(self.port), "METRICS_TOKEN": "scraper"}

    def __enter__(self) -> "Gunicorn":
        command = [sys.executable, "-m", "gunicorn", "-c", "saas/gunicorn.py", "saas.asgi:application"]
        if self.files:
            command = ["prlimit", f"--nofile={self.files[0]}:{self.files[1]}", *command]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.output = b""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        until(lambda: self.get("/livez")[0] == 200)
        return self

    def _read(self) -> None:
        while data := os.read(self.process.stdout.fileno(), 65536):
            self.output += data

    def __exit__(self, *exc) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(PATIENCE)
        self.reader.join(5)
        self.process.stdout.close()

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        except ConnectionError:
            return 0, {}, b""
        finally:
            connection.close()

    def workers(self) -> set[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return {int(pid) for pid in children.split()}


@pytest.fixture(scope="module")
def gunicorn(embedded):
    with Gunicorn(embedded) as running:
        yield running


def test_it_is_ready_only_while_a_worker_lives(gunicorn, lanes):
    from inference.lanes import WORKERS

    lanes.delete(WORKERS)
    status, _, body = gunicorn.get("/readyz")
    assert (status, json.loads(body)["checks"]) == (503, {"state": True, "lanes": True, "worker": False})
    assert gunicorn.get("/v2/health/ready")[0] == 503
    lanes.zadd(WORKERS, {"test@worker": time.time() + 30})
    assert gunicorn.get("/readyz")[0] == 200
    assert json.loads(gunicorn.get("/v2/health/ready")[2]) == {"ready": True}
    lanes.delete(WORKERS)


def test_metrics_are_for_loopback_and_for_the_token(gunicorn):
    status, headers, body = gunicorn.get("/metrics")
    assert (status, headers["content-type"][:10]) == (200, "text/plain")
    for name in (b"http_requests_total", b"maas_up{", b"maas_workers", b"maas_queue_length"):
        assert name in body
    for sign in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"):
        assert gunicorn.get("/metrics", {sign: "127.0.0.1"})[0] == 404
        assert gunicorn.get("/metrics", {sign: "127.0.0.1", "Authorization": "Bearer scraper"})[0] == 200
        assert gunicorn.get("/metrics", {sign: "127.0.0.1", "Authorization": "Bearer other"})[0] == 404


def test_django_answers_what_is_not_the_gateway_s(gunicorn):
    status, headers, body = gunicorn.get("/docs/")
    assert (status, b"swagger" in body.lower()) == (200, True)
    schema = gunicorn.get("/docs/openapi.json", {"Accept": "application/json"})
    assert schema[0] == 200
    status, headers, body = gunicorn.get("/api/v1/nothing/here")
    assert (status, headers["content-type"]) == (404, "application/problem+json")
    assert json.loads(body)["request_id"] == headers["x-request-id"]
    status, _, body = gunicorn.get("/v2/nothing/here")
    assert (status, isinstance(json.loads(body)["error"], str)) == (404, True)
    status, headers, _ = gunicorn.get("/api/v1/models", {"X-Request-Id": "mine"})
    assert (status, headers["x-request-id"]) == (401, "mine")
    until(lambda: b'"request_id":"mine"' in gunicorn.output)


def test_what_django_answers_is_counted_and_timed_by_the_routes_template(gunicorn):
    gunicorn.get("/api/v1/models/of-nobody/versions/1.0.0")
    gunicorn.get("/no/such/address")

    route = "api/v1/models/<model:model>/versions/<version:version>"
    label = f'code="api_key_missing",method="GET",process="",route="{route}",status="401"'
    until(lambda: f"http_requests_total{{{label}}} 1.0" in metrics(gunicorn))
    until(lambda: 'method="GET",process="",route="",status="404"' in metrics(gunicorn))
    text = metrics(gunicorn)
    assert f'http_request_duration_seconds_count{{process="",route="{route}"}} 1.0' in text
    assert "of-nobody" not in text
    assert "no/such" not in text


def metrics(gunicorn):
    return gunicorn.get("/metrics")[2].decode()


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/v2/health/live", "/api/v1/me"])
def test_every_answer_returns_the_request_id_and_goes_on_with_the_trace(gunicorn, path):
    given = {"X-Request-Id": "mine-1", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}

    _, headers, _ = gunicorn.get(path, given)

    assert headers["x-request-id"] == "mine-1"
    assert headers["traceparent"].startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-")
    assert headers["traceparent"].endswith("-01")
    assert headers["traceparent"] != given["traceparent"]
    for odd in ({}, {"X-Request-Id": "no id", "traceparent": "nonsense"}):
        _, headers, _ = gunicorn.get(path, odd)
        assert len(headers["x-request-id"]) == 32
        assert len(headers["traceparent"]) == len(given["traceparent"])


def test_metrics_are_not_there_for_who_comes_through_a_proxy_without_the_token(gunicorn):
    status, headers, body = gunicorn.get("/metrics", {"X-Forwarded-For": "192.0.2.1"})

    assert (status, headers["content-type"]) == (404, "application/problem+json")
    assert json.loads(body)["code"] == "not_found"
    assert json.loads(body)["request_id"] == headers["x-request-id"]
    assert gunicorn.get("/metrics", {"X-Forwarded-For": "192.0.2.1", "Authorization": "Bearer scraper"})[0] == 200


def test_a_trace_goes_on_through_django_and_into_its_log(gunicorn):
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    returned = gunicorn.get("/api/v1/models", {"traceparent": given})[1]["traceparent"]

    assert returned.startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-")
    assert returned.endswith("-01")
    assert returned != given
    until(lambda: b'"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"' in gunicorn.output)
    made = gunicorn.get("/api/v1/models", {"traceparent": "nonsense"})[1]["traceparent"]
    assert len(made) == len(given)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/v2", "/v2/models/iris", "/api/v1/me", "/api/v1/nothing"])
def test_no_answer_lets_a_browser_guess_what_it_is(gunicorn, path):
    assert gunicorn.get(path)[1]["x-content-type-options"] == "nosniff"


def test_database_connections_are_kept_by_the_threads(gunicorn):
    from django.db import connections

    def sessions() -> set[int]:
        with connections["ops"].cursor() as cursor:
            cursor.execute("SELECT pid FROM pg_stat_activity WHERE usename = 'maas_app' AND client_port IS NOT NULL")
            return {row[0] for row in cursor.fetchall()}

    for _ in range(20):
        gunicorn.get("/api/v1/models", {"Authorization": "Bearer maas_live_x"})
    before = sessions()
    for _ in range(40):
        gunicorn.get("/api/v1/models", {"Authorization": "Bearer maas_live_x"})
    assert len(sessions() - before) <= 8  # threads that had not worked yet may connect; no connection per request


def hammer(port: int, path: bytes, answered: list[int], failures: list[str], stop: threading.Event) -> None:
    """A client with kept connections, which opens a new one when it is told to."""
    while not stop.is_set():
        try:
            with Raw(port) as raw:
                headers: dict[str, str] = {}
                while headers.get("connection") != "close" and not stop.is_set():
                    raw.send(path)
                    status, headers, _ = raw.response()
                    answered.append(status)
        except OSError as error:
            failures.append(repr(error))
            return


def test_a_rolling_restart_fails_no_request(embedded):
    requests = [
        request_bytes("/v2/models/iris/infer", b"{}", key="maas_live_nobody"),
        request_bytes("/api/v1/models", method="GET", key="maas_live_nobody"),
        request_bytes("/v2", method="GET"),
    ]
    with Gunicorn(embedded) as running:
        answered: list[int] = []
        failures: list[str] = []
        stop = threading.Event()
        clients = [
            threading.Thread(target=hammer, args=(running.port, requests[i % 3], answered, failures, stop)) for i in range(6)
        ]
        for client in clients:
            client.start()
        old = running.workers()
        running.process.send_signal(signal.SIGHUP)
        until(lambda: not old & running.workers())
        count = len(answered)
        until(lambda: len(answered) > count + 100 or failures)
        stop.set()
        for client in clients:
            client.join(10)
        assert failures == []
        assert set(answered) == {200, 401}


def test_a_stop_ends_idle_connections_and_leaves_no_process(embedded):
    with Gunicorn(embedded) as running, Raw(running.port) as idle:
        idle.send(request_bytes("/v2", method="GET"))
        assert idle.response()[0] == 200
        workers = running.workers()
        running.process.terminate()
        assert running.process.wait(PATIENCE) == 0
        assert not [pid for pid in workers if os.path.exists(f"/proc/{pid}")]


def test_connections_that_ask_nothing_take_no_place_from_those_that_do(embedded):
    """Twice as many as there may be files."""
    with Gunicorn(embedded, files=(100, 300)) as running, contextlib.ExitStack() as crowd:
        assert {resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in running.workers()} == {(300, 300)}
        with Raw(running.port) as client:
            client.send(request_bytes("/v2", method="GET"))
            assert client.response()[0] == 200
            for count in range(600):
                idle = crowd.enter_context(Raw(running.port))
                if count % 2:
                    idle.send(b"GET /livez HT")
            assert running.get("/livez")[0] == 200
            client.send(request_bytes("/v2", method="GET"))
            assert client.response()[0] == 200
