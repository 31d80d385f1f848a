"""Whether an answer could be given, and what the platform looks like from one gateway process."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import orjson

from inference.gateway.metrics import Metrics, counter, gauge, render
from inference.lanes import WORKERS, lane_keys, pool_key, worker_key
from saas.lib.errors import Unavailable

HARDWARE = ("cpu", "gpu")
BILLING_ALARMS = "billing:alarms"
"""Hash on the lanes server: how much of each kind waits for an operator, where billing writes it (billing.alarms)."""


class Lanes(Protocol):
    is_connected: bool

    async def ask(self, *command: Any) -> Any: ...  # Any: Valkey's own types


class Books(Protocol):
    @property
    def is_connected(self) -> bool: ...
    @property
    def is_full(self) -> bool: ...
    @property
    def room(self) -> int: ...
    def may_answer(self) -> bool: ...


class Health:
    """`books` and `lanes` are the gateway's own connections. A tenant's broken model never makes it unready."""

    def __init__(self, books: Books, lanes: Lanes, metrics: Metrics) -> None:
        self._books, self._lanes, self._metrics = books, lanes, metrics

    async def checks(self) -> dict[str, bool]:
        """What an answer needs: the state server with a fresh heartbeat and memory left, the lanes server, a living worker."""
        try:
            workers = len(await self._workers())
        except Unavailable:
            workers = 0
        return {
            "state": self._books.is_connected and self._books.may_answer() and not self._books.is_full,
            "lanes": self._lanes.is_connected,
            "worker": workers > 0,
        }

    async def is_ready(self) -> bool:
        return all((await self.checks()).values())

    async def metrics(self) -> bytes:
        """Prometheus' text: this process' counters, and the queues and workers as the lanes server shows them."""
        families = list(self._metrics.collect())
        checks = await self.checks()
        families.append(gauge("maas_up", "What an answer needs.", {k: float(v) for k, v in checks.items()}, "part"))
        if self._books.room >= 0:
            room = {"": float(self._books.room)}
            families.append(gauge("maas_books_room_bytes", "For what Idempotency-Keys keep; at 0 no such call opens.", room))
        try:
            workers = await self._workers()
            families.append(gauge("maas_workers", "Workers believed alive.", {"": float(len(workers))}))
            families.append(
                gauge("maas_queue_length", "Calls that wait in a lane or pool.", await self._queues(workers), "queue")
            )
            families += worker_families(await self._reports(workers))
            families.append(
                gauge("maas_billing_alarms", "What of billing waits for an operator.", await self._alarms(), "kind")
            )
        except Unavailable:
            pass  # maas_up says that the lanes server is away; this process' own counters are still worth showing
        return render(families)

    async def _alarms(self) -> dict[str, float]:
        parts = await self._lanes.ask("HGETALL", BILLING_ALARMS)
        return {kind.decode(): float(count) for kind, count in zip(parts[::2], parts[1::2], strict=True)}

    async def _workers(self) -> list[str]:
        names = await self._lanes.ask("ZRANGEBYSCORE", WORKERS, time.time(), "+inf")
        return [name.decode() for name in names]

    async def _reports(self, workers: list[str]) -> dict[str, dict[str, Any]]:  # JSON: inference.reports.Report
        if not workers:
            return {}
        stored = await self._lanes.ask("MGET", *[worker_key(name) for name in workers])
        return {name: orjson.loads(report) for name, report in zip(workers, stored, strict=True) if report}

    async def _queues(self, workers: list[str]) -> dict[str, float]:
        names = [pool_key(hardware, low=low) for hardware in HARDWARE for low in (False, True)]
        for report in (await self._reports(workers)).values():
            names += [key for model in report["models"] for key in lane_keys(model["version"])]
        return {name: float(await self._lanes.ask("LLEN", name)) for name in dict.fromkeys(names)}


def worker_families(reports: dict[str, dict[str, Any]]) -> list[Any]:  # prometheus_client.core.Metric
    """Numbers of each worker's report, and its counters, durations in seconds."""
    plain: dict[str, tuple[str, Callable[[dict[str, Any]], float]]] = {
        "maas_worker_models": ("Models that the worker has loaded.", lambda report: len(report["models"])),
        "maas_worker_slots": ("Batches that the worker runs at once.", lambda report: report["slots"]),
        "maas_worker_memory_bytes": ("Measured bytes of its models.", lambda report: report["bytes"]),
        "maas_worker_suspects": (
            "Of the catalogue, run apart.",
            lambda report: len(report.get("suspects", ())),
        ),
        "maas_customers_memory_limit_bytes": ("All customers' processes of its machine together.", _memory("limit")),
        "maas_customers_memory_bytes": ("What the worker's have taken of it.", _memory("taken")),
        "maas_customers_memory_held_bytes": ("What they were seen to hold.", _memory("held")),
    }
    families: list[Any] = [
        gauge(name, text, {worker: float(read(report)) for worker, report in reports.items()}, "worker")
        for name, (text, read) in plain.items()
    ]
    for name, text in (
        ("refused", "Loads of customers' models that were refused for want of memory."),
        ("ended", "Customers' processes that were ended while they ran, for the memory they held."),
    ):
        values = {worker: _memory(name)(report) for worker, report in reports.items()}
        families.append(counter(f"maas_customers_memory_{name}", text, values, "worker"))
    for name in sorted({name for report in reports.values() for name in report["counters"]}):
        values = {worker: float(report["counters"].get(name, 0)) for worker, report in reports.items()}
        if name.endswith("_us"):
            name, values = name.removesuffix("_us") + "_seconds", {worker: us / 1e6 for worker, us in values.items()}
        families.append(counter(f"maas_worker_{name}", "Of the worker's report; starts with the worker.", values, "worker"))
    return families


def _memory(name: str) -> Callable[[dict[str, Any]], float]:  # JSON
    """Reads a number of a report's memory; a worker of an older release, which is being replaced, tells none."""
    return lambda report: float(report.get("memory", {}).get(name, 0))
