"""Whether Stripe has counted what the ledger holds: four numbers of a billing period, in the meter's units.

`ledger`: what is sealed; `pushed`: what Stripe has accepted of it; `stripe`: Stripe's own sums; `draft`: the units on the
invoice, if one is looked at. Where they differ, the hours that differ are named. The verdict is the worst that was found: `lag`
is what heals by itself, since something is under way; for the others an operator is called.
"""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Exists, OuterRef, Q, QuerySet

from billing.invoicing import periods, push
from billing.invoicing.models import PushState, Verdict
from billing.invoicing.periods import Period
from billing.invoicing.push_doubt import SUMMARIES_WITHIN
from billing.models import Invoice, ReconRun, StripePush
from billing.proof.billed import HOUR, full_hour, hour_of
from billing.sale.rating import METER
from billing.sale.segments import month_start, next_month
from billing.stripe import meters, usage
from billing.stripe.invoices import CYCLE
from saas.lib import clock
from tenants.databases import as_operator

log = logging.getLogger(__name__)

WORST = (Verdict.MATCH, Verdict.LAG, Verdict.MISSING, Verdict.EXCESS, Verdict.REJECTED)
PUSHED_WITHIN = timedelta(hours=2)  # of a row's making; later it is missing
INVOICED_WITHIN = timedelta(hours=12)  # of a month's end; Stripe makes its draft at once
MOST_HOURS = 100  # named in one run
RECENT = timedelta(hours=72)  # of which each hour is asked for every time: Stripe tells a hundred in one answer


@dataclass
class Hour:
    """What is known of an hour: `ledger` is sealed in it, `covered` in rows, both in nano; the rest is what is told at it."""

    ledger: int = 0
    covered: int = 0
    accepted: int = 0  # of this period
    elsewhere: int = 0  # accepted for another subscription of the same customer
    under_way: list[StripePush] = field(default_factory=list)
    refused: int = 0
    stripe: int = 0
    accepted_at: datetime | None = None

    def verdict(self, now: datetime) -> Verdict:
        if self.refused:
            return Verdict.REJECTED
        more = self.stripe - self.elsewhere - self.accepted
        if more:
            return self._verdict_of_stripe(more, now)
        if self.ledger != self.covered or self.under_way:
            is_late = any(row.created_at < now - PUSHED_WITHIN for row in self.under_way)
            return Verdict.MISSING if is_late else Verdict.LAG
        return Verdict.MATCH

    def is_fresh(self, now: datetime) -> bool:
        """Whether Stripe's sums may not show yet what it has accepted."""
        return self.accepted_at is not None and now - self.accepted_at < SUMMARIES_WITHIN

    def _verdict_of_stripe(self, more: int, now: datetime) -> Verdict:
        unknown = sum(row.value for row in self.under_way if row.first_sent_at is not None)
        if more == unknown or (self.is_fresh(now) and abs(more) <= abs(self.accepted)):
            return Verdict.LAG
        return Verdict.EXCESS if more > 0 else Verdict.MISSING


def reconcile(period: Period, *, draft: int | None = None, is_whole: bool = False) -> ReconRun:
    """Compare now, write it down, and call an operator if it is wrong. Raises PaymentsUnavailable.

    Hours before RECENT are compared by their sum, one by one only if that is wrong, or with `is_whole`.
    """
    now = clock.now()
    with as_operator():
        hours = _hours(period)
    if is_whole or not _read_sums(period, hours, now):
        _read_hours(period, hours, hour_of(period.start), now)
    run = _judge(period, hours, draft, now)
    with as_operator():
        run.save(force_insert=True)
    if run.verdict not in (Verdict.MATCH, Verdict.LAG):
        log.error(
            "Stripe and the ledger differ (%s): organization %s, period from %s: ledger %s, pushed %s, Stripe %s, invoice %s",
            *(run.verdict, period.tenant, period.start, run.ledger, run.pushed, run.stripe, run.draft),
        )
    return run


def reconcile_all(tenant: UUID, *, is_whole: bool = True) -> list[ReconRun]:
    """All periods of an organization for which Stripe still takes usage."""
    now = clock.now()
    found = [
        period
        for row in periods.subscriptions_of(tenant)
        for period in periods.periods_of(row, since=now - push.OLDEST, until=now)
    ]
    return [reconcile(period, draft=_billed(period), is_whole=is_whole) for period in found]


def forget() -> int:
    """Remove old comparisons, but for the last one of each invoice; how many there were."""
    kept = timedelta(days=settings.CONFIG.reconciliation_retention_days)
    newer = ReconRun.objects.filter(
        organization=OuterRef("organization"),
        stripe_subscription=OuterRef("stripe_subscription"),
        period_end=OuterRef("period_end"),
        draft__isnull=False,
        created_at__gt=OuterRef("created_at"),
    )
    with as_operator():
        old = ReconRun.objects.filter(created_at__lt=clock.now() - kept).filter(Q(draft=None) | Exists(newer))
        return old.delete()[0]


