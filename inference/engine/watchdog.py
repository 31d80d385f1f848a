"""Ends runs of onnxruntime that nobody waits for any more."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import onnxruntime

from inference.engine.errors import DeadlineExceeded

LONGEST_SLEEP = 3600.0


class Watchdog:
    """One thread for all runs of a process, started by the first that has a deadline.

    A run ends between two of the model's operators. Deadlines are in seconds since the epoch, and rarely earlier than those
    before them, so that the thread is rarely woken.
    """

    def __init__(self) -> None:
        self._runs: dict[onnxruntime.RunOptions, float] = {}
        self._changed = threading.Condition()
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None

    @contextmanager
    def run(self, deadline: float) -> Iterator[onnxruntime.RunOptions]:
        """The options to run with. Raises DeadlineExceeded instead of what a run raises that was ended, or not begun."""
        if time.time() >= deadline:
            raise DeadlineExceeded("The deadline passed before the run")
        options = onnxruntime.RunOptions()
        with self._changed:
            self._runs[options] = deadline
            if deadline < self._wakes_at:
                self._wake()
        try:
            yield options
        except Exception as error:
            if options.terminate:
                raise DeadlineExceeded("The deadline passed while the model ran") from error
            raise
        finally:
            with self._changed:
                del self._runs[options]

    def _wake(self) -> None:
        self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        with self._changed:
            while True:
                now = time.time()
                for options, deadline in self._runs.items():
                    if deadline <= now:
                        options.terminate = True
                self._wakes_at = min([deadline for deadline in self._runs.values() if deadline > now], default=math.inf)
                self._changed.wait(min(self._wakes_at - now, LONGEST_SLEEP))


WATCHDOG = Watchdog()
