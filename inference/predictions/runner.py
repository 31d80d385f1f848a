"""One attempt at an asynchronous prediction: the same gateway as for HTTP, in a thread of the Celery worker.

The call carries the prediction's id as its Idempotency-Key, so an attempt that repeats one whose worker died replays what was
stored, and nothing is charged twice (books.md, Asynchronous predictions).
"""

import asyncio
import logging
import threading
from concurrent.futures import Future

from inference.gateway.call import Call, Rendered
from inference.gateway.line import Gateway
from inference.gateway.stored import Answers
from saas.config import Config
from saas.lib.errors import AppError, Unavailable

log = logging.getLogger(__name__)

START_WITHIN = 20.0  # seconds
STOP_WITHIN = 6.0  # seconds that running calls get when the worker stops


class GatewayThread:
    """A gateway on an event loop of its own, for code that waits in threads. Started by its first use."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gateway: Gateway | None = None
        self._is_stopped = False

    def submit(self, call: Call) -> "Future[Rendered | AppError]":
        """Start `call`; the future holds its Rendered answer or its AppError. It replaces `call.done`."""
        gateway, loop = self._running()
        outcome: Future[Rendered | AppError] = Future()
        call.done = lambda _, answer: outcome.set_result(answer)
        loop.call_soon_threadsafe(gateway.submit, call)
        return outcome

    def cancel(self, call: Call) -> None:
        """End `call` as failed, if it has not ended: its charge is taken back."""
        gateway, loop = self._running()
        loop.call_soon_threadsafe(gateway.cancel, call)

    def stop_soon(self) -> None:
        """`stop`, in a thread of its own: a signal handler must not wait."""
        threading.Thread(target=self.stop, name="gateway-stop").start()

    def stop(self) -> None:
        """Let running calls end for a few seconds, then fail them: their predictions are tried again elsewhere."""
        with self._lock:
            self._is_stopped = True
            gateway, loop = self._gateway, self._loop
        if gateway is None or loop is None:
            return
        asyncio.run_coroutine_threadsafe(gateway.stop(STOP_WITHIN), loop).result(STOP_WITHIN + 6)
        loop.call_soon_threadsafe(loop.stop)

    def _running(self) -> tuple[Gateway, asyncio.AbstractEventLoop]:
        with self._lock:
            if self._is_stopped:
                raise Unavailable("The worker is stopping")
            if self._gateway is None or self._loop is None:
                self._start()
            assert self._gateway is not None
            assert self._loop is not None
            return self._gateway, self._loop

    def _start(self) -> None:
        """Raises Unavailable, and then leaves nothing behind."""
        loop = asyncio.new_event_loop()
        threading.Thread(target=_serve, args=(loop,), name="gateway", daemon=True).start()
        opening = asyncio.run_coroutine_threadsafe(self._open(), loop)
        try:
            self._gateway = opening.result(START_WITHIN)
        except Exception as error:  # whatever it is, the prediction is tried again later
            opening.cancel()
            loop.call_soon_threadsafe(loop.stop)
            raise Unavailable("The worker's gateway does not start") from error
        self._loop = loop

    async def _open(self) -> Gateway:
        config = self._config
        gateway = Gateway(
            state_url=config.state_url, lanes_url=config.lanes_url, lane_max_ms=config.lane_max_ms, stored=Answers()
        )
        try:
            await gateway.start()
        except BaseException:  # it was given up: cancelled
            await gateway.stop(0)
            raise
        return gateway


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is stopped; then end what is left on it."""
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(_end_tasks())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