def _billed(period: Period) -> int | None:
    """The units that the period's final invoice bills: what is sealed later is on none. None if it is not final, or too new.

    A month's draft is there at its end. Where none was heard of long after that, nothing is billed.
    """
    with as_operator():
        invoices = Invoice.objects.of(period.tenant).filter(stripe_subscription=period.subscription, period_end=period.end)
        found: Invoice | None = invoices.filter(reason=CYCLE).exclude(status="void").first()
    if found is None:
        is_month = period.end == next_month(month_start(period.start))
        return 0 if is_month and period.has_price and clock.now() - period.end > INVOICED_WITHIN else None
    if found.usage_units is not None:
        return found.usage_units
    is_on_lines = found.status != "draft" and period.has_price
    return sum(line["units"] for line in found.lines if line["is_usage"]) if is_on_lines else None


def _hours(period: Period) -> dict[datetime, Hour]:
    hours: dict[datetime, Hour] = {}
    for hour, nano in periods.sealed(period).items():
        hours[hour] = Hour(ledger=nano)
    for row in _rows(period):
        told = hours.setdefault(hour_of(row.told_at), Hour())
        is_own = row.stripe_subscription == period.subscription and row.period_start == period.start
        if not is_own:
            told.elsewhere += row.value if row.state == PushState.ACCEPTED else 0
            continue
        hours.setdefault(row.hour, Hour()).covered += row.nano
        if row.state == PushState.ACCEPTED:
            told.accepted += row.value
            told.accepted_at = max(filter(None, (told.accepted_at, row.accepted_at)), default=None)
        elif row.state == PushState.DUE:
            told.under_way.append(row)
        else:
            told.refused += row.value
    return hours


def _rows(period: Period) -> "QuerySet[StripePush]":
    rows: QuerySet[StripePush] = StripePush.objects.of(period.tenant).filter(
        meter=period.meter, stripe_customer=period.customer, hour__gte=hour_of(period.start), hour__lt=period.end
    )
    return rows.exclude(state=PushState.REPLACED)


def _read_sums(period: Period, hours: dict[datetime, Hour], now: datetime) -> bool:
    """Ask for the hours of RECENT and for the sum of all, in two requests; False if what is before does not add up."""
    start = hour_of(period.start)
    since = max(start, hour_of(now) - RECENT)
    recent = _read_hours(period, hours, since, now) if since < period.end else 0
    there = usage.usage_of(
        meter=meters.meter_id(period.meter), customer=period.customer, start=start, end=_until(period, start, now)
    )
    before = [known for hour, known in hours.items() if hour < since]
    for known in before:
        known.stripe = known.accepted + known.elsewhere
    return there - recent == sum(known.stripe for known in before)


def _read_hours(period: Period, hours: dict[datetime, Hour], since: datetime, now: datetime) -> int:
    """Put in what Stripe says of each hour from `since` on; its sum."""
    for hour, known in hours.items():
        known.stripe = 0 if hour >= since else known.stripe
    found = usage.usage_by_hour(
        meter=meters.meter_id(period.meter), customer=period.customer, start=since, end=_until(period, since, now)
    )
    for hour, units in found.items():
        hours.setdefault(hour, Hour()).stripe = units
    return sum(found.values())


def _until(period: Period, since: datetime, now: datetime) -> datetime:
    """The end of the hour in which the period ends, or in which it is now."""
    end = min(period.end, now)
    return max(full_hour(end), since + HOUR)


def _judge(period: Period, hours: dict[datetime, Hour], draft: int | None, now: datetime) -> ReconRun:
    ledger = sum(hour.ledger for hour in hours.values()) // METER
    pushed = sum(hour.accepted for hour in hours.values())
    stripe = sum(hour.stripe - hour.elsewhere for hour in hours.values())
    verdicts = {hour: known.verdict(now) for hour, known in sorted(hours.items())}
    worst = max(verdicts.values(), key=WORST.index, default=Verdict.MATCH)
    if worst == Verdict.MATCH and draft is not None and draft != ledger:
        is_fresh = any(hour.is_fresh(now) for hour in hours.values())
        worst = Verdict.EXCESS if draft > ledger else Verdict.LAG if is_fresh else Verdict.MISSING
    return ReconRun(
        organization_id=period.tenant,
        created_at=now,
        meter=period.meter,
        stripe_subscription=period.subscription,
        period_start=period.start,
        period_end=period.end,
        ledger=ledger,
        pushed=pushed,
        stripe=stripe,
        draft=draft,
        verdict=worst,
        hours=list(_differing(hours, verdicts))[:MOST_HOURS],
    )


def _differing(hours: dict[datetime, Hour], verdicts: dict[datetime, Verdict]) -> Iterator[dict[str, Any]]:  # Any: JSON
    for hour, verdict in verdicts.items():
        if verdict != Verdict.MATCH:
            known = asdict(hours[hour]) | {"under_way": sum(row.value for row in hours[hour].under_way)}
            known.pop("accepted_at")
            yield {"hour": f"{hour:%Y-%m-%dT%H:00:00Z}", "verdict": verdict.value, **known}
