"""What an organization pays for, and how: the ways to Stripe's pages. None of it may run inside a transaction.

Nothing changes here when a page is paid: Stripe's events tell (billing.stripe.events), and that may take some seconds.
"""

from uuid import UUID

from django.conf import settings

from billing.caps import credit
from billing.caps.models import Category, CreditGrant
from billing.models import PlanVersion, Subscription
from billing.sale import plans, rating
from billing.sale.models import current_subscription
from billing.stripe import catalogue, customers, invoices, selling
from billing.stripe import portal as portal_pages
from billing.stripe.following import STRIPE, alone
from billing.stripe.objects import Checkout, Payment
from billing.stripe.states import RUNNING
from saas.lib.errors import PaymentsUnavailable, StateConflict, ValidationFailed
from saas.lib.money import NANO
from tenants.databases import as_operator
from tenants.models import Membership, Organization, Role

SUBSCRIBED = "There is a subscription already: change it by POST /api/v1/billing/plan"
LEAST_CREDIT, MOST_CREDIT = 1, 100_000  # currency units that can be bought at once


def customer_of(organization_id: UUID, *, email: str) -> str:
    """The organization's customer at Stripe, made when it is first needed; `email` gets its invoices."""
    with as_operator():
        organization = Organization.objects.get(id=organization_id)
        known = current_subscription(organization_id).stripe_customer
    if known:
        return known
    made = customers.create_customer(organization=organization_id.hex, email=email, name=organization.name).id
    with as_operator():
        Subscription.objects.of(organization_id).current().filter(stripe_customer="").update(stripe_customer=made)
        return current_subscription(organization_id).stripe_customer


def address_of(organization_id: UUID) -> str:
    """Where invoices are sent if nobody says another: to the first owner. Raises StateConflict."""
    with as_operator():
        owners = Membership.objects.of(organization_id).filter(role=Role.OWNER).order_by("id")
        address: str | None = owners.values_list("user__email", flat=True).first()
    if address is None:
        raise StateConflict("The organization has no owner to whom invoices could be sent")
    return address


def checkout_plan(organization_id: UUID, slug: str, *, email: str, success_url: str, cancel_url: str, key: str) -> Checkout:
    """A page on which the organization subscribes to a plan. `key` makes a repeated request the same page.

    It ends every page that was made before, so that two cannot be paid. Raises StateConflict for a plan that costs nothing, or
    with a subscription that runs: that one is changed instead.
    """
    with as_operator():
        current = current_subscription(organization_id)
    version = plans.offered(current, slug)
    prices = prices_of(version)
    customer = customer_of(organization_id, email=email)
    if current.stripe_status in RUNNING:
        raise StateConflict(SUBSCRIBED)
    with alone(f"checkouts {customer}"):
        page = customers.checkout_for_subscription(
            customer=customer,
            prices=prices,
            metadata={"organization": organization_id.hex, "plan": slug, "version": str(version.version)},
            success_url=success_url,
            cancel_url=cancel_url,
            key=f"checkout:{organization_id.hex}:{key}",
        )
        customers.end_open_checkouts(customer, but=page.id)
        # As Stripe says: what was just paid there we may not have heard of yet. What was not paid before the line above cannot
        # be any more, so that of several pages at most one ever is.
        if any(found.status in RUNNING for found in customers.subscriptions_of(customer)):
            customers.end_checkout(page.id)
            raise StateConflict(SUBSCRIBED)
    return page


def checkout_credit(
    organization_id: UUID, amount_nano: int, *, email: str, success_url: str, cancel_url: str, key: str
) -> Checkout:
    """A page on which the organization buys credit in its currency. The payment's metadata says how much, and for whom."""
    with as_operator():
        currency = current_subscription(organization_id).plan_version.currency
    minor = rating.to_coins(amount_nano, currency)
    if not LEAST_CREDIT * NANO <= amount_nano <= MOST_CREDIT * NANO:
        detail = f"Between {LEAST_CREDIT} and {MOST_CREDIT:,} {currency}."
        raise ValidationFailed("This amount cannot be bought.", errors=[{"field": "amount", "detail": detail}])
    if minor * NANO != amount_nano * 10 ** rating.exponent(currency):
        least = rating.coins(10 if rating.exponent(currency) == 3 else 1, currency)
        detail = f"A whole number of {least} {currency}, the least that a card can be charged."
        raise ValidationFailed("This amount cannot be bought.", errors=[{"field": "amount", "detail": detail}])
    return customers.checkout_for_credit(
        customer=customer_of(organization_id, email=email),
        amount_minor=minor,
        currency=currency,
        description="Prepaid credit",
        metadata={"organization": organization_id.hex, "credit_nano": str(amount_nano)},
        success_url=success_url,
        cancel_url=cancel_url,
        key=f"credit:{organization_id.hex}:{key}",
    )


def grant_credit(payment: Payment) -> CreditGrant | None:
    """The credit that a payment has bought: once, however often this is called. None if it is not paid, or for something else.

    What it grants is what was asked for; what was paid beyond it are taxes. Raises as credit.grant.
    """
    metadata = payment.metadata
    if not payment.is_paid or "credit_nano" not in metadata:
        return None
    organization, amount = UUID(hex=metadata["organization"]), int(metadata["credit_nano"])
    with as_operator():
        currency = current_subscription(organization).plan_version.currency
    if payment.currency != currency:
        raise StateConflict(
            f"The payment {payment.id} is in {payment.currency}, and the organization now in {currency}: refund it"
        )
    if payment.amount_minor < rating.to_coins(amount, payment.currency):
        raise StateConflict(f"The payment {payment.id} is less than the credit that it was made for")
    return credit.grant(
        organization,
        amount_nano=amount,
        category=Category.PAID,
        reason="bought",
        actor=STRIPE,
        payment_intent=payment.id,
    )


def end_credit(payment_id: str, *, reason: str) -> None:
    """End what is unused of the credit that a payment has bought: its money goes back. Nothing if it was for something else.

    Raises StateConflict while its credit is not given yet: call again.
    """
    if "credit_nano" not in invoices.retrieve_payment(payment_id).metadata:
        return
    if not credit.end(payment_id, reason=reason, actor=STRIPE):
        raise StateConflict(f"The credit of the payment {payment_id} is not given yet")


def portal(organization_id: UUID, *, email: str, return_url: str) -> str:
    """The address of Stripe's page for card, cancellation and open invoices."""
    if settings.CONFIG.stripe_api_base and portal_pages.find() is None:  # nobody runs a command for a stand-in
        sync()
    return portal_pages.link(customer=customer_of(organization_id, email=email), return_url=return_url)


def prices_of(version: PlanVersion) -> list[tuple[str, bool]]:
    """Stripe's prices of a version: (id, is metered). Raises StateConflict if it costs nothing, PaymentsUnavailable."""
    keys = selling.keys_of(version)
    if not keys:
        raise StateConflict(f"The plan {version.plan_id} costs nothing by itself: choose it without paying")
    known = catalogue.prices_by_key(list(keys))
    if len(known) < len(keys) and settings.CONFIG.stripe_api_base:  # nobody runs a command for a stand-in
        sync()
        known = catalogue.prices_by_key(list(keys))
    if len(known) < len(keys):
        raise PaymentsUnavailable("Stripe does not know this plan yet; its operator runs manage.py stripe_sync --apply")
    return [(known[key].id, is_metered) for key, is_metered in keys.items()]


def sync() -> None:
    """Do what manage.py stripe_sync would, if nobody else has just done it."""
    with alone("plans"):
        selling.apply()
