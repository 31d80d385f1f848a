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

TASKS_SECONDS = 5.0  # that tasks under way, which wait for this engine, are given when the worker ends
DRAIN_SECONDS = 8.0


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

        from inference.host import Host

        config = settings.CONFIG
        self.host = worker.engine_host = Host(
            worker.hostname,
            config.lanes_url,
            load_source,
            slots=config.engine_slots,
            memory_bytes=config.engine_memory_bytes,
            max_batch_rows=config.engine_max_batch_rows,
            hardware=config.engine_hardware,
        )
        self.host.start()
        log.info("the engine %s serves %s", self.host.name, config.engine_hardware)

    def stop(self, worker: Any) -> None:
        """Let tasks under way, which wait for this engine, end first; then drain."""
        until = time.monotonic() + TASKS_SECONDS
        while worker_state.active_requests and time.monotonic() < until:
            time.sleep(0.05)
        host, self.host = self.host, None
        if host is not None:
            host.stop(DRAIN_SECONDS)

    terminate = stop

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


@inspect_command()  # type: ignore[untyped-decorator]  # Celery has no types
def engine(state: Any) -> dict[str, Any]:
    """Models, batches and queues of the worker's engine."""
    worker = state.consumer.controller
    host = getattr(worker, "engine_host", None)
    return _report(worker) | ({"waiting": host.waiting()} if host else {})
