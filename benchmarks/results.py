"""What was measured, kept in a JSON file that is whole after each measurement."""

import statistics
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.workloads import OURS

SCOUTED = 0  # the round in which the configurations of a peer are tried


class Sample(msgspec.Struct, kw_only=True):
    """One system under one workload in one round. Rates per second, `mb` is the rows' float32 in MB/s, latencies in ms.

    `cpu` is the server's processor time in µs a request, `parts` the same by part; a latency is None if that share of the
    requests got no right answer. `lag` in seconds and `ledger_rows` are the drain's, of our own system. `generator` and
    `foreign` are cores that the load generator, and whatever is neither ours nor the server, took meanwhile. `late` in ms:
    load.Load.
    """

    workload: str
    system: str  # ours, or a configuration like ray:batch
    round: int
    rate: float
    mb: float
    p50: float | None
    p99: float | None
    cpu: float
    parts: dict[str, float] = {}
    good: int
    bad: int
    seconds: float
    asked_rate: float = 0.0  # of an open loop
    late: float = 0.0
    generator: float
    foreign: float
    lag: float | None = None
    ledger_rows: int | None = None
    fault: str = ""

    @property
    def peer(self) -> str:
        return self.system.partition(":")[0]


class Results(msgspec.Struct):
    """`failures` by what failed: a peer, or a system under a workload. `best`: the configuration by workload and peer."""

    machine: dict[str, Any]  # Any: JSON
    settings: dict[str, Any]
    samples: list[Sample] = []
    failures: dict[str, str] = {}
    best: dict[str, dict[str, str]] = {}

    def save(self, file: Path) -> None:
        """Replace the file, complete or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.name}.new")
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))
        unfinished.replace(file)

    @classmethod
    def load(cls, file: Path) -> "Results":
        return msgspec.json.decode(file.read_bytes(), type=cls)

    def of(self, workload: str, peer: str) -> list[Sample]:
        """The samples of a peer (or ours) in the rounds, those of its best configuration there."""
        return [s for s in self.samples if s.workload == workload and s.peer == peer and s.round != SCOUTED]

    def median(self, workload: str, peer: str, metric: str) -> float | None:
        """None without samples; inf where most rounds had too few right answers to tell a latency."""
        return median(self.of(workload, peer), metric)

    def choose(self, workload: str, peer: str) -> None:
        """Of the scouted configurations that answered all right, the one with the highest rate; else of all."""
        scouted = [s for s in self.samples if s.workload == workload and s.peer == peer and s.round == SCOUTED]
        if scouted and peer != OURS:
            best = max(scouted, key=lambda sample: (sample.bad == 0, sample.rate))
            self.best.setdefault(workload, {})[peer] = best.system


def median(samples: list[Sample], metric: str) -> float | None:
    values = [getattr(sample, metric) for sample in samples]
    return statistics.median(float("inf") if value is None else value for value in values) if values else None
