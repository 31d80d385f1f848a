"""Having an organization's plan and state follow what Stripe says of its customer: always of what was read just now."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.db import connections

from billing.sale import plans
from billing.sale.models import PlanVersion, State, Subscription, current_subscription
from billing.stripe import customers, invoices
from billing.stripe.objects import Invoice
from billing.stripe.objects import Subscription as StripeSubscription
from billing.stripe.states import ENDED, RUNNING, Facts, state_of
from saas.lib import clock
from saas.lib.errors import NotFound, StateConflict
from tenants.access import Actor
from tenants.databases import as_operator
from tenants.models import Organization

STRIPE = Actor("system", "stripe")
PREVIEW_HOLDS = timedelta(minutes=5)  # a change named by a preview's moment costs what that said, as long
LATENCY = timedelta(minutes=2)  # from our clock to what Stripe has done
PRORATED_AT = "prorated_at"
"""The metadata key by which a subscription says from when on its fee is prorated, in seconds since 1970."""
UNPAID = (State.PAST_DUE, State.GRACE)  # which time alone turns into another

log = logging.getLogger(__name__)


def follow(customer: str) -> Subscription | None:
    """Read what Stripe has of a customer and act on it. None: the customer is none of ours. Not inside a transaction.

    One at a time for each customer, so that whoever writes last has read last.
    """
    if not customer:  # an object of Stripe's without a customer: our rows without one are not its
        return None
    with alone(customer):
        organization = organization_of(customer)
        if organization is None:
            return None
        newest = _newest(customers.subscriptions_of(customer))
        written_off = invoices.written_off_of(customer)
        unpaid = [_unpaid_since(invoice) for invoice in invoices.open_invoices_of(customer)]
        unpaid += [invoice.created_at for invoice in written_off]
        unpaid_since = min((moment for moment in unpaid if moment is not None), default=None)
        facts = Facts(newest.status if newest else "", unpaid_since, is_written_off=bool(written_off))
        return _apply(organization, customer, newest, facts)


def _unpaid_since(invoice: Invoice) -> datetime | None:
    """Of one that is open: since it was sent and is due, or, where a card is charged, since that was refused."""
    if invoice.due_at is not None:
        return invoice.due_at if invoice.due_at <= clock.now() else None
    return invoice.created_at if invoice.attempts else None


def let_time_pass() -> int:
    """Put those whose payment has been refused for long into the next state, as Stripe was last read. How many there were."""
    with as_operator():
        rows = list(Subscription.objects.current().filter(state__in=UNPAID))
    return sum(_let_time_pass(row) for row in rows)


def _let_time_pass(seen: Subscription) -> bool:
    with alone(seen.stripe_customer):  # or a payment that was read meanwhile would be forgotten again
        with as_operator():
            row = current_subscription(seen.organization_id)
        state = state_of(Facts(row.stripe_status, row.unpaid_since), clock.now())
        if state == row.state or row.unpaid_since is None or row.state not in UNPAID:  # time alone never makes it better
            return False
        plans.set_state(row.organization_id, state, actor=STRIPE, reason="unpaid for long")
        return True


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Wait until nobody else is at the Stripe object of this name, and keep others from it. It ends with the connection."""
    with connections["ops"].cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"stripe {name}"])
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [f"stripe {name}"])


@contextmanager
def alone_or_not(name: str) -> Iterator[bool]:
    """The same without waiting: whether nobody else is at it."""
    with connections["ops"].cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [f"stripe {name}"])
        [is_mine] = cursor.fetchone() or (False,)
        try:
            yield is_mine
        finally:
            if is_mine:
                cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [f"stripe {name}"])


def organization_of(customer: str) -> UUID | None:
    """Whose customer it is: as we wrote down, else as the customer itself says, if there is such an organization."""
    with as_operator():
        row: Subscription | None = Subscription.objects.filter(stripe_customer=customer).first()
        if row is not None:
            owner: UUID = row.organization_id
            return owner
    named = customers.retrieve_customer(customer).metadata.get("organization", "")
    try:
        wanted = UUID(hex=named)
    except ValueError:
        return None
    with as_operator():
        found = Organization.objects.filter(id=wanted).first()
    return found.id if found else None


