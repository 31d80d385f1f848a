"""How tests wait: on a condition, and so long that only a fault is too late, on the slowest machine too."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 60.0  # seconds; for every wait, join and client timeout of the tests that should not run out


def until(condition: Callable[[], T], *, seconds: float = PATIENCE, what: str = "it") -> T:
    """Wait until `condition()` is true; what it gave. An AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about within {seconds:g} s"
        time.sleep(0.01)
    return found


async def until_async(condition: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    """The same on an event loop."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
