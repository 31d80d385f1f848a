"""Whether a model ends its process on some whole number: tried in a copy of intake's process, so that it is known which it was.

An error is an answer, and so is a run that takes too long: a loop may count what it is given. Only what ends an engine counts.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

from inference.engine.tensors import Array
from inference.intake.feeds import Feed

CPU_SECONDS, SECONDS = 1.0, 4.0  # of all runs together: of processor time and by the clock
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP)


def first_crash(run: Callable[[Feed], list[Array]], rows: Iterator[tuple[str, Feed]]) -> tuple[str, str] | None:
    """With which signal the process ends, and on which of the (described) rows; None if none was found in time."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _run_all(run, rows, write)
    os.close(write)
    with os.fdopen(read, errors="replace") as said:
        lines = said.read().splitlines()
    status = os.waitpid(child, 0)[1]
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return (signal.Signals(ended_by).name, f"on {lines[-1]}") if ended_by in CRASHES and lines else None


def _run_all(run: Callable[[Feed], list[Array]], rows: Iterator[tuple[str, Feed]], write: int) -> None:
    """In the copy: say each row before it runs. Does not return."""
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)  # these end the process; a run's own bound is a third timer
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        for said, row in rows:
            os.write(write, said.replace("\n", " ")[:300].encode() + b"\n")
            with suppress(Exception):  # onnxruntime's types and RuntimeError: it refuses them
                run(row)
    finally:
        os._exit(0)
