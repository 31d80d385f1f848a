"""Customers at Stripe, what they subscribe to, and the pages on which they pay. Cards are left to Stripe entirely."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from billing.stripe.objects import Checkout, Customer, Invoice, Subscription
from billing.stripe_gateway import StripeRefused, ask, client, every, once, tax
from saas.lib import clock


def create_customer(*, organization: str, email: str, name: str) -> Customer:
    """The customer of an organization (its id, hexadecimal): the same one however often this is called, within a day."""
    service = client().v1.customers
    # What may change from one call to the next is not in the request that makes it: a key belongs to its parameters.
    since = {"created": {"gte": int((clock.now() - timedelta(days=1)).timestamp())}}
    find = partial(every, service.list, params=since)
    made = once(service.create, {"metadata": {"organization": organization}}, key=f"customer:{organization}", find=find)
    return update_customer(made["id"], email=email, name=name)


def retrieve_customer(customer: str) -> Customer:
    return Customer.read(ask(client().v1.customers.retrieve, customer))


def update_customer(customer: str, *, email: str, name: str) -> Customer:
    return Customer.read(ask(client().v1.customers.update, customer, params={"email": email, "name": name}))


def checkout_for_subscription(
    *,
    customer: str,
    prices: Sequence[tuple[str, bool]],
    metadata: dict[str, str],
    success_url: str,
    cancel_url: str,
    key: str,
) -> Checkout:
    """A page on which the customer subscribes to `prices`, each (id, is metered).

    Periods begin with the calendar month, UTC, so that no hour belongs to two of them. `metadata` comes back on the
    session and on the subscription.
    """
    anchor = {"day_of_month": 1, "hour": 0, "minute": 0, "second": 0}
    params = {
        "mode": "subscription",
        "customer": customer,
        "line_items": _items(prices),
        "subscription_data": {"metadata": metadata, "billing_cycle_anchor_config": anchor},
        "metadata": metadata,
        "success_url": success_url,
        "cancel_url": cancel_url,
        **tax(),
        **_address(),
    }
    return _checkout(params, key)


def checkout_for_credit(
    *,
    customer: str,
    amount_minor: int,
    currency: str,
    description: str,
    metadata: dict[str, str],
    success_url: str,
    cancel_url: str,
    key: str,
) -> Checkout:
    """A page on which the customer pays once. `metadata` comes back on the session and on the payment."""
    price = {"currency": currency.lower(), "unit_amount": amount_minor, "product_data": {"name": description}}
    params = {
        "mode": "payment",
        "customer": customer,
        "line_items": [{"price_data": price, "quantity": 1}],
        "payment_intent_data": {"metadata": metadata},
        "metadata": metadata,
        "success_url": success_url,
        "cancel_url": cancel_url,
        **tax(),
        **_address(),
    }
    return _checkout(params, key)


def _checkout(params: dict[str, Any], key: str) -> Checkout:
    service = client().v1.checkout.sessions
    find = partial(every, service.list, params={"customer": params["customer"]})
    return Checkout.read(once(service.create, params, key=key, find=find))


def _address() -> dict[str, Any]:
    """With Stripe Tax a page asks where the customer is taxed, and keeps that: without it Stripe refuses the page."""
    return {"customer_update": {"address": "auto", "name": "auto"}} if tax() else {}


def retrieve_checkout(checkout: str) -> Checkout:
    return Checkout.read(ask(client().v1.checkout.sessions.retrieve, checkout))


def end_open_checkouts(customer: str, *, but: str = "") -> None:
    """End the customer's pages on which a plan could still be subscribed to, `but` one."""
    service = client().v1.checkout.sessions
    for json in every(service.list, params={"customer": customer, "status": "open"}):
        if json["mode"] == "subscription" and json["id"] != but:
            end_checkout(json["id"])


def end_checkout(checkout: str) -> None:
    """End a page that nobody has paid. One that is not open any more stays as it is."""
    try:
        ask(client().v1.checkout.sessions.expire, checkout)
    except StripeRefused:
        if retrieve_checkout(checkout).status == "open":
            raise


def create_subscription(
    *,
    customer: str,
    prices: Sequence[tuple[str, bool]],
    metadata: dict[str, str],
    key: str,
    days_until_due: int | None = None,
) -> Subscription:
    """Subscribe a customer without a page; prices as in `checkout_for_subscription`.

    Invoices are charged to the customer's card, or sent to be paid within `days_until_due`.
    """
    service = client().v1.subscriptions
    params = {
        "customer": customer,
        "items": _items(prices),
        "billing_mode": {"type": "flexible"},
        "billing_cycle_anchor_config": {"day_of_month": 1, "hour": 0, "minute": 0, "second": 0},
        "metadata": metadata,
        **({} if days_until_due is None else {"collection_method": "send_invoice", "days_until_due": days_until_due}),
        **tax(),
    }
    find = partial(every, service.list, params={"customer": customer, "status": "all"})
    return Subscription.read(once(service.create, params, key=key, find=find))


