"""What all tests share: a real PostgreSQL, two real Valkeys, and Django on top of them.

The addresses are decided here, before anything of Django is imported; the servers are started by the first test that is not
marked `no_servers`. Nothing is cleaned or rolled back between tests: each one makes its own organizations.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import django
import pytest
import redis

from saas.local.processes import Guard
from saas.local.servers import embedded_servers, spawn, wait_ready
from tests.service import Service

DATA_DIR = Path(tempfile.mkdtemp(prefix="model-service-tests-"))
SERVERS = embedded_servers(DATA_DIR, is_durable=False)
GUARD = Guard(DATA_DIR, [server.directory for server in SERVERS])  # ends the servers if the tests are killed

os.environ.update({name: url for server in SERVERS for name, url in server.urls().items()})
os.environ.update(DJANGO_SETTINGS_MODULE="saas.settings", DEBUG="1", DATA_DIR=str(DATA_DIR))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "no_servers: needs neither PostgreSQL nor Valkey.")
    django.setup()  # before test modules import models; it opens no connection


def pytest_unconfigure() -> None:
    SERVERS[0].home.remove()
    shutil.rmtree(DATA_DIR, ignore_errors=True)
    GUARD.dismiss()


@pytest.fixture(scope="session")
def embedded(django_db_blocker) -> Iterator[dict[str, str]]:
    """The running servers, with the tables of all migrations; their addresses by the environment's names."""
    processes = []
    with (DATA_DIR / "servers.log").open("wb") as log:
        try:
            for server in SERVERS:
                server.prepare()
                processes.append(spawn(server, DATA_DIR, output=log.fileno()))
            for server, process in zip(SERVERS, processes, strict=True):
                wait_ready(server, process)
            SERVERS[0].create_database()
            with django_db_blocker.unblock():
                _migrate()
                yield {name: url for server in SERVERS for name, url in server.urls().items()}
                _close_connections()
        finally:
            for server, process in zip(SERVERS, processes, strict=False):
                process.send_signal(server.stop_signal)
            for process in processes:
                _wait(process)


def _migrate() -> None:
    from django.core.management import call_command

    call_command("migrate", database="owner", verbosity=0)


def _close_connections() -> None:
    from django.db import connections

    connections.close_all()


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(autouse=True)
def _servers(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("no_servers") is None:
        request.getfixturevalue("embedded")


@pytest.fixture
def state(embedded: dict[str, str]) -> Iterator[redis.Redis]:
    """A client of the durable Valkey. Shared by all tests: use names of your own."""
    with redis.Redis.from_url(embedded["STATE_URL"]) as client:
        yield client


@pytest.fixture
def lanes(embedded: dict[str, str]) -> Iterator[redis.Redis]:
    """A client of the volatile Valkey. Shared by all tests: use names of your own."""
    with redis.Redis.from_url(embedded["LANES_URL"]) as client:
        yield client


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """The whole platform, running: for tests over HTTP. It has servers of its own; mark tests that need only it `no_servers`."""
    running = Service()
    try:
        yield running.start()
    finally:
        running.remove()
