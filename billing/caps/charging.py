"""What of an organization's usage credit is asked for: what its plan really charges.

On a prepaid plan that is every call at its list price. On any other it is what usage adds to the month's charge, part by part
as the month is rated (billing.sale.segments): nothing on Free, nothing of what a plan includes, the rate of its tier beyond.
Usage counts for the part that runs when it is looked at, which is done whenever a plan changes, and every few seconds else.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, TypeAlias
from uuid import UUID

from django.db.backends.utils import CursorWrapper
from psycopg2.extensions import cursor as Cursor

from billing.models import PlanVersion, Subscription
from billing.sale import rating, segments
from billing.sale.segments import Segment

AnyCursor: TypeAlias = Cursor | CursorWrapper

PLANS = """
SELECT s.since, v.plan, v.version, v.currency, v.monthly_fee, v.included_amount, v.overage::text, v.is_prepaid
FROM subscription s JOIN plan_version v ON v.id = s.plan_version_id
WHERE s.tenant_id = %s ORDER BY s.ended_at NULLS LAST, s.since
"""
LOOKED = """
SELECT part_since, part_nano, ended_nano, asked_nano, spent_nano, burnt_nano FROM credit_month
WHERE tenant_id = %s AND period = %s
"""


class Looked(NamedTuple):
    """How far a month was looked at. `part_nano`: used in the part that began at `part_since`; `ended_nano`: charged for the
    parts before it; `asked_nano`: what was asked of credit for all of them.
    """

    part_since: datetime | None = None
    part_nano: int = 0
    ended_nano: int = 0
    asked_nano: int = 0


def looked_at(cursor: AnyCursor, tenant: UUID, period: str) -> Looked:
    cursor.execute(LOOKED, [str(tenant), period])
    row = cursor.fetchone()
    if row is None:
        return Looked()
    *found, spent, burnt = row
    if found[0] is None:  # of a time when credit was used up at list prices
        return Looked(None, int(spent), 0, int(burnt))
    return Looked(*found)


def parts_of(cursor: AnyCursor, tenant: UUID, period: str, now: datetime) -> list[Segment]:
    """The parts of a month that have begun by `now`."""
    cursor.execute(PLANS, [str(tenant)])
    names = ("plan_id", "version", "currency", "monthly_fee", "included_amount")
    rows = []
    for since, *columns, overage, is_prepaid in cursor.fetchall():
        values = dict(zip(names, columns, strict=True))
        version = PlanVersion(**values, overage=json.loads(overage), is_prepaid=is_prepaid)
        rows.append(Subscription(since=since, plan_version=version))
    month = datetime.fromisoformat(f"{period}-01T00:00:00+00:00")
    found = segments.of_rows(rows, month)
    return [part for part in found if part.start <= now] or found[:1]


def ask(parts: Sequence[Segment], looked: Looked, spent: int) -> tuple[int, Looked]:
    """How much credit is asked for `spent` more nano at list prices, in the last of `parts`; and how far that is then.

    When a part ends what it includes shrinks, so that it may have charged more than was asked for until then: that is asked for
    now. If it has charged less, less is asked for what comes next in the month.
    """
    part = parts[-1]
    if looked.part_since is not None and looked.part_since != part.start:
        looked = _ended(parts, looked, part.start)
    used = looked.part_nano + spent
    if part.version.is_prepaid:
        return spent, looked._replace(part_since=part.start, part_nano=used)
    charged = looked.ended_nano + rating.overage_nano(part.tariff, used)
    asked = max(0, charged - looked.asked_nano)
    return asked, Looked(part.start, used, looked.ended_nano, looked.asked_nano + asked)


def _ended(parts: Sequence[Segment], looked: Looked, since: datetime) -> Looked:
    """The part that was looked at last is over. One that is not there any more goes on as that of now."""
    before = next((part for part in parts if part.start == looked.part_since), None)
    if before is None:
        return looked._replace(part_since=since)
    charged = 0 if before.version.is_prepaid else rating.overage_nano(before.tariff, looked.part_nano)
    return Looked(since, 0, looked.ended_nano + charged, looked.asked_nano)


def last_moment(period: str) -> datetime:
    """Of a month."""
    return segments.next_month(datetime.fromisoformat(f"{period}-01T00:00:00+00:00")) - timedelta(milliseconds=1)