def retrieve_subscription(subscription: str) -> Subscription:
    return Subscription.read(ask(client().v1.subscriptions.retrieve, subscription))


def subscriptions_of(customer: str) -> list[Subscription]:
    """All of a customer's, ended ones too."""
    params = {"customer": customer, "status": "all"}
    return [Subscription.read(json) for json in every(client().v1.subscriptions.list, params=params)]


def change_subscription(
    subscription: str, *, prices: Sequence[tuple[str, bool]], metadata: dict[str, str], proration_at: datetime
) -> Subscription:
    """Exchange its prices; the flat fee is prorated by Stripe at `proration_at`, the moment of the preview that was shown."""
    params = {
        "items": _exchange(retrieve_subscription(subscription), prices),
        "proration_behavior": "create_prorations",
        "proration_date": int(proration_at.timestamp()),
        "metadata": metadata,
        "cancel_at_period_end": False,
    }
    return Subscription.read(ask(client().v1.subscriptions.update, subscription, params=params))


def preview_change(subscription: str, *, prices: Sequence[tuple[str, bool]], proration_at: datetime) -> Invoice:
    """The next invoice as it would be after that change; nothing is changed."""
    details = {
        "items": _exchange(retrieve_subscription(subscription), prices),
        "proration_behavior": "create_prorations",
        "proration_date": int(proration_at.timestamp()),
        "cancel_at_period_end": False,
    }
    params = {"subscription": subscription, "subscription_details": details}
    return Invoice.read(ask(client().v1.invoices.create_preview, params=params))


def preview_end(subscription: str) -> Invoice | None:
    """The last invoice as it would be if it ended with its period; None if there would be none."""
    params = {"subscription": subscription, "subscription_details": {"cancel_at_period_end": True}}
    try:
        return Invoice.read(ask(client().v1.invoices.create_preview, params=params))
    except StripeRefused as error:
        if error.stripe_code == "invoice_upcoming_none":
            return None
        raise


def preview_subscription(*, customer: str, prices: Sequence[tuple[str, bool]], starts: datetime) -> Invoice:
    """The first invoice of a new subscription, up to `starts`, when its whole months begin. `customer`: "" for nobody."""
    details = {
        "items": _items(prices),
        "billing_mode": {"type": "flexible"},
        "billing_cycle_anchor": {"type": "timestamp", "timestamp": int(starts.timestamp())},
        "proration_behavior": "create_prorations",
    }
    params = {**({"customer": customer} if customer else {}), "subscription_details": details}
    return Invoice.read(ask(client().v1.invoices.create_preview, params=params))


def cancel_subscription(subscription: str, *, at_period_end: bool) -> Subscription:
    """At the period's end, or at once: then what was used is invoiced, and the rest of the fee is given back."""
    service = client().v1.subscriptions
    if at_period_end:
        return Subscription.read(ask(service.update, subscription, params={"cancel_at_period_end": True}))
    return Subscription.read(ask(service.cancel, subscription, params={"invoice_now": True, "prorate": True}))


def keep_subscription(subscription: str) -> Subscription:
    """Take back that it ends with its period."""
    return Subscription.read(ask(client().v1.subscriptions.update, subscription, params={"cancel_at_period_end": False}))


def _items(prices: Sequence[tuple[str, bool]]) -> list[dict[str, Any]]:
    return [{"price": price} if is_metered else {"price": price, "quantity": 1} for price, is_metered in prices]


def _exchange(now: Subscription, prices: Sequence[tuple[str, bool]]) -> list[dict[str, Any]]:
    """The items of an update that leads from `now` to `prices`: a flat fee keeps its item, with another price."""
    items: list[dict[str, Any]] = []
    left = list(now.items)
    for price, is_metered in prices:
        same = next((item for item in left if item.price == price), None)
        kept = same or next((item for item in left if not is_metered and not item.is_metered), None)
        if kept is not None:
            left.remove(kept)
        items.append({**({"id": kept.id} if kept else {}), "price": price, **({} if is_metered else {"quantity": 1})})
    return items + [{"id": item.id, "deleted": True} for item in left]
