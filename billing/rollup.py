"""A batch of records added up, once, in memory: what the drain adds to hours and sums."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from billing.records import NO_KEY, JournalRecord

HOUR_MS = 3_600_000
EVER = "ever"
ORGANIZATION = "organization"


class Rollup(NamedTuple):
    """What is added, as rows in the order of billing.ledger's HOUR and SUM.

    `hours`: tenant, hour, key, model, version, mode, currency, model name, version number, calls, reversed, rows, bytes in,
    bytes out, queue µs, compute µs, total ms, nano. `sums`: tenant, scope, period, calls, nano. Both are sorted by key, so that
    writers meet rows in one order.
    """

    hours: list[tuple[Any, ...]]
    sums: list[tuple[Any, ...]]


def roll_up(records: list[JournalRecord], currencies: dict[int, str]) -> Rollup:
    """Add up `records`; `currencies` by price version."""
    hours: dict[tuple[Any, ...], list[int]] = {}
    names: dict[tuple[Any, ...], tuple[str, str]] = {}
    sums: dict[tuple[str, str, str], list[int]] = {}
    for _, _, _, usage in records:
        hour = usage.opened_ms // HOUR_MS
        key = (usage.tenant, hour, usage.key or NO_KEY, usage.model, usage.version, usage.mode, currencies[usage.price_version])
        total = hours.get(key)
        if total is None:
            total = hours[key] = [0] * 9
        names[key] = (usage.model_name, usage.version_number)
        if usage.kind != "usage":
            total[1] += 1
            continue
        total[0] += 1
        total[2] += usage.rows
        total[3] += usage.bytes_in
        total[4] += usage.bytes_out
        total[5] += usage.queue_us
        total[6] += usage.compute_us
        total[7] += max(0, usage.closed_ms - usage.opened_ms)
        total[8] += usage.nano
        if usage.mode == "live":
            _add(sums, usage.tenant, ORGANIZATION, usage.period, usage.nano)
            if usage.key:
                _add(sums, usage.tenant, usage.key, usage.period, usage.nano)
    return Rollup(
        [(key[0], _hour(key[1]), *key[2:], *names[key], *total) for key, total in sorted(hours.items())],
        [(*key, *total) for key, total in sorted(sums.items())],
    )


def _add(sums: dict[tuple[str, str, str], list[int]], tenant: str, scope: str, period: str, nano: int) -> None:
    for when in (period, EVER):
        total = sums.setdefault((tenant, scope, when), [0, 0])
        total[0] += 1
        total[1] += nano


def _hour(number: int) -> str:
    """The hour counted from the epoch, as PostgreSQL reads it."""
    return datetime.fromtimestamp(number * 3600, UTC).isoformat()
