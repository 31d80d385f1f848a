"""What this month has cost so far, what it will cost if it goes on like this, and what pays for it."""

import calendar
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db.models import Sum

from billing.caps.models import BURN_ORDER, CreditGrant, CreditMonth
from billing.ledger.usage import complete_until
from billing.models import UsageMonth
from billing.proof import billed
from billing.sale import rating, segments
from billing.sale.models import current_subscription
from billing.sale.segments import Segment
from saas.lib.money import MAX_NANO, text_of
from tenants.models import Organization

ENDED_SHOWN = 100  # grants that are used up or have ended


def of_month(organization: Organization, now: datetime) -> dict[str, Any]:  # Any: JSON
    """This month by the ledger. As SpendOut; amounts are decimal text."""
    as_of = complete_until(now)
    period = f"{now:%Y-%m}"
    months = UsageMonth.objects.filter(tenant_id=organization.id, period=period)
    used = months.aggregate(calls=Sum("calls", default=0), nano=Sum("amount_nano", default=0))
    calls, nano = int(used["calls"]), int(used["nano"])
    parts = _parts(organization, now, nano)
    current, in_current = parts[-1]
    burnt = CreditMonth.objects.of(organization).filter(period=period).aggregate(nano=Sum("burnt_nano", default=0))["nano"]
    share = elapsed(now)
    expected = min(MAX_NANO, int(nano / share))
    return {
        "period": period,
        "currency": current.version.currency,
        "plan": current.version.plan_id,
        "calls": calls,
        "amount": text_of(nano),
        "included": _included(current, calls, in_current),
        "overage": text_of(sum(rating.overage_nano(part.tariff, its) for part, its in parts)),
        "fee": text_of(sum(part.tariff.fee for part, _ in parts)),
        "credit_used": text_of(int(burnt)),
        "total": _total(parts),
        "parts": [_shown(part, its) for part, its in parts],
        "forecast": {
            "calls": round(calls / share),
            "amount": text_of(expected),
            "total": _total([*parts[:-1], (current, in_current + expected - nano)]),
        },
        "as_of": as_of,
    }


def _parts(organization: Organization, now: datetime, nano: int) -> list[tuple[Segment, int]]:
    """The parts of the month until its end, each with what was used in it (nano); `nano` is all of the month's."""
    begun = [part for part in segments.of_month(organization, now) if part.start <= now]
    ended = [(part, billed.so_far(organization.id, part.start, part.end)) for part in begun[:-1]]
    return [*ended, (begun[-1], max(0, nano - sum(its for _, its in ended)))]


def credit_of(organization: Organization) -> dict[str, Any]:  # Any: JSON
    """The grants that remain, in the order in which they are used up, then those that are gone. As CreditOut."""
    version = current_subscription(organization).plan_version
    grants = CreditGrant.objects.of(organization)
    remaining = list(grants.filter(remaining_nano__gt=0).order_by(*BURN_ORDER))
    ended = list(grants.filter(remaining_nano=0).order_by("-id")[:ENDED_SHOWN])
    return {
        "balance": text_of(sum(grant.remaining_nano for grant in remaining)),
        "currency": version.currency,
        "is_prepaid": version.is_prepaid,
        "grants": [_grant(grant) for grant in (*remaining, *ended)],
    }


def _total(parts: Sequence[tuple[Segment, int]]) -> str:
    """The month's bill, before credit and tax, in the currency's coins."""
    return rating.coins(sum(part.bill(nano).total for part, nano in parts), parts[-1][0].version.currency)


def _shown(part: Segment, nano: int) -> dict[str, Any]:  # Any: JSON
    return {
        "plan": part.version.plan_id,
        "from": part.start,
        "to": part.end,
        "amount": text_of(nano),
        "included": text_of(part.tariff.included),
        "overage": text_of(rating.overage_nano(part.tariff, nano)),
        "fee": text_of(part.tariff.fee),
    }


def elapsed(now: datetime) -> float:
    """The part of the month that has passed, at least an hour's, so that its first calls are no forecast of millions."""
    days = calendar.monthrange(now.year, now.month)[1]
    hours = (now.day - 1) * 24 + now.hour + now.minute / 60
    return max(1.0, hours) / (days * 24)


def _included(part: Segment, calls: int, nano: int) -> dict[str, Any]:  # Any: JSON
    most, included = part.version.included_calls, part.tariff.included
    return {
        "calls": most,
        "calls_left": None if most is None else max(0, most - calls),
        "amount": text_of(included),
        "amount_left": text_of(max(0, included - nano)),
    }


def _grant(grant: CreditGrant) -> dict[str, Any]:  # Any: JSON
    return {
        "id": grant.shown_id,
        "amount": text_of(grant.amount_nano),
        "remaining": text_of(grant.remaining_nano),
        "expired": text_of(grant.expired_nano),
        "category": grant.category,
        "priority": grant.priority,
        "expires_at": grant.expires_at,
        "reason": grant.reason,
        "created_at": grant.created_at,
    }