def _newest(subscriptions: list[StripeSubscription]) -> StripeSubscription | None:
    """The one that counts: one that runs before one that has ended, and the later one before the earlier one."""
    begun = [subscription for subscription in subscriptions if subscription.status not in ("incomplete", "incomplete_expired")]
    running = [subscription for subscription in begun if subscription.status in RUNNING]
    if len(running) > 1:
        log.error(
            "a customer has %s subscriptions that run: cancel all but one", len(running), extra={"at": running[0].customer}
        )
    return max(running or begun, key=lambda subscription: subscription.created_at, default=None)


def _apply(organization: UUID, customer: str, newest: StripeSubscription | None, facts: Facts) -> Subscription:
    with as_operator():
        before = current_subscription(organization)
    status, unpaid_since = facts.status, facts.unpaid_since
    if newest is not None and status in RUNNING and newest.id != before.stripe_subscription:
        customers.end_open_checkouts(customer)
    if before.stripe_status in RUNNING and (newest is None or newest.id != before.stripe_subscription or status in ENDED):
        with as_operator():  # it has ended: before anything else it is noted that its last usage is to be invoiced
            Subscription.objects.of(organization).filter(id=before.id).update(closing_at=clock.now())
    if before.stripe_due_at is not None:
        pass  # an operator has given a plan: Stripe is told first (billing.stripe.given)
    elif newest is not None and newest.status in RUNNING:
        is_another = before.stripe_subscription not in ("", newest.id)  # the row of the one before stays as it is
        version = _version(newest) or (before.plan_version if is_another else None)
        if version is not None:
            plans.change(
                organization,
                version.plan_id,
                version=version,
                actor=STRIPE,
                reason=f"subscription {newest.id}",
                at=_begun(newest, version),
                begins_anew=is_another,
            )
    elif newest is not None and before.stripe_subscription == newest.id and before.stripe_status in RUNNING:
        reason = f"subscription {newest.id} has ended"
        plans.change(organization, _plan_after(before), actor=STRIPE, reason=reason, at=newest.ended_at)
    ends_at = newest.cancels_at if newest and status in RUNNING else None
    with as_operator():
        mine = Subscription.objects.of(organization).current()
        mine.update(
            stripe_customer=customer,
            stripe_subscription=newest.id if newest else "",
            stripe_status=status,
            ends_at=ends_at,
            unpaid_since=unpaid_since,
            **({} if ends_at else {"next_plan": ""}),
        )
    if newest is not None or unpaid_since is not None or before.unpaid_since is not None:
        return plans.set_state(
            organization, state_of(facts, clock.now()), actor=STRIPE, reason=f"Stripe says {status or 'paid'}"
        )
    with as_operator():
        return current_subscription(organization)


def _plan_after(ended: Subscription) -> str:
    """What was chosen to follow, if it is still sold to the organization; else Free."""
    wanted = ended.next_plan or "free"
    try:
        with as_operator():
            plans.for_sale(wanted, ended.plan_version.currency)
    except (NotFound, StateConflict):
        log.warning("the plan %s is not sold any more to organization %s", wanted, ended.organization_id)
        return "free"
    return wanted


def _begun(subscription: StripeSubscription, version: PlanVersion) -> datetime:
    """Since when it is charged for what it consists of now: as its fee, so its usage."""
    items = [item.created_at for item in subscription.items if item.created_at is not None]
    changed_at, said = max([subscription.created_at, *items]), subscription.metadata
    is_of_version = (said.get("plan"), said.get("version")) == (version.plan_id, str(version.version))
    if is_of_version and said.get(PRORATED_AT, "").isdigit():
        prorated_at = datetime.fromtimestamp(int(said[PRORATED_AT]), UTC)
        if changed_at - PREVIEW_HOLDS - LATENCY <= prorated_at <= changed_at:  # else it is of an earlier change
            return prorated_at
    return changed_at


def _version(subscription: StripeSubscription) -> PlanVersion | None:
    """The version of a plan that its prices were made for (manage.py stripe_sync). None: they were made by somebody else."""
    for item in subscription.items:
        plan, number = item.metadata.get("plan", ""), item.metadata.get("version", "")
        if plan and number.isdigit():
            with as_operator():
                found: PlanVersion | None = PlanVersion.objects.filter(plan=plan, version=int(number)).first()
            if found is not None:
                return found
    log.error("the prices of subscription %s belong to no plan of ours", subscription.id)
    return None
