"""This service as `make run` starts it, with everything on, on a data directory and a port of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg2
import redis
import requests

from benchmarks import processes
from benchmarks.failures import Failed, say
from benchmarks.looking import meanwhile
from benchmarks.models import Model
from benchmarks.peers import free_port
from billing.ledger.drain import STATUS
from inference.books.scripts import JOURNAL
from saas.config import ROOT
from saas.local.control import ask, control_path
from saas.local.parts import PartFailed
from saas.local.servers import URL_ROLES

START_SECONDS = 300.0
DRAIN_SECONDS = 60.0
PUBLISH_SECONDS = 300.0
LOOK_EVERY = 0.5
UPLOAD_SUFFIX = "-upload"
AMPLE = "1000000.00"  # of the currency unit
OF_A_SERVICE = {*URL_ROLES, "STATE_URL", "LANES_URL", "DEBUG", "SECRET_KEY", "KEK", "KEY_PEPPERS", "SIGNING_KEYS"}
BARE_PARTS = ("bare gateway", "worker", "lanes")  # what has a part in a bare request


class Service:
    """A running service; leaving the context stops it. Its data stays in `home` until `reset`."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.log = home / "log" / "service.log"
        kept = {name: value for name, value in os.environ.items() if name not in OF_A_SERVICE}
        self.environment = {**kept, "DATA_DIR": str(home), "PORT": str(self.port)}
        self._bare: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Service":
        command = [sys.executable, "-m", "saas.local", "run"]
        # It keeps its log itself; a terminal's copy would grow to gigabytes.
        self._supervisor = processes.start(command, self.environment, ROOT, Path(os.devnull))
        try:
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._is_complete():
            if self._supervisor.poll() is not None:
                raise Failed(f"the service did not start: {processes.last_line(self.log)}; see {self.log}")
            if time.monotonic() > deadline:
                raise Failed(f"the service was not ready within {START_SECONDS:g} s; see {self.log}")
            time.sleep(0.2)

    def _is_complete(self) -> bool:
        """Whether it answers, and its last part is started."""
        try:
            return _is_ready(self.port) and "beat" in self._status()
        except OSError:
            return False

    def _status(self) -> dict[str, dict[str, Any]]:  # Any: JSON
        return dict(json.loads(next(ask(control_path(self.home), "status"))))

    def _stop(self) -> None:
        if self._bare is not None:
            processes.stop(self._bare)
        processes.stop(self._supervisor, signal.SIGINT)

    def restart(self) -> None:
        """Replace gateway, worker and the other parts of ours, as `make restart` does. Raises Failed."""
        try:
            for line in ask(control_path(self.home), "restart"):
                say(line)
        except PartFailed as error:
            raise Failed(f"the restart failed: {error}") from error

    def reset(self) -> None:
        """Delete the data of this service, which must not be running."""
        if self.home.exists():
            command = [sys.executable, "-m", "saas.local", "reset"]
            subprocess.run(command, cwd=ROOT, env=self.environment, check=True, capture_output=True)

    @property
    def urls(self) -> dict[str, str]:
        """The addresses of its servers, and its secrets."""
        return dict(json.loads((self.home / "environment.json").read_text()))

    @property
    def headers(self) -> dict[str, str]:
        demo = json.loads((self.home / "demo.json").read_text())
        return {"Authorization": f"Bearer {demo['api_key']}"}

    # --- models

    def publish(self, model: Model) -> None:
        """Put it into the catalogue, if it is not there. Raises Failed."""
        manifest = ["--manifest", str(model.manifest)] if model.manifest else []
        self._manage("publish", str(model.file), "--name", model.name, *manifest)
        self._manage(
            "set_price", f"catalog/{model.name}", "--call", "0.0001", "--second", "0.01", "--first", "--reason", "benchmark"
        )

    def _manage(self, *arguments: str) -> None:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"manage.py {' '.join(arguments)}: {(done.stderr or done.stdout).strip()[-300:]}")

    def upload(self, model: Model) -> str:
        """The same model as one of the customer's own; its name. Raises Failed."""
        name = model.name + UPLOAD_SUFFIX
        with requests.Session() as session:
            session.headers.update(self.headers)
            models = f"http://127.0.0.1:{self.port}/api/v1/models"
            if session.get(f"{models}/{name}/versions/1.0.0", timeout=30).ok:
                return name
            session.post(models, json={"name": name}, timeout=30)
            manifest = model.manifest.read_text() if model.manifest else "{}"
            self.upload_version(session, name, model.file.read_bytes(), manifest)
        return name

    def upload_version(self, session: requests.Session, name: str, artifact: bytes, manifest: str) -> None:
        """Of a model that is there, until it is ready. Raises Failed."""
        versions = f"http://127.0.0.1:{self.port}/api/v1/models/{name}/versions"
        files = {"artifact": ("model.onnx", artifact, "application/octet-stream")}
        sent = session.post(versions, files=files, data={"manifest": manifest}, timeout=60)
        if not sent.ok:
            raise Failed(f"{name} was not uploaded: {sent.text[:300]}")
        version = self._decided(session, f"{versions}/{sent.json()['version']}")
        if version["state"] != "ready":
            raise Failed(f"{name} is {version['state']}: {version['verdict']}")

    @staticmethod
    def _decided(session: requests.Session, url: str) -> dict[str, Any]:  # Any: JSON
        deadline = time.monotonic() + PUBLISH_SECONDS
        while (version := session.get(url, timeout=30).json())["state"] == "validating":
            if time.monotonic() > deadline:
                raise Failed(f"{url} is still being examined")
            time.sleep(LOOK_EVERY)
        return dict(version)

    # --- modes

    @contextmanager
    def everysec(self) -> Iterator[None]:
        """Meanwhile the books reach the disk once a second instead of with every write."""
        with closing(redis.Redis.from_url(self.urls["STATE_URL"])) as state:
            state.config_set("appendfsync", "everysec")
            try:
                yield
            finally:
                state.config_set("appendfsync", "always")

    @contextmanager
    def budgets(self) -> Iterator[None]:
        """Meanwhile the organization and its keys each have a budget, which is too large to be met. Raises Failed."""
        api = f"http://127.0.0.1:{self.port}/api/v1"
        with requests.Session() as session:
            session.headers.update(self.headers)
            keys = session.get(f"{api}/keys", timeout=30).json()["results"]
            budgets = [f"{api}/billing/budgets/{whose}" for whose in ("organization", *(key["id"] for key in keys))]
            for budget in budgets:
                put = session.put(budget, json={"amount": AMPLE}, timeout=30)
                if not put.ok:
                    raise Failed(f"a budget was not set: {put.text[:300]}")
            try:
                yield
            finally:
                for budget in budgets:
                    session.delete(budget, timeout=30)

    @contextmanager
    def bare(self) -> Iterator[int]:
        """Meanwhile a gateway of benchmarks.bare runs beside the service's own; its port. Raises Failed."""
        port = free_port()
        gunicorn = [sys.executable, "-m", "gunicorn", "-c", "saas/gunicorn.py", "benchmarks.bare:application"]
        log = self.home.with_name("bare.log")
        self._bare = processes.start(gunicorn, {**self.environment, **self.urls, "PORT": str(port)}, ROOT, log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _is_ready(port):
                if self._bare.poll() is not None or time.monotonic() > deadline:
                    raise Failed(f"the bare gateway did not start: {processes.last_line(log)}")
                time.sleep(0.2)
            yield port
        finally:
            processes.stop(self._bare)
            self._bare = None

    # --- what it costs, and whether it keeps up

    def cpu_by_part(self) -> dict[str, float]:
        """Processor seconds so far, by part."""
        used = {name: processes.cpu_seconds(pids) for name, pids in self.pids_by_part().items()}
        return {name: used[name] for name in BARE_PARTS} if self._bare is not None else used

    def pids_by_part(self) -> dict[str, set[int]]:
        """The processes of each part. `supervisor` copies the log."""
        parts = {name: processes.tree([part["pid"]]) for name, part in self._status().items() if part["pid"]}
        if self._bare is not None:
            parts["bare gateway"] = processes.tree([self._bare.pid])
        others = processes.tree([self._supervisor.pid]) - set().union(*parts.values())
        parts["supervisor"] = others
        return parts

    def wait_until_drained(self) -> None:
        """Until all that was journaled is in the ledger. Raises Failed."""
        deadline = time.monotonic() + DRAIN_SECONDS
        with closing(redis.Redis.from_url(self.urls["STATE_URL"])) as state:
            time.sleep(LOOK_EVERY)  # the last closes travel within 20 ms
            while state.xlen(JOURNAL):
                if time.monotonic() > deadline:
                    raise Failed(f"the journal was not drained within {DRAIN_SECONDS:g} s")
                time.sleep(LOOK_EVERY)

    def ledger_rows(self) -> int:
        """Calls in the ledger."""
        with closing(psycopg2.connect(self.urls["DATABASE_OPS_URL"])) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM usage_event WHERE kind = 'usage'")
            return int(cursor.fetchone()[0])

    @contextmanager
    def lag(self) -> Iterator[list[float]]:
        """The drain's lag in seconds, looked at until the context is left."""
        seen = [0.0]
        with closing(redis.Redis.from_url(self.urls["LANES_URL"])) as lanes:

            def look() -> None:
                seen.append(float(lanes.hget(STATUS, "drain_lag_ms") or 0) / 1000)

            with meanwhile(look, LOOK_EVERY):
                yield seen


def _is_ready(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=3).ok
    except requests.RequestException:
        return False
