"""Periods of billing: the calendar months, UTC, of a subscription at Stripe, and what was used in each.

What Stripe says of the subscription's start and end counts. Which calls are between two moments: billing.proof.billed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Q

from billing.models import Subscription
from billing.proof import billed
from billing.sale import segments
from billing.sale.segments import month_start, next_month
from billing.stripe import customers
from billing.stripe.objects import Subscription as StripeSubscription
from saas.lib import clock
from tenants.databases import as_operator

LOOKED_BACK = timedelta(days=70)  # Stripe takes usage of 35 days ago at most, and an invoice may wait


@dataclass(frozen=True)
class Period:
    """From `start` up to, not including, `end`: a month of a subscription, or what it has of it. `meter`: an event name.

    Stripe counts for the last prices of it what is told from `told_from` on: after a change of plan, the moment of it. Without
    `has_price` the subscription has no price for usage any more, and the invoice's own lines cannot hold all of it.
    """

    tenant: UUID
    customer: str
    subscription: str
    meter: str
    start: datetime
    end: datetime
    told_from: datetime
    has_price: bool = True


def meter_of(currency: str) -> str:
    """The event name of the money meter of a currency: it counts millionths of the currency unit."""
    return f"spend_{currency.lower()}"


def subscriptions_of(tenant: UUID) -> list[Subscription]:
    """What the organization has subscribed to at Stripe, or had lately, each once; `plan_version` is with them."""
    with as_operator():
        rows = Subscription.objects.of(tenant).filter(_lately()).exclude(stripe_subscription="")
        rows = rows.select_related("plan_version").order_by("since")
        return list({row.stripe_subscription: row for row in rows}.values())


def _lately() -> Q:
    return Q(ended_at=None) | Q(ended_at__gt=clock.now() - LOOKED_BACK)


def periods_of(row: Subscription, *, since: datetime, until: datetime) -> list[Period]:
    """The periods that begin before `until` and end after `since`, oldest first, in which usage is charged. Asks Stripe."""
    found = customers.retrieve_subscription(row.stripe_subscription)
    is_metered = any(item.is_metered for item in found.items)
    meter = meter_of(row.plan_version.currency)
    changes = _changes(row, found)
    begun = _begun(row, found)
    return [
        Period(
            row.organization_id,
            found.customer,
            found.id,
            meter,
            start,
            end,
            told_from=max((moment for moment in changes if start <= moment < end), default=start),
            has_price=is_metered,
        )
        for start, end in _months(found, begun, max(since, begun), until)
        if end > since and (is_metered or _was_charged(row.organization_id, start, end))
    ]


def _changes(row: Subscription, found: StripeSubscription) -> list[datetime]:
    """When it came to prices for usage: as Stripe says of those of now, and as we wrote down of all before.

    Not from when Stripe counts for them now: that is this month, also for who tells of the month before.
    """
    made = [item.created_at for item in found.items if item.is_metered and item.created_at]
    started = [item.period_start for item in found.items if item.is_metered and item.period_start]
    with as_operator():
        rows = Subscription.objects.of(row.organization_id).filter(stripe_subscription=found.id)
        known = [each.since for each in rows.select_related("plan_version") if segments.is_invoiced(each.plan_version)]
    return made + started + known


def _was_charged(tenant: UUID, start: datetime, end: datetime) -> bool:
    """Whether usage was charged on a plan of that time, whatever has no price at Stripe now."""
    with as_operator():
        found = segments.within(segments.of_month(tenant, start), start, end)
    return any(segments.is_invoiced(each.version) for each in found)


def _begun(row: Subscription, found: StripeSubscription) -> datetime:
    """When usage began to be charged: with the subscription, or before, on a plan that an operator gave until it was made."""
    with as_operator():
        rows = Subscription.objects.of(row.organization_id).filter(stripe_subscription=found.id, since__lt=found.created_at)
        given = [each.since for each in rows.select_related("plan_version") if segments.is_invoiced(each.plan_version)]
    begun: datetime = min([found.created_at, *(moment.replace(microsecond=0) for moment in given)])
    return begun


def _months(
    subscription: StripeSubscription, begun: datetime, since: datetime, until: datetime
) -> Iterator[tuple[datetime, datetime]]:
    until = min(until, subscription.ended_at or until)
    month = month_start(since)
    while month < until:
        following = next_month(month)
        start, end = max(month, begun), min(following, subscription.ended_at or following)
        if start < end:
            yield start, end
        month = following


def sealed(period: Period) -> dict[datetime, int]:
    """Sealed usage in nano by hour; hours without any are missing. As the operator."""
    return billed.by_hour(period.tenant, period.start, period.end)
