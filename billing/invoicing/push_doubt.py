"""Rows of which nobody knows whether they arrived, when Stripe may have forgotten their identifiers: its sums decide.

All rows in doubt that are told at one hour are judged together, once what was sent last must be in Stripe's sum of that hour.
What the sum holds beyond what was accepted is none of them, all, or some that add up to it. Those have arrived. If there are
others, they are replaced by a new row with a new identifier: so it does not matter which of equal ones it was.
"""

import logging
from datetime import datetime, timedelta
from itertools import combinations
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet, Sum
from django.db.models.functions import Coalesce

from billing.invoicing import periods
from billing.invoicing.models import PushState
from billing.invoicing.periods import HOUR
from billing.models import StripePush, StripePushed
from billing.stripe import meters, usage

log = logging.getLogger(__name__)

SUMMARIES_WITHIN = timedelta(hours=1)  # after which what has arrived is in Stripe's sums
MOST_IN_DOUBT = 12  # rows of one hour: more would make too many combinations


def may_send_again(row: StripePush, now: datetime) -> bool:
    """Whether the row, and all in doubt with it, have not arrived. If False, their states or times say what to do.

    As the operator, alone for the organization. Raises PaymentsUnavailable.
    """
    rows = _of_its_hour(row)
    doubted = list(rows.filter(state=PushState.DUE, first_sent_at__isnull=False).order_by("seq", "id"))
    settled = max(each.last_sent_at or now for each in doubted) + SUMMARIES_WITHIN
    if now < settled:
        rows.filter(id=row.id).update(next_try_at=settled)
        return False
    there, known = at_stripe(row), _accepted(rows)
    if there == known:
        return True
    arrived = _adding_up(doubted, there - known)
    if arrived is None:
        said = f"Stripe's sum of the hour is {there}, without what is in doubt it would be {known}"
        rows.filter(id__in=[each.id for each in doubted]).update(state=PushState.UNCLEAR, error=said)
        log.error("it cannot be told whether Stripe has the usage %s: %s", row.identifier, said)
        return False
    found = "by Stripe's sum of the hour"
    with transaction.atomic(using="ops"):
        rows.filter(id__in=arrived).update(state=PushState.ACCEPTED, accepted_at=now, error=f"arrived, {found}")
        others = rows.filter(id__in=[each.id for each in doubted if each.id not in arrived])
        if others.update(state=PushState.REPLACED, error=f"not arrived, {found}"):
            StripePushed.objects.of(row.organization_id).update(number=0)  # so that somebody looks for what is in no row now
    return False


def at_stripe(row: StripePush) -> int:
    """What Stripe has counted for the row's customer and meter in the hour at which it is told."""
    start = periods.hour_of(row.told_at)
    found = usage.usage_by_hour(meter=meters.meter_id(row.meter), customer=row.stripe_customer, start=start, end=start + HOUR)
    return found.get(start, 0)


def _of_its_hour(row: StripePush) -> "QuerySet[StripePush]":
    hour = periods.hour_of(row.told_at)
    found: QuerySet[StripePush] = StripePush.objects.of(row.organization_id).filter(
        meter=row.meter, stripe_customer=row.stripe_customer, told_at__gte=hour, told_at__lt=hour + HOUR
    )
    return found


def _accepted(rows: "QuerySet[StripePush]") -> int:
    return int(rows.filter(state=PushState.ACCEPTED).aggregate(value=Coalesce(Sum("value"), 0))["value"])


def _adding_up(rows: list[StripePush], total: int) -> "set[UUID] | None":
    """The ids of some of `rows` whose values add up to `total`; None if none do."""
    if len(rows) > MOST_IN_DOUBT:
        return {row.id for row in rows} if sum(row.value for row in rows) == total else None
    for count in range(len(rows), 0, -1):
        for some in combinations(rows, count):
            if sum(row.value for row in some) == total:
                return {row.id for row in some}
    return None
