"""The whole platform as `make run` starts it, on a free port and a data directory of its own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import redis

from saas.config import ROOT
from saas.local.control import ask, control_path
from saas.local.servers import URL_ROLES
from tests.waiting import PATIENCE, until

EMBEDDED = {*URL_ROLES, "STATE_URL", "LANES_URL"}


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


class Service:
    """`base_url`, `api_key` (demo organization), `demo` (demo.json), `environment` (addresses and secrets of all parts)."""

    def __init__(self, data_dir: Path | None = None, **environment: str) -> None:
        self.data_dir = data_dir or Path(tempfile.mkdtemp(prefix="model-service-run-"))
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        clean = {name: value for name, value in os.environ.items() if name not in EMBEDDED | {"DEBUG", "SECRET_KEY"}}
        self.given = {**clean, "DATA_DIR": str(self.data_dir), "PORT": str(self.port), **environment}
        self.output = self.data_dir.with_name(f"{self.data_dir.name}.out")
        self.supervisor: subprocess.Popen[bytes] | None = None

    def start(self, *, seconds: float = 240.0) -> "Service":
        self.launch()
        until(lambda: "▸ ready after" in self.text() or not self.is_alive, seconds=seconds, what=f"the service ({self.output})")
        assert self.is_alive, self.text()
        return self

    def launch(self) -> None:
        """Start the supervisor, without waiting for anything."""
        with self.output.open("wb") as output:
            command = [sys.executable, "-m", "saas.local", "run"]
            self.supervisor = subprocess.Popen(command, cwd=ROOT, env=self.given, stdout=output, stderr=output)

    @property
    def is_alive(self) -> bool:
        return self.supervisor is not None and self.supervisor.poll() is None

    def text(self) -> str:
        return self.output.read_text()

    @property
    def demo(self) -> dict[str, str]:
        return json.loads((self.data_dir / "demo.json").read_text())

    @property
    def api_key(self) -> str:
        return self.demo["api_key"]

    @property
    def environment(self) -> dict[str, str]:
        return json.loads((self.data_dir / "environment.json").read_text())

    def database(self, role: str = "ops") -> "closing[psycopg2.extensions.connection]":
        """`with service.database() as connection`, autocommit; role: app, owner, metering or ops (sees all tenants)."""
        name = "DATABASE_URL" if role == "app" else f"DATABASE_{role.upper()}_URL"
        connection = psycopg2.connect(self.environment[name])
        connection.autocommit = True
        return closing(connection)

    def rows(self, statement: str, *parameters: object, role: str = "ops") -> list[tuple]:
        with self.database(role) as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall()

    def state(self) -> redis.Redis:
        return redis.Redis.from_url(self.environment["STATE_URL"])

    def lanes(self) -> redis.Redis:
        return redis.Redis.from_url(self.environment["LANES_URL"])

    def manage(self, *arguments: str) -> str:
        """Run a management command beside the service; what it prints."""
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.given, check=True, capture_output=True, text=True).stdout

    def status(self) -> dict[str, dict]:
        return json.loads(next(ask(control_path(self.data_dir), "status")))

    def process(self, name: str) -> int:
        """The process id of a part: gateway, worker (its present one), ops, beat, bookkeeper, postgres, state, lanes."""
        status = self.status()
        found = next(part for part_name, part in status.items() if re.sub(r"-\d+$", "", part_name) == name)
        return found["pid"]

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        os.kill(self.process(name), number)

    def restart(self) -> list[str]:
        return list(ask(control_path(self.data_dir), "restart"))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it; the exit status."""
        assert self.supervisor is not None
        self.supervisor.send_signal(number)
        return self.supervisor.wait(PATIENCE)

    def remove(self) -> None:
        """Stop it if it runs, and delete its data."""
        if self.is_alive:
            self.stop()
        command = [sys.executable, "-m", "saas.local", "reset"]
        subprocess.run(command, cwd=ROOT, env=self.given, check=True, capture_output=True)
        self.output.unlink()


@contextmanager
def running_service() -> Iterator[Service]:
    """A service that runs, and is removed in the end even if it never came up."""
    running = Service()
    try:
        yield running.start()
    finally:
        running.remove()
