"""Plans that an operator has given: put into force at Stripe, so that they are invoiced, or what ran there ends.

`stripe_due_at` of the organization's row is queue and lease at once: it is set in the transaction that gives the plan, and
cleared when Stripe has it. What fails is tried again, sooner first and every hour in the end, with its reason in the admin;
after three failures an operator is called (billing.alarms). A subscription is made once: under the customer's lock, if none
runs, with a key of the row's.
"""

import logging
from datetime import timedelta
from uuid import UUID

from django.db.models import F

from billing.models import Subscription
from billing.stripe import customers, payments, selling
from billing.stripe.following import PRORATED_AT, alone, follow
from billing.stripe.objects import Subscription as StripeSubscription
from billing.stripe.states import ENDED, RUNNING
from saas.lib import clock
from saas.lib.errors import AppError, StateConflict
from tenants.databases import as_operator

LEASE = timedelta(minutes=2)
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=15), timedelta(hours=1)  # after a failure; doubled each time
DAYS_UNTIL_DUE = 14  # of invoices that are sent, to customers without a card

log = logging.getLogger(__name__)


def due() -> list[UUID]:
    """The rows that wait to be put into force."""
    with as_operator():
        rows = Subscription.objects.current().filter(stripe_due_at__lte=clock.now()).order_by("stripe_due_at")
        return list(rows.values_list("id", flat=True)[:1000])


def put(subscription: UUID) -> bool:
    """Put one into force at Stripe; whether that is done now. False if it is not due, another is at it, or it failed."""
    with as_operator():
        now = clock.now()
        waiting = Subscription.objects.current().filter(id=subscription)
        if not waiting.filter(stripe_due_at__lte=now).update(stripe_due_at=now + LEASE, stripe_tries=F("stripe_tries") + 1):
            return False
        row = Subscription.objects.select_related("plan_version").get(id=subscription)
    try:
        customer = _put(row)
    except AppError as error:
        log.error("a plan that was given is not in force at Stripe: organization %s: %s", row.organization_id, error.detail)
        pause = min(FIRST_PAUSE * 2 ** min(row.stripe_tries - 1, 20), LONGEST_PAUSE)
        with as_operator():
            waiting.update(stripe_due_at=clock.now() + pause, stripe_error=error.detail[:500])
        return False
    if customer:
        follow(customer)
    return True


def _put(row: Subscription) -> str:
    """The customer; "" if nothing ever ran for it. Raises AppError."""
    wanted = payments.prices_of(row.plan_version) if selling.keys_of(row.plan_version) else []
    customer = row.stripe_customer
    if wanted and not customer:
        customer = payments.customer_of(row.organization_id, email=payments.address_of(row.organization_id))
    with alone(customer or row.id.hex):
        with as_operator():
            mine = Subscription.objects.current().filter(id=row.id)
            if not mine.exists():  # on another plan by now
                return ""
        found = _in_force(row, customer, wanted) if customer else None
        with as_operator():
            # Here and not by `follow`, which takes an end that it did not know of for a reason to change the plan.
            known = {"stripe_subscription": found.id, "stripe_status": found.status} if found else {}
            if found and found.status in ENDED:
                mine.update(closing_at=clock.now())  # its last usage is to be invoiced
            mine.update(stripe_due_at=None, stripe_error="", **known)
    return customer


def _in_force(row: Subscription, customer: str, wanted: list[tuple[str, bool]]) -> StripeSubscription | None:
    """What Stripe has afterwards: one subscription with these prices, or none that runs."""
    running = [found for found in customers.subscriptions_of(customer) if found.status in RUNNING]
    metadata = {
        "organization": row.organization_id.hex,
        "plan": row.plan_version.plan_id,
        "version": str(row.plan_version.version),
    }
    if not wanted:
        ended = [customers.cancel_subscription(found.id, at_period_end=False) for found in running]
        return ended[-1] if ended else None
    if not running:
        days = None if customers.retrieve_customer(customer).has_card else DAYS_UNTIL_DUE
        key = f"given:{row.id.hex}"
        made = customers.create_subscription(customer=customer, prices=wanted, metadata=metadata, key=key, days_until_due=days)
        if made.status not in RUNNING:
            raise StateConflict(f"The subscription {made.id} is {made.status}: the customer's card was refused")
        return made
    there = max(running, key=lambda found: found.created_at)
    if {item.price for item in there.items} == {price for price, _ in wanted} and there.cancels_at is None:
        return there
    now = clock.now().replace(microsecond=0)
    metadata[PRORATED_AT] = str(int(now.timestamp()))  # not that of an earlier change
    return customers.change_subscription(there.id, prices=wanted, metadata=metadata, proration_at=now)
