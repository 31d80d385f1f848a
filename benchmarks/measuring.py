"""One measurement: a server that runs is warmed up, driven, and its processor time is read."""

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from benchmarks import dialects, peers, processes
from benchmarks.failures import Failed
from benchmarks.load import Load, Plan, drive
from benchmarks.models import Model
from benchmarks.results import Sample
from benchmarks.service import Service
from benchmarks.workloads import DIALECTS, OURS, Workload

READY_SECONDS = 180.0
SETTLE_SECONDS = 20.0
SETTLED_CORES = 0.1
MB = 1e6


@dataclass(frozen=True)
class Target:
    """A server that answers. `cpu` gives the processor seconds of its parts so far."""

    system: str
    port: int
    path: str
    dialect: str
    headers: dict[str, str]
    cpu: Callable[[], dict[str, float]]

    def plan(self, model: Model, *, clients: int, seconds: float, rate: float = 0.0) -> Plan:
        requests = dialects.requests(self.path, self.dialect, model, self.headers)
        return Plan(self.port, clients, seconds, rate, self.dialect, requests, model.right_answers())


@dataclass(frozen=True)
class Period:
    """How long, in seconds."""

    warmup: float
    measured: float


def measure_peer(target: Target, workload: Workload, model: Model, period: Period, number: int, rate: float) -> Sample:
    """Raises Failed, RuntimeError."""
    warm_up(target, workload, model, period, rate)
    before, all_before, began = target.cpu(), _all_cpu(), time.monotonic()
    load = drive(target.plan(model, clients=workload.clients, seconds=period.measured, rate=rate))
    return sample(target, workload, model, number, rate, load, before, all_before, began)


def measure_ours(
    service: Service, target: Target, workload: Workload, model: Model, period: Period, number: int, rate: float
) -> Sample:
    """The same for our own service: what the drain has left to do at the end counts, too. Raises Failed, RuntimeError."""
    warm_up(target, workload, model, period, rate)
    service.wait_until_drained()
    rows = service.ledger_rows()
    before, all_before, began = target.cpu(), _all_cpu(), time.monotonic()
    with service.lag() as lag:
        load = drive(target.plan(model, clients=workload.clients, seconds=period.measured, rate=rate))
        service.wait_until_drained()
    made = sample(target, workload, model, number, rate, load, before, all_before, began)
    if workload.mode != "bare":
        made.lag, made.ledger_rows = max(lag), service.ledger_rows() - rows
    return made


def warm_up(target: Target, workload: Workload, model: Model, period: Period, rate: float) -> None:
    if period.warmup:
        drive(target.plan(model, clients=workload.clients, seconds=period.warmup, rate=rate))


def sample(
    target: Target,
    workload: Workload,
    model: Model,
    number: int,
    rate: float,
    load: Load,
    before: dict[str, float],
    all_before: tuple[float, float],
    began: float,
) -> Sample:
    if not load.good:
        raise Failed(f"no right answer: {load.fault}")
    wall = time.monotonic() - began
    parts = {name: (used - before.get(name, 0.0)) / load.good * 1e6 for name, used in target.cpu().items()}
    machine, known = (after - earlier for after, earlier in zip(_all_cpu(), all_before, strict=True))
    return Sample(
        workload=workload.name,
        system=target.system,
        round=number,
        rate=load.good / load.seconds,
        mb=load.good / load.seconds * model.row_bytes / MB,
        p50=_ms(load.p50),
        p99=_ms(load.p99),
        cpu=sum(parts.values()),
        parts=parts,
        good=load.good,
        bad=load.bad,
        seconds=load.seconds,
        asked_rate=rate,
        late=load.late * 1000,
        generator=load.cpu / load.seconds,
        foreign=max(0.0, machine - known) / wall,
        fault=load.fault,
    )


def _ms(seconds: float) -> float | None:
    return None if math.isinf(seconds) else seconds * 1000


def _all_cpu() -> tuple[float, float]:
    """Processor seconds of the machine, and of this process with all that it started and starts."""
    return processes.machine_seconds(), processes.cpu_seconds(processes.tree([os.getpid()]))


@contextmanager
def our_target(service: Service, workload: Workload, model: Model) -> Iterator[Target]:
    """Our service in the workload's mode. Raises Failed."""
    dialect = DIALECTS[workload.body][OURS]
    name = service.upload(model) if workload.mode == "upload" else model.name
    path = f"/api/v1/models/{name}/predict" if dialect == "predict" else f"/v2/models/{name}/infer"
    special = {"everysec": service.everysec, "budgets": service.budgets}.get(workload.mode, nullcontext)
    gateway = service.bare() if workload.mode == "bare" else nullcontext(service.port)
    with special(), gateway as port:
        yield Target(OURS, port, path, dialect, service.headers, service.cpu_by_part)


@contextmanager
def peer_target(variant: peers.Variant, venv: Path, model: Model, dialect: str, log: Path) -> Iterator[Target]:
    """A peer, started in an empty folder and stopped whatever happens. Raises Failed, OSError."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        site = peers.Site(venv, folder, peers.free_port(), model, dialect)
        launch = peers.prepare(variant, site)
        server = processes.start(launch.command, launch.environment, folder, log)
        try:
            target = Target(variant.label, site.port, launch.path, dialect, {}, lambda: {"server": _below()})
            wait_until_ready(target, model, lambda: server.poll() is None, log)
            settle()
            yield target
        finally:
            processes.stop(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _below() -> float:
    """Processor seconds of all that runs below us: one server at a time, no load generator when this is called."""
    return processes.cpu_seconds(processes.below_us())


def wait_until_ready(target: Target, model: Model, is_alive: Callable[[], bool], log: Path) -> None:
    """Until it has answered right. Raises Failed."""
    deadline, reason = time.monotonic() + READY_SECONDS, ""
    plan = target.plan(model, clients=1, seconds=0.0)
    while time.monotonic() < deadline:
        if not is_alive():
            raise Failed(f"it ended: {processes.last_line(log)}; see {log.name}")
        try:
            load = drive(plan)
        except RuntimeError as error:
            reason = str(error)
        else:
            if load.good:
                return
            reason = load.fault
        time.sleep(0.5)
    raise Failed(f"not ready after {READY_SECONDS:g} s: {reason}; last of its log: {processes.last_line(log)}")


def settle() -> None:
    """Wait while what was started still works on its start."""
    deadline, cores = time.monotonic() + SETTLE_SECONDS, math.inf
    while cores > SETTLED_CORES and time.monotonic() < deadline:
        before = _below()
        time.sleep(1)
        cores = _below() - before
