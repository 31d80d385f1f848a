"""Which plans an organization was on in a month, and from when to when: the parts in which the month is rated.

A part lasts as long as what is charged stays the same: a new version of a plan that changes limits alone begins none. Times are
whole milliseconds, as the ledger's are. What an organization was on first counts from the beginning of its first month.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.db.models import F

from billing.models import PlanVersion, Subscription
from billing.sale import rating
from billing.sale.rating import Bill, Tariff
from tenants.models import Organization

MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Segment:
    """From `start` up to, not including, `end`, within a month of `whole` milliseconds."""

    start: datetime
    end: datetime
    version: PlanVersion
    whole: int

    @property
    def tariff(self) -> Tariff:
        """What the plan charges and includes in this part of the month."""
        return rating.part_of(tariff_of(self.version), (self.end - self.start) // MILLISECOND, self.whole)

    def bill(self, usage: int) -> Bill:
        """For `usage` in it, nano at list prices."""
        return rating.month(self.tariff, usage)


def tariff_of(version: PlanVersion) -> Tariff:
    """A whole month's."""
    return Tariff.parse(
        currency=version.currency,
        monthly_fee=version.monthly_fee,
        included_amount=version.included_amount,
        tiers=version.overage,
    )


def is_invoiced(version: PlanVersion) -> bool:
    """Whether usage on it makes lines of invoices: it is charged afterwards."""
    return not version.is_prepaid and any(tier.rate for tier in tariff_of(version).tiers)


def of_month(organization: Organization | UUID, moment: datetime) -> list[Segment]:
    """The parts of the calendar month (UTC) of `moment`, one after the other: as if the plan of now stayed until its end.

    Inside a transaction of that tenant, or as the operator.
    """
    rows = Subscription.objects.of(organization).select_related("plan_version__plan")
    return of_rows(list(rows.order_by(F("ended_at").asc(nulls_last=True), "since")), moment)


def of_rows(rows: Sequence[Subscription], moment: datetime) -> list[Segment]:
    """The same of an organization's rows, in the order in which they ended."""
    start = month_start(moment)
    return _parts(rows, start, next_month(start))


def within(segments: Sequence[Segment], start: datetime, end: datetime) -> list[Segment]:
    """What of them lies from `start` up to `end`."""
    cut = [replace(each, start=max(each.start, start), end=min(each.end, end)) for each in segments]
    return [each for each in cut if each.start < each.end]


def month_start(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def next_month(month: datetime) -> datetime:
    return (month + timedelta(days=31)).replace(day=1)


def _parts(rows: Sequence[Subscription], start: datetime, end: datetime) -> list[Segment]:
    """`rows` in order; each lasts until the next one begins."""
    whole, found = (end - start) // MILLISECOND, list[Segment]()
    ends = [_whole_ms(row.since) for row in rows[1:]]
    for place, (row, until) in enumerate(zip(rows, [*ends, end], strict=True)):
        since = max(start, _whole_ms(row.since)) if place else start
        each = Segment(since, min(until, end), row.plan_version, whole)
        if each.start >= each.end:
            continue
        if found and _costs(found[-1].version) == _costs(each.version):
            each = replace(each, start=found.pop().start)
        found.append(each)
    return found


def _costs(version: PlanVersion) -> tuple[str, bool, Tariff]:
    return version.plan_id, version.is_prepaid, tariff_of(version)


def _whole_ms(moment: datetime) -> datetime:
    return moment - timedelta(microseconds=moment.microsecond % 1000)
