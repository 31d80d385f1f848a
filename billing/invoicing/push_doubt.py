"""Rows of which nobody knows whether they arrived, when Stripe may have forgotten their identifiers: its sums decide.

Stripe adds up usage some time after it has taken it, and promises no bound (docs.stripe.com, recording-usage-api). So what its
sum of the hour holds beyond what was accepted has arrived; what it does not hold may still come. Such a row is never sent again
by itself, under no identifier: it is looked for every hour, and after ASKED_AFTER a person is asked, who sees at Stripe whether
it arrived. All rows in doubt that are told at one hour are judged together.
"""

import logging
from datetime import datetime, timedelta
from itertools import combinations
from uuid import UUID

from django.db import transaction
from django.db.models import Sum
from django.db.models.functions import Coalesce

from billing.invoicing.models import PushState, StripePushQuerySet
from billing.models import StripePush
from billing.proof.billed import HOUR, hour_of
from billing.stripe import meters, usage

log = logging.getLogger(__name__)

SUMMARIES_WITHIN = timedelta(hours=1)  # after which what has arrived is as a rule in Stripe's sums
ASKED_AFTER = timedelta(hours=24)  # of the last sending: as long as an identifier would have been known
MOST_IN_DOUBT = 12  # rows of one hour: more would make too many combinations


def look_for(row: StripePush, now: datetime) -> None:
    """Put the row, and all in doubt with it, into the state that Stripe's sum of their hour shows, or wait for it.

    As the operator, alone for the organization. Raises PaymentsUnavailable.
    """
    rows = _of_its_hour(row)
    in_doubt = rows.filter(state=PushState.DUE, first_sent_at__isnull=False)
    doubted = list(in_doubt.order_by("seq", "id"))
    last_sent = max(each.last_sent_at or now for each in doubted)
    if now < last_sent + SUMMARIES_WITHIN:
        in_doubt.update(next_try_at=last_sent + SUMMARIES_WITHIN)
        return
    there, known = at_stripe(row), _accepted(rows)
    arrived = _adding_up(doubted, there - known)
    with transaction.atomic(using="ops"):
        if arrived:
            error = "arrived, by Stripe's sum of the hour"
            rows.filter(id__in=arrived).turn(PushState.ACCEPTED, accepted_at=now, error=error)
        others = rows.filter(id__in=[each.id for each in doubted if each.id not in arrived])
        if now < last_sent + ASKED_AFTER:
            others.update(next_try_at=now + SUMMARIES_WITHIN)
            return
        said = f"Stripe's sum of the hour is {there}, without what is in doubt it would be {known}"
        unclear = others.turn(PushState.UNCLEAR, error=said)
    if unclear:
        log.error("it cannot be told whether Stripe has the usage %s: %s", row.identifier, said)


def at_stripe(row: StripePush) -> int:
    """What Stripe has counted for the row's customer and meter in the hour at which it is told."""
    start = hour_of(row.told_at)
    found = usage.usage_by_hour(meter=meters.meter_id(row.meter), customer=row.stripe_customer, start=start, end=start + HOUR)
    return found.get(start, 0)


def _of_its_hour(row: StripePush) -> StripePushQuerySet:
    hour = hour_of(row.told_at)
    found: StripePushQuerySet = StripePush.objects.of(row.organization_id).filter(
        meter=row.meter, stripe_customer=row.stripe_customer, told_at__gte=hour, told_at__lt=hour + HOUR
    )
    return found


def _accepted(rows: StripePushQuerySet) -> int:
    return int(rows.filter(state=PushState.ACCEPTED).aggregate(value=Coalesce(Sum("value"), 0))["value"])


def _adding_up(rows: list[StripePush], total: int) -> set[UUID]:
    """The ids of some of `rows` whose values add up to `total`; none if none do, or if nothing has to."""
    if total == 0:
        return set()
    for count in range(len(rows), 0 if len(rows) <= MOST_IN_DOUBT else len(rows) - 1, -1):
        for some in combinations(rows, count):
            if sum(row.value for row in some) == total:
                return {row.id for row in some}
    return set()
