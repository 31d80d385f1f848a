"""What a worker was running when it died: a file of its own, mapped into memory, which outlives it.

Who runs a catalogue version writes its id into a free place of the file, and empties the place at the end. That is a copy of 32
bytes without any system call; the kernel keeps it when the process dies, however that happens. The file is locked as long as
the worker lives, as in inference/engine/budget.py: whoever can lock it has found a dead worker's.
"""

import fcntl
import mmap
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from inference.engine.budget import machine

PLACES = 512  # runs and loads at the same time; beyond that one is not written down
WIDTH = 32  # of a version's id
EMPTY = bytes(WIDTH)


class Recorder:
    """Of one worker. Any thread may call."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is that of all workers of this machine; without one nobody can read what is written down."""
        self._folder = folder
        self._file, self._path = -1, Path()
        self._free = list(range(0, PLACES * WIDTH, WIDTH))
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open(folder)
        self._map = mmap.mmap(self._file, PLACES * WIDTH)

    def _open(self, folder: Path) -> None:
        name = f"{machine()[0]}.{os.getpid()}-{secrets.token_hex(4)}"
        made = folder / f"new-{name}"  # it gets its name once it is locked, so that nobody takes it for a dead worker's
        self._file = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(self._file, PLACES * WIDTH)
        self._path = made.rename(folder / name)

    def begin(self, version: str) -> int:
        """Write down that `version` (32 characters) runs; what to give to `end`."""
        try:
            place = self._free.pop()
        except IndexError:
            return -1
        self._map[place : place + WIDTH] = version.encode()
        return place

    def end(self, place: int) -> None:
        if place >= 0:
            self._map[place : place + WIDTH] = EMPTY
            self._free.append(place)

    @contextmanager
    def running(self, version: str) -> Iterator[None]:
        place = self.begin(version)
        try:
            yield
        finally:
            self.end(place)

    def bury(self, tell: Callable[[set[str]], None]) -> None:
        """Call `tell` with what each dead worker of this machine was running; one of which it raises is found again."""
        if self._folder is None:
            return
        for path in self._folder.glob(f"{machine()[0]}.*"):  # the lock of another machine's file says nothing here
            try:
                file = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file).st_nlink:  # else another worker was first
                    tell(_versions(os.pread(file, PLACES * WIDTH, 0)))
                    path.unlink(missing_ok=True)
            except BlockingIOError:
                pass  # its worker lives
            finally:
                os.close(file)

    def close(self) -> None:
        """The worker ends in order: nobody is to blame for it."""
        if self._folder is not None and self._file >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._file)  # the map stays: a run that has not ended may still write
            self._file = -1


def _versions(places: bytes) -> set[str]:
    found = {places[at : at + WIDTH] for at in range(0, len(places), WIDTH)} - {EMPTY}
    return {version.decode("ascii", "replace") for version in found}
