"""Changing the plan of an organization, and ending what it pays for: limits at once, money by Stripe's proration.

What runs at Stripe is changed and ended there, and the plan here follows what Stripe says afterwards. None of it may run inside
a transaction. Raises PaymentsUnavailable while Stripe is away: nothing, or all of it, was done, and it may be repeated.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from billing.models import PlanVersion, Subscription
from billing.sale import plans, rating, segments
from billing.sale.models import current_subscription
from billing.stripe import customers, payments, selling
from billing.stripe.following import PREVIEW_HOLDS, PRORATED_AT, alone, follow
from billing.stripe.objects import Invoice
from billing.stripe.objects import Subscription as StripeSubscription
from billing.stripe.states import RUNNING
from saas.lib import clock
from saas.lib.errors import StateConflict, ValidationFailed
from tenants.access import Actor
from tenants.databases import as_operator

FREE = "free"


@dataclass(frozen=True)
class Preview:
    """What a change to `version` would bring. Amounts are in the currency's smallest coin, before taxes where none runs yet.

    `prorated_at`: the moment that makes a change cost just this (`choose`), None where Stripe prorates nothing. `first` is the
    invoice that comes first with the change: `due_now`, or else with the next one; None if there is none.
    """

    version: PlanVersion
    needs_checkout: bool
    takes_effect_at: datetime
    prorated_at: datetime | None = None
    due_now: int = 0
    next_invoice: int = 0
    next_invoice_at: datetime | None = None
    first: Invoice | None = None


def choose(organization_id: UUID, slug: str, *, actor: Actor, prorated_at: datetime | None = None) -> None:
    """Change the plan to what is for sale of `slug`, as an organization may itself.

    From one that is paid for to another: at once, prorated by Stripe at `prorated_at` (of a preview) or now. From one that is
    paid for to one that is not: the subscription ends with its period, and the other plan begins then. Between plans that are
    not paid for: at once. Raises NotFound; StateConflict for one that is paid for, while no subscription runs; ValidationFailed
    for a moment that is none of a preview.
    """
    current, version = _offered(organization_id, slug)
    found = _found(current)
    if found is None:
        plans.choose(organization_id, slug, actor=actor)
    elif not selling.keys_of(version):
        _end_with_period(current, then=slug)
    elif version.id != current.plan_version_id or found.cancels_at is not None:
        _change(current, version, prorated_at=_checked(prorated_at, current, found))


def cancel(organization_id: UUID, *, at_period_end: bool = True) -> None:
    """End the subscription with its period, or at once; then the organization is on Free. Nothing if it has ended already.

    Raises StateConflict if there never was one.
    """
    with as_operator():
        current = current_subscription(organization_id)
    if not current.stripe_status:
        raise StateConflict("There is no subscription that could be canceled")
    if _found(current) is None:
        return
    if at_period_end:
        _end_with_period(current, then="")
    else:
        with alone(current.stripe_customer):
            customers.cancel_subscription(current.stripe_subscription, at_period_end=False)
        follow(current.stripe_customer)


def keep(organization_id: UUID) -> None:
    """Take back that the subscription ends with its period. Raises StateConflict if none runs (any more)."""
    with as_operator():
        current = current_subscription(organization_id)
    found = _found(current)
    if found is None:
        raise StateConflict("There is no subscription that runs: subscribe by the checkout")
    if found.cancels_at is not None:
        with alone(current.stripe_customer):
            customers.keep_subscription(current.stripe_subscription)
        follow(current.stripe_customer)


def preview(organization_id: UUID, slug: str) -> Preview:
    """What `choose` would bring now; nothing is changed. Raises NotFound, StateConflict: the plan is not sold to it."""
    current, version = _offered(organization_id, slug)
    found, now = _found(current), clock.now().replace(microsecond=0)
    is_paid_for = bool(selling.keys_of(version))
    if found is None:
        return _preview_of_beginning(current, version, now) if is_paid_for else Preview(version, False, now)
    if is_paid_for:
        first = customers.preview_change(found.id, prices=payments.prices_of(version), proration_at=now)
        return Preview(version, False, now, now, 0, first.total_minor, _end(found), first)
    last = customers.preview_end(found.id)
    return Preview(version, False, _end(found), None, 0, last.total_minor if last else 0, _end(found), last)


def _preview_of_beginning(current: Subscription, version: PlanVersion, now: datetime) -> Preview:
    """What the checkout's page will ask for, and the next month's fee; what will be used by then nobody knows."""
    starts = segments.next_month(segments.month_start(now))
    first = customers.preview_subscription(customer=current.stripe_customer, prices=payments.prices_of(version), starts=starts)
    fee = rating.to_coins(segments.tariff_of(version).fee, version.currency)
    return Preview(version, True, now, None, first.total_minor, fee, starts, first)


def _offered(organization_id: UUID, slug: str) -> tuple[Subscription, PlanVersion]:
    with as_operator():
        current = current_subscription(organization_id)
        return current, plans.offered(current, slug)


def _found(current: Subscription) -> StripeSubscription | None:
    """The organization's subscription as Stripe has it now; None if none runs. If it has just ended, the plan follows."""
    if current.stripe_status not in RUNNING:
        return None
    found = customers.retrieve_subscription(current.stripe_subscription)
    if found.status in RUNNING:
        return found
    follow(current.stripe_customer)
    return None


def _change(current: Subscription, version: PlanVersion, *, prorated_at: datetime) -> None:
    prices = payments.prices_of(version)
    with alone(current.stripe_customer):
        customers.change_subscription(
            current.stripe_subscription,
            prices=prices,
            metadata={
                "organization": current.organization_id.hex,
                "plan": version.plan_id,
                "version": str(version.version),
                PRORATED_AT: str(int(prorated_at.timestamp())),
            },
            proration_at=prorated_at,
        )
    follow(current.stripe_customer)


def _end_with_period(current: Subscription, *, then: str) -> None:
    """Whoever follows Stripe meanwhile waits, or would find nothing planned and forget `then`."""
    with alone(current.stripe_customer):
        ending = customers.cancel_subscription(current.stripe_subscription, at_period_end=True)
        with as_operator():
            rows = Subscription.objects.of(current.organization_id).current()
            rows.update(ends_at=ending.cancels_at, next_plan="" if then == FREE else then)
    follow(current.stripe_customer)


def _checked(prorated_at: datetime | None, current: Subscription, found: StripeSubscription) -> datetime:
    """The moment of a preview, or now: the new plan is charged from it on, its usage too."""
    now = clock.now().replace(microsecond=0)
    if prorated_at is None:
        return now
    starts = [item.period_start for item in found.items if item.period_start is not None]
    earliest = max(now - PREVIEW_HOLDS, current.since.replace(microsecond=0), *starts)
    if not earliest <= prorated_at <= now:
        detail = (
            f"The moment of a preview of this plan, at most {PREVIEW_HOLDS.seconds // 60} minutes ago: ask for another one."
        )
        raise ValidationFailed("The preview does not hold any more.", errors=[{"field": "proration_at", "detail": detail}])
    return prorated_at.replace(microsecond=0)


def _end(found: StripeSubscription) -> datetime:
    """When its period ends."""
    return max(item.period_end for item in found.items if item.period_end is not None)
