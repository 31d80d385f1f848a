"""The engine inside a Celery worker: a bootstep that runs a Host where the worker consumes an infer.* queue.

`celery -A saas inspect engine` shows what each worker has loaded, what it has done and what waits in its lanes.
"""

import logging
import time
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.worker import state as worker_state
from celery.worker.control import inspect_command

if TYPE_CHECKING:
    from inference.engine.source import ArtifactSource

log = logging.getLogger(__name__)

END_SECONDS = 70.0  # for all that is under way when the worker ends: the longest deadline and some more; who stops it may kill
DRAIN_SECONDS = 10.0  # of these, for the engine after the tasks
WAKE_SECONDS = 0.2


class EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Owns the worker's Host. Imports are inside: Celery's clients load this module for its inspect command only."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:  # Celery's own types have none
        self.host: Any = None
        super().__init__(worker, **options)

    def include_if(self, worker: Any) -> bool:
        return any(name.startswith("infer.") for name in worker.app.amqp.queues.consume_from)

    def start(self, worker: Any) -> None:
        from django.conf import settings

        from inference.engine.budget import Budget
        from inference.engine.recorder import Recorder
        from inference.host import Host
        from saas.lib import garbage

        config = settings.CONFIG
        self.host = worker.engine_host = Host(
            worker.hostname,
            config.lanes_url,
            load_source,
            slots=config.engine_slots,
            memory_bytes=config.engine_memory_bytes,
            max_batch_rows=config.engine_max_batch_rows,
            hardware=config.engine_hardware,
            budget=Budget.of_machine(
                config.engine_customers_percent, config.engine_organization_percent, config.data_dir / "memory"
            ),
            recorder=Recorder(config.data_dir / "running"),
        )
        self.host.start()
        garbage.settle()
        if worker.hub is not None:
            # A signal does not interrupt the loop's poll (PEP 475); without a timer SIGTERM is seen seconds later.
            worker.hub.call_repeatedly(WAKE_SECONDS, lambda: None)
        log.info("the engine %s serves %s", self.host.name, config.engine_hardware)

    def stop(self, worker: Any) -> None:
        """Let tasks under way, which wait for this engine, end first; then drain."""
        until = time.monotonic() + END_SECONDS
        while worker_state.active_requests and time.monotonic() < until - DRAIN_SECONDS:
            time.sleep(0.05)
        self._end(until - time.monotonic())

    def terminate(self, worker: Any) -> None:
        """A second signal: what runs is given a moment only."""
        self._end(1.0)

    def _end(self, seconds: float) -> None:
        host, self.host = self.host, None
        if host is not None:
            host.stop(seconds)

    def info(self, worker: Any) -> dict[str, Any]:
        """For `inspect stats`."""
        return {"engine": _report(worker)}


def load_source(version: str, owner: str) -> "ArtifactSource | None":
    """A version's artifact, read in a loader thread, whose database connection must not outlive its server's patience."""
    from django.db import close_old_connections

    from inference.registry import version_artifact

    close_old_connections()
    try:
        return version_artifact(version, owner)
    finally:
        close_old_connections()


def _report(worker: Any) -> dict[str, Any]:
    import msgspec

    host = getattr(worker, "engine_host", None)
    if host is None:
        return {}
    report: dict[str, Any] = msgspec.to_builtins(host.report())
    return report


@inspect_command()
def engine(state: Any) -> dict[str, Any]:
    """Models, batches and queues of the worker's engine."""
    worker = state.consumer.controller
    host = getattr(worker, "engine_host", None)
    return _report(worker) | ({"waiting": host.waiting()} if host else {})
