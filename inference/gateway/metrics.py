"""Counters of one gateway process, cheap to raise, in Prometheus' text form.

A scrape reaches one process: with several, each must be scraped (label `process`); queues and workers are the same from any.
With one process there is no such label, so that its replacement goes on with the same series, as after any reset of a counter.
"""

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
Key = tuple[str, str, int, str]


class Metrics:
    """Requests by (method, route, status, code) with their durations, and rows answered by endpoint."""

    def __init__(self, process: str = "") -> None:
        """`process` is the label of that name; Prometheus drops an empty one."""
        self._process = process
        self._requests: dict[Key, int] = {}
        self._durations: dict[str, list[float]] = {}  # by route: one count per bucket, one above, the sum
        self._rows: dict[str, int] = {}

    def observe(self, method: str, route: str, status: int, code: str, seconds: float, rows: int = 0) -> None:
        key = (method, route, status, code)
        self._requests[key] = self._requests.get(key, 0) + 1
        durations = self._durations.get(route)
        if durations is None:
            durations = self._durations[route] = [0] * (len(BUCKETS) + 2)
        durations[bisect_left(BUCKETS, seconds)] += 1
        durations[-1] += seconds
        if rows and status == 200:
            self._rows[route] = self._rows.get(route, 0) + rows

    def collect(self) -> Iterator[Metric]:
        process = self._process
        requests = CounterMetricFamily(
            "http_requests", "Requests answered.", labels=["method", "route", "status", "code", "process"]
        )
        for (method, route, status, code), count in self._requests.items():
            requests.add_metric([method, route, str(status), code, process], count)
        yield requests
        durations = HistogramMetricFamily(
            "http_request_duration_seconds", "From the head to the answer.", labels=["route", "process"]
        )
        for route, counts in self._durations.items():
            durations.add_metric([route, process], _cumulated(counts[:-1]), counts[-1])
        yield durations
        rows = CounterMetricFamily("maas_rows", "Rows answered.", labels=["route", "process"])
        for route, count in self._rows.items():
            rows.add_metric([route, process], count)
        yield rows


def _cumulated(counts: list[float]) -> list[tuple[str, float]]:
    total, result = 0.0, []
    for bound, count in zip([*map(str, BUCKETS), "+Inf"], counts, strict=True):
        total += count
        result.append((bound, total))
    return result


def gauge(name: str, help_text: str, values: dict[str, float], label: str = "") -> GaugeMetricFamily:
    """A gauge with one label, or without (`values` has the one key "")."""
    family = GaugeMetricFamily(name, help_text, labels=[label] if label else None)
    for key, value in values.items():
        family.add_metric([key] if label else [], value)
    return family


def counter(name: str, help_text: str, values: dict[str, float], label: str) -> CounterMetricFamily:
    """A counter with one label; `_total` is added to its name."""
    family = CounterMetricFamily(name, help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


class _Collected:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def render(families: list[Metric]) -> bytes:
    """Prometheus' text form."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(families))
    return generate_latest(registry)
