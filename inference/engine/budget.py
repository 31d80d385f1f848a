"""The memory that customers' processes of one machine may take together, and what all of its workers have taken of it.

Each worker writes what its processes count into a file of its own, and keeps that file locked as long as it lives: the kernel
lets go of the lock when it dies, however that happens, and whoever looks next removes the file. So nothing is left to clear up.
"""

import fcntl
import os
import secrets
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from inference.engine.memory import machine_bytes

FORM = struct.Struct("<QQQ")


class Taken(NamedTuple):
    """Of one worker, or the sums and the highest excess of several."""

    bytes: int = 0  # that its processes count
    excess: int = 0  # the most that one of them holds beyond what it was given
    wanted: int = 0  # bytes that it lacked for a load just now

    @classmethod
    def sum(cls, taken: list["Taken"]) -> "Taken":
        return cls(
            sum(each.bytes for each in taken),
            max([each.excess for each in taken], default=0),
            sum(each.wanted for each in taken),
        )


class ProcessReport(msgspec.Struct):
    """One customer's process: bytes that it counts, and those that it was seen to hold."""

    owner: str  # organization id, 32 hexadecimal digits; of a suspect of the catalogue's the version id
    is_low: bool
    is_busy: bool
    taken: int
    held: int


class MemoryReport(msgspec.Struct):
    """The budget and its use, in bytes; loads refused and busy processes ended for it since the worker started."""

    limit: int
    share: int
    taken: int  # by this worker's processes
    held: int  # by them, as seen
    others: int  # taken by other workers of the machine
    refused: int
    ended: int
    processes: list[ProcessReport]


class Budget:
    """`limit` bytes for all, `share` of them for one organization at most. Any thread may call."""

    def __init__(self, limit: int, share: int, folder: Path | None = None) -> None:
        """`folder` is that of all workers of this machine; without one this worker has the budget to itself."""
        self.limit, self.share = limit, min(limit, share)
        self._folder, self._file = folder, -1
        self._lock = threading.Lock()
        if self._folder is not None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._machine, self._container = machine()
            self._name = f"{self._machine}.{self._container}.{os.getpid()}-{secrets.token_hex(4)}"
            with self._alone():
                self._file = os.open(self._folder / self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @classmethod
    def of_machine(cls, percent: int = 50, organization_percent: int = 50, folder: Path | None = None) -> "Budget":
        """`percent` of the machine's memory, or its container's; `organization_percent` of that for one organization."""
        limit = machine_bytes() * percent // 100
        return cls(limit, limit * organization_percent // 100, folder)

    @contextmanager
    def look(self) -> Iterator[Taken]:
        """What other workers have taken. Nobody else looks until the end: who takes has seen all, and calls `tell` inside."""
        with self._lock, self._alone():
            yield Taken.sum(list(self._others()))

    def tell(self, taken: Taken) -> None:
        """Let the others know what this worker has taken."""
        if self._file >= 0:
            os.pwrite(self._file, FORM.pack(*taken), 0)

    def close(self) -> None:
        if self._folder is not None and self._file >= 0:
            with self._lock, self._alone():
                (self._folder / self._name).unlink(missing_ok=True)
                os.close(self._file)
                self._file = -1

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._folder is None:
            yield
            return
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _others(self) -> Iterator[Taken]:
        """Of those that live; the files of the dead are removed. Nobody makes one meanwhile."""
        if self._folder is None:
            return
        for path in self._folder.glob(f"{self._machine}.*"):  # the lock of another machine's file says nothing here
            if path.name == self._name:
                continue
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:  # its worker lives
                is_beside = path.name.startswith(f"{self._machine}.{self._container}.")
                if is_beside and len(data := os.pread(file, FORM.size, 0)) == FORM.size:
                    yield Taken(*FORM.unpack(data))
            finally:
                os.close(file)


def machine() -> tuple[str, str]:
    """Names for this machine as long as it runs, and for this container in it: the folder may be shared with others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return "machine", "0"
