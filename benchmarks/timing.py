"""When requests are due, and what their latencies say. Times in seconds."""

import math
import random
from collections.abc import Sequence


def arrivals(rate: float, seconds: float, *, seed: int) -> list[float]:
    """The times at which requests are due, from 0 to `seconds`: a Poisson process of `rate` per second, the same for a seed."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    due: list[float] = []
    now = chance.expovariate(rate)
    while now < seconds:
        due.append(now)
        now += chance.expovariate(rate)
    return due


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of `ordered` (ascending) that at least `share` (0 to 1) of them do not exceed: the nearest rank."""
    if not ordered:
        raise ValueError("there is no percentile of nothing")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
