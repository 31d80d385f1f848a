"""What was seen beside what was asked for: pure functions, so that a verdict can be tested without a load."""

import math
import statistics
from collections.abc import Sequence

import msgspec

Second = tuple[int, int, float]
"""(right answers, others, p99 in seconds) of one second: load.Load.by_second."""

FLAT = 0.02  # growth of memory
NOISE_BYTES = 1 << 20  # what an allocator takes at once is no growth
FEW_FILES = 4  # descriptors; connections come and go
WARM_SHARE = 0.2  # of the samples, while caches fill
EDGE_SHARE = 0.2  # of the rest: the samples at the beginning and at the end that are compared


class Check(msgspec.Struct):
    """`is_met` is None for what is told only."""

    what: str
    seen: str
    goal: str
    is_met: bool | None


def at_least(what: str, seen: float, goal: float, unit: str = "") -> Check:
    return Check(what, _shown(seen, unit), f"≥ {_shown(goal, unit)}", seen >= goal)


def at_most(what: str, seen: float, goal: float, unit: str = "") -> Check:
    return Check(what, _shown(seen, unit), f"≤ {_shown(goal, unit)}", seen <= goal)


def told(what: str, seen: float, unit: str = "") -> Check:
    return Check(what, _shown(seen, unit), "told", None)


def ratio(part: float, whole: float) -> float:
    """inf if the whole is 0 or both are infinite: no comparison is met by it."""
    return part / whole if whole and not math.isinf(whole) else math.inf


def share(part: float, whole: float) -> float:
    """0 of nothing: no share is met by it."""
    return part / whole if whole else 0.0


def recovered_after(seconds: Sequence[Second], p99: float) -> float:
    """The first of `seconds` from which on all requests were answered right, within `p99` seconds; inf if there is none."""
    for start in range(len(seconds) - 1, -1, -1):
        good, bad, seen = seconds[start]
        if bad or (good and seen > p99):
            return start + 1 if start + 1 < len(seconds) else math.inf
    return 0 if seconds else math.inf


def edges(samples: Sequence[float]) -> tuple[float, float]:
    """Medians of the beginning, after the warm-up, and of the end."""
    warm = samples[int(len(samples) * WARM_SHARE) :]
    count = max(1, int(len(warm) * EDGE_SHARE))
    return statistics.median(warm[:count]), statistics.median(warm[-count:])


def is_flat(samples: Sequence[float]) -> bool:
    """Bytes of memory: they grew by less than FLAT after the warm-up, or by less than NOISE_BYTES."""
    first, last = edges(samples)
    return last - first < max(FLAT * first, NOISE_BYTES)


def memory_checks(by_process: dict[str, list[float]]) -> list[Check]:
    """One for all processes, naming those that grew; samples in bytes."""
    return [_all_flat("memory of every process", by_process, is_flat, "growth < 2 % after warm-up", 1 << 20, " MiB")]


def file_checks(by_process: dict[str, list[float]]) -> list[Check]:
    def is_same(samples: Sequence[float]) -> bool:
        first, last = edges(samples)
        return last - first <= FEW_FILES

    return [_all_flat("file descriptors of every process", by_process, is_same, f"at most {FEW_FILES} more", 1, "")]


def _all_flat(what: str, by_process: dict[str, list[float]], is_flat: object, goal: str, unit: int, name: str) -> Check:
    assert callable(is_flat)
    grown = [process for process, samples in by_process.items() if not is_flat(samples)]
    shown = [f"{process} {_grown(by_process[process], unit)}{name}" for process in grown]
    seen = "; ".join(shown) if grown else f"{len(by_process)} processes flat"
    return Check(what, seen, goal, bool(by_process) and not grown)


def _grown(samples: Sequence[float], unit: int) -> str:
    first, last = edges(samples)
    return f"{first / unit:.1f} → {last / unit:.1f}"


def _shown(value: float, unit: str) -> str:
    if math.isinf(value):
        return "never"
    if unit == "%":
        return f"{value * 100:.1f} %"
    return f"{value:,.0f}{unit}" if value >= 100 else f"{value:.3g}{unit}"
