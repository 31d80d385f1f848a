"""Rows that Stripe has accepted and does not count: refused afterwards, by an event that was never heard, or lost.

Only the reconciliation shows it, and only when Stripe's sums, which come late, are surely complete. A person may then have such
a row told anew: one that alone, or with others of its hour, is just what Stripe's sum of the hour lacks.
"""

from typing import Any

from billing.invoicing.models import PushState
from billing.invoicing.push_doubt import ASKED_AFTER, MOST_IN_DOUBT
from billing.models import ReconRun, StripePush
from billing.proof.billed import HOUR, hour_of


def is_missing(row: StripePush) -> bool:
    """Whether the newest comparison, made when the sums had to be complete, lacks this row, or it with others. As the operator.

    Rows that were put into another state since then are not counted any more, so that nothing is told anew twice.
    """
    if row.state != PushState.ACCEPTED or row.accepted_at is None or row.value <= 0:
        return False
    runs = ReconRun.objects.of(row.organization_id).filter(
        meter=row.meter, stripe_subscription=row.stripe_subscription, period_start=row.period_start
    )
    run = runs.order_by("-created_at", "-id").first()
    if run is None or run.created_at < row.accepted_at + ASKED_AFTER:
        return False
    stripe = _at_stripe(run, row)
    if stripe is None:
        return False
    others = [each.value for each in _accepted(row, run) if each.id != row.id]
    lacking = row.value + sum(others) - stripe
    return lacking - row.value in _sums(others)


def _at_stripe(run: ReconRun, row: StripePush) -> int | None:
    """What Stripe had counted in the row's hour; None if that was right."""
    name = f"{hour_of(row.told_at):%Y-%m-%dT%H:00:00Z}"
    named: list[dict[str, Any]] = [each for each in run.hours if each["hour"] == name]  # Any: JSON
    return int(named[0]["stripe"]) if named else None


def _accepted(row: StripePush, run: ReconRun) -> list[StripePush]:
    """What it should have counted in it: what still is accepted of what had been by then."""
    hour = hour_of(row.told_at)
    rows = StripePush.objects.of(row.organization_id).filter(
        meter=row.meter, stripe_customer=row.stripe_customer, told_at__gte=hour, told_at__lt=hour + HOUR
    )
    return list(rows.filter(state=PushState.ACCEPTED, accepted_at__lte=run.created_at))


def _sums(values: list[int]) -> set[int]:
    """What some of `values` add up to; of too many, none, one, or all of them."""
    if len(values) > MOST_IN_DOUBT:
        return {0, *values, sum(values)}
    found = {0}
    for value in values:
        found |= {value + each for each in found}
    return found
