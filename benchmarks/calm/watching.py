"""The memory and the file descriptors of every process of the service, looked at while something goes on."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import processes
from benchmarks.looking import meanwhile
from benchmarks.service import Service

LOOK_EVERY = 1.0


class Watch:
    """Samples by process, as `part/pid`; only of those that lived all the time, when it is over."""

    def __init__(self) -> None:
        self.memory: dict[str, list[float]] = {}
        self.files: dict[str, list[float]] = {}
        self.looks = 0

    def look(self, parts: dict[str, set[int]]) -> None:
        self.looks += 1
        for part, pids in parts.items():
            for pid in pids:
                if held := processes.memory_bytes(pid):
                    self.memory.setdefault(f"{part}/{pid}", []).append(held)
                    self.files.setdefault(f"{part}/{pid}", []).append(processes.open_files(pid))

    def lasting(self, samples: dict[str, list[float]]) -> dict[str, list[float]]:
        return {name: seen for name, seen in samples.items() if len(seen) == self.looks}

    def most(self, part: str) -> float:
        """The most memory, in bytes, that one process of the part held."""
        return max((max(seen) for name, seen in self.memory.items() if name.startswith(f"{part}/")), default=0.0)


@contextmanager
def watching(service: Service) -> Iterator[Watch]:
    watch = Watch()

    def look() -> None:
        watch.look(service.pids_by_part())

    look()
    with meanwhile(look, LOOK_EVERY):
        yield watch
