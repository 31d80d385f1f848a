"""What this month has cost so far, what it will cost if it goes on like this, and what pays for it."""

import calendar
from datetime import datetime
from typing import Any

from django.db.models import Sum

from billing.caps.models import BURN_ORDER, CreditGrant, CreditMonth
from billing.ledger.usage import complete_until
from billing.models import UsageMonth
from billing.sale import rating
from billing.sale.models import PlanVersion, current_subscription
from billing.sale.rating import Tariff
from saas.lib.money import MAX_NANO, text_of
from tenants.models import Organization

ENDED_SHOWN = 100  # grants that are used up or have ended


def of_month(organization: Organization, now: datetime) -> dict[str, Any]:  # Any: JSON
    """This month by the ledger. As SpendOut; amounts are decimal text."""
    as_of = complete_until(now)
    period = f"{now:%Y-%m}"
    version = current_subscription(organization).plan_version
    months = UsageMonth.objects.filter(tenant_id=organization.id, period=period)
    used = months.aggregate(calls=Sum("calls", default=0), nano=Sum("amount_nano", default=0))
    calls, nano = int(used["calls"]), int(used["nano"])
    tariff = tariff_of(version)
    burnt = CreditMonth.objects.of(organization).filter(period=period).aggregate(nano=Sum("burnt_nano", default=0))["nano"]
    share = elapsed(now)
    return {
        "period": period,
        "currency": version.currency,
        "plan": version.plan_id,
        "calls": calls,
        "amount": text_of(nano),
        "included": _included(version, tariff, calls, nano),
        "overage": text_of(rating.overage_nano(tariff, nano)),
        "fee": text_of(tariff.fee),
        "credit_used": text_of(int(burnt)),
        "total": total(tariff, nano),
        "forecast": {
            "calls": round(calls / share),
            "amount": text_of(min(MAX_NANO, int(nano / share))),
            "total": total(tariff, min(MAX_NANO, int(nano / share))),
        },
        "as_of": as_of,
    }


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


def tariff_of(version: PlanVersion) -> Tariff:
    """How the plan's version rates a month."""
    return Tariff.parse(
        currency=version.currency,
        monthly_fee=version.monthly_fee,
        included_amount=version.included_amount,
        tiers=version.overage,
    )


def total(tariff: Tariff, nano: int) -> str:
    """The month's bill for so much usage at list prices, before credit and tax, in the currency's coins."""
    return rating.coins(rating.month(tariff, nano).total, tariff.currency)


def elapsed(now: datetime) -> float:
    """The part of the month that has passed, at least an hour's, so that its first calls are no forecast of millions."""
    days = calendar.monthrange(now.year, now.month)[1]
    hours = (now.day - 1) * 24 + now.hour + now.minute / 60
    return max(1.0, hours) / (days * 24)


def _included(version: PlanVersion, tariff: Tariff, calls: int, nano: int) -> dict[str, Any]:  # Any: JSON
    most = version.included_calls
    return {
        "calls": most,
        "calls_left": None if most is None else max(0, most - calls),
        "amount": text_of(tariff.included),
        "amount_left": text_of(max(0, tariff.included - nano)),
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
