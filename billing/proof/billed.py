"""What was used from one moment to another, as bills and invoices count it.

A call belongs to the hour of its seal, which is that of its entry in the journal, and within that hour to the moment at which
it was closed. Both are on the bill, so whoever checks one comes to the same sums. Amounts are nano at list prices.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from django.db import connections
from django.db.models import Max

from billing.models import UsageSeal
from billing.proof.receipts import milliseconds
from tenants.databases import current_alias

HOUR, HOUR_MS = timedelta(hours=1), 3_600_000
LONGEST_CALL = timedelta(days=3)  # between opening, which says the ledger's partition, and the journal's entry

# The hours from `first` up to `last`; of the first without what was closed before `start`, of the last what was before `end`.
ROWS = """
SELECT coalesce(sum(amount_nano), 0) FROM usage_event
WHERE tenant_id = %(tenant)s AND day BETWEEN %(first_day)s AND %(last_day)s
AND (%(first_call)s::uuid IS NULL OR call_id BETWEEN %(first_call)s::uuid AND %(last_call)s::uuid)
AND split_part(stream_id, '-', 1)::bigint >= %(first)s AND split_part(stream_id, '-', 1)::bigint < %(last)s
AND (closed_at >= %(start)s OR split_part(stream_id, '-', 1)::bigint >= %(second)s)
AND (closed_at < %(end)s OR split_part(stream_id, '-', 1)::bigint < %(last_but_one)s)
"""


def hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def full_hour(moment: datetime) -> datetime:
    """The first one that is not before `moment`."""
    return hour_of(moment + HOUR - timedelta(microseconds=1))


def by_hour(tenant: UUID, start: datetime, end: datetime) -> dict[datetime, int]:
    """What is sealed from `start` up to `end`, by hour; hours without usage are missing."""
    seals: dict[datetime, list[UsageSeal]] = {}
    found = UsageSeal.objects.filter(tenant_id=tenant, hour__gte=hour_of(start), hour__lt=end)
    for seal in found.only("hour", "amount_nano", "first_call", "last_call"):
        seals.setdefault(seal.hour, []).append(seal)
    hours = {hour: sum(seal.amount_nano for seal in its) for hour, its in seals.items()}
    for hour in {hour_of(start), hour_of(end)} & hours.keys():
        since, until = max(start, hour), min(end, hour + HOUR)
        if until - since < HOUR:
            hours[hour] = _rows(tenant, since, until, seals[hour])
    return {hour: nano for hour, nano in hours.items() if nano}


def journaled(tenant: UUID, start: datetime, end: datetime) -> int:
    """The same from the ledger's rows, sealed or not: all of them are read."""
    return _rows(tenant, start, end, ())


def so_far(tenant: UUID, start: datetime, end: datetime) -> int:
    """What the ledger holds from `start` up to `end`: what is sealed, and the rows since the newest seal."""
    newest = UsageSeal.objects.filter(tenant_id=tenant).aggregate(hour=Max("hour"))["hour"]
    until = min(end, max(start, newest + HOUR)) if newest else start
    sealed = sum(by_hour(tenant, start, until).values()) if start < until else 0
    return sealed + (journaled(tenant, until, end) if until < end else 0)


def _rows(tenant: UUID, start: datetime, end: datetime, seals: Sequence[UsageSeal]) -> int:
    """With an hour's `seals` only the calls between their first and last one are looked at."""
    first, last = hour_of(start), -(-milliseconds(end) // HOUR_MS) * HOUR_MS
    calls = sorted(call for seal in seals for call in (seal.first_call, seal.last_call))
    values: dict[str, str | int | datetime | date | None] = {
        "tenant": str(tenant),
        "first_day": (start - LONGEST_CALL).date(),
        "last_day": end.date(),
        "first_call": str(calls[0]) if calls else None,
        "last_call": str(calls[-1]) if calls else None,
        "first": milliseconds(first),
        "second": milliseconds(first) + (HOUR_MS if first < start else 0),  # on the full hour nothing is left out
        "start": start,
        "last": last,
        "last_but_one": last - (HOUR_MS if milliseconds(end) < last else 0),
        "end": end,
    }
    with connections[current_alias()].cursor() as cursor:
        cursor.execute(ROWS, values)
        [nano] = cursor.fetchone() or (0,)
    return int(nano)
