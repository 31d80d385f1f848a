"""The private socket by which `make restart`, `status` and `stop` reach the running supervisor.

A command is one line; the answer is lines of text, the last one `done` or `failed: …`.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from saas.local.home import socket_directory
from saas.local.parts import PartFailed

Say = Callable[[str], None]


def control_path(data_dir: Path) -> Path:
    """Where the socket lies: in a directory that only its owner can enter."""
    return socket_directory(data_dir / "run", None, data_dir) / "control"


class Control:
    """The server's side. `answer(command, say)` does it and says lines; PartFailed becomes the last one."""

    def __init__(self, path: Path, answer: Callable[[str, Say], Awaitable[None]]) -> None:
        self.path, self.answer = path, answer
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(text: str) -> None:
            writer.write(f"{text}\n".encode())

        with contextlib.suppress(ConnectionError):  # who asked may leave; what it asked for goes on
            command = (await reader.readline()).decode().strip()
            try:
                await self.answer(command, say)
                say("done")
            except PartFailed as error:
                say(f"failed: {error}")
            await writer.drain()
            writer.close()
            await writer.wait_closed()


def ask(path: Path, command: str) -> Iterator[str]:
    """The client's side: the lines of the answer as they come. Raises OSError if nobody listens, PartFailed if it failed."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(f"{command}\n".encode())
        with connection.makefile() as lines:
            for line in lines:
                text = line.rstrip("\n")
                if text == "done":
                    return
                if text.startswith("failed: "):
                    raise PartFailed(text.removeprefix("failed: "))
                yield text
    raise PartFailed("the service ended before it answered")
