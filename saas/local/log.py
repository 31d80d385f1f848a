"""The log of a local service: what each part says, every line with its name in front, on the terminal and in a file."""

import os
import sys
import time
from itertools import pairwise
from pathlib import Path

WIDTH = 10
LARGEST = 64 << 20  # bytes; then the file becomes service.log.1, that one service.log.2, …
KEPT = 4  # files, the one that is written included
LONGEST = 1 << 16  # bytes of a line; a longer one is written in pieces


class Log:
    """`write` copies a part's output in chunks, without looking at lines: tens of thousands a second cost next to nothing."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = directory / "service.log"
        self._file = self._open()
        self._rest: dict[str, bytes] = {}

    def say(self, text: str) -> None:
        """A line of the supervisor's own."""
        self._put(f"{time.strftime('%H:%M:%S')} ▸ {text}\n".encode())

    def show(self, text: str) -> None:
        """Something for the terminal alone, because it must not be kept: a key."""
        self._print(text.encode() + b"\n")

    def write(self, name: str, chunk: bytes) -> None:
        """Copy whole lines of `chunk`; an unfinished one waits for its end."""
        text = self._rest.pop(name, b"") + chunk
        lines, newline, rest = text.rpartition(b"\n")
        if len(rest) >= LONGEST:
            lines, newline, rest = lines + newline + rest, b"\n", b""
        if rest:
            self._rest[name] = rest
        if not newline:
            return
        prefix = f"{name[:WIDTH]:<{WIDTH}} │ ".encode()
        self._put(prefix + lines.replace(b"\n", b"\n" + prefix) + b"\n")

    def _put(self, data: bytes) -> None:
        self._print(data)
        os.write(self._file, data)
        if os.fstat(self._file).st_size > LARGEST:
            os.close(self._file)
            self._put_aside()
            self._file = self._open()

    def _put_aside(self) -> None:
        """Each file takes the place of the next older one; the oldest is gone."""
        names = [self.path, *(self.path.with_name(f"{self.path.name}.{number}") for number in range(1, KEPT))]
        for newer, older in reversed(list(pairwise(names))):
            if newer.exists():
                newer.replace(older)

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _print(self, data: bytes) -> None:
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except (BrokenPipeError, ValueError):
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - whoever read the terminal's end is gone, for good
