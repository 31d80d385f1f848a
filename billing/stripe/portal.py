"""Stripe's customer portal: what a customer may do there, kept in a configuration at Stripe that every visit names.

Changing the plan is not among it: the portal does not change subscriptions with a metered price or with several prices, as ours
have, and taking a single one of them would leave usage unpaid. POST /billing/plan does it.
"""

from typing import Any

from billing.stripe.objects import PortalConfiguration
from billing.stripe_gateway import ask, client, every
from saas.lib.errors import PaymentsUnavailable

TOLD = "card, address, invoices, cancellation with the end of the month"
MARK = {"maas": "portal"}
FEATURES: dict[str, Any] = {
    "customer_update": {"enabled": True, "allowed_updates": ["address", "email", "name", "tax_id"]},
    "invoice_history": {"enabled": True},
    "payment_method_update": {"enabled": True},
    "subscription_cancel": {"enabled": True, "mode": "at_period_end"},
    "subscription_update": {"enabled": False},
}


def link(*, customer: str, return_url: str) -> str:
    """The address of the page, good for one short visit. Raises PaymentsUnavailable without a configuration."""
    ours = find()
    if ours is None:
        raise PaymentsUnavailable("Stripe has no settings for this page yet; its operator runs manage.py stripe_sync --apply")
    params = {"customer": customer, "return_url": return_url, "configuration": ours.id}
    return str(ask(client().v1.billing_portal.sessions.create, params=params)["url"])


def find() -> PortalConfiguration | None:
    """The configuration that we have made, the oldest of them if somebody has made more."""
    listed = every(client().v1.billing_portal.configurations.list, params={"active": True})
    ours = [found for json in listed if (found := PortalConfiguration.read(json)).metadata.items() >= MARK.items()]
    return ours[-1] if ours else None


def is_right(found: PortalConfiguration) -> bool:
    """Whether it allows what it should. What we do not mention may be as Stripe, or somebody in its dashboard, likes."""
    return all(_has(found.features.get(name), wanted) for name, wanted in FEATURES.items())


def _has(found: Any, wanted: Any) -> bool:  # Any: JSON
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_has(found.get(name), each) for name, each in wanted.items())
    return sorted(found or ()) == wanted if isinstance(wanted, list) else bool(found == wanted)


def create() -> PortalConfiguration:
    params = {"features": FEATURES, "metadata": MARK}
    return PortalConfiguration.read(ask(client().v1.billing_portal.configurations.create, params=params))


def update(configuration: str) -> PortalConfiguration:
    params = {"features": FEATURES}
    return PortalConfiguration.read(ask(client().v1.billing_portal.configurations.update, configuration, params=params))
