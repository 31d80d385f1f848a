"""The customer portal: another card, the end of the subscription, and open invoices, as far as its configuration allows."""

from typing import Any

from saas.local.stripe import subscriptions
from saas.local.stripe.catalogue import is_true, merged, need
from saas.local.stripe.refusals import Refusal, invalid, missing
from saas.local.stripe.routes import route
from saas.local.stripe.store import Json, page
from saas.local.stripe.world import World

OPEN_SECONDS = 3600
FEATURES = ("customer_update", "invoice_history", "payment_method_update", "subscription_cancel", "subscription_update")


@route("POST", "/v1/billing_portal/configurations")
def create_configuration(world: World, params: Json) -> Json:
    need(params, "features")
    body = {
        "active": True,
        "business_profile": {"headline": None, "privacy_policy_url": None, "terms_of_service_url": None},
        "created": world.now(),
        "default_return_url": None,
        "features": {name: {"enabled": False} for name in FEATURES} | _features(params),
        "is_default": False,
        "login_page": {"enabled": False, "url": None},
        "metadata": params.get("metadata") or {},
        "updated": world.now(),
    }
    made = world.store.add("billing_portal.configuration", "bpc", body)
    world.emit("billing_portal.configuration.created", made)
    return made


@route("GET", "/v1/billing_portal/configurations")
def list_configurations(world: World, params: Json) -> Json:
    found = world.store.all("billing_portal.configuration")
    if "active" in params:
        found = [body for body in found if body["active"] == is_true(params["active"])]
    return page(found, params, "/v1/billing_portal/configurations")


@route("POST", "/v1/billing_portal/configurations/{id}")
def update_configuration(world: World, params: Json, id: str) -> Json:
    found = world.store.get("billing_portal.configuration", id)
    fields: Json = {"features": found["features"] | _features(params), "updated": world.now()}
    fields["metadata"] = merged(found["metadata"], params.get("metadata"))
    if "active" in params:
        fields["active"] = is_true(params["active"])
    return world.change(found, "billing_portal.configuration.updated", **fields)


def _features(params: Json) -> Json:
    """What is allowed. A change of the plan cannot be: Stripe does not offer it for metered prices, nor for several at once."""
    given = params.get("features") or {}
    unknown = sorted(set(given) - set(FEATURES))
    if unknown or is_true((given.get("subscription_update") or {}).get("enabled")):
        raise invalid("features", f"The stand-in's portal does not have this: {', '.join(unknown) or 'subscription_update'}")
    return {name: {key: _plain(value) for key, value in feature.items()} for name, feature in given.items()}


def _plain(value: Any) -> Any:  # Any: of a form
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


@route("POST", "/v1/billing_portal/sessions")
def create(world: World, params: Json) -> Json:
    need(params, "customer")
    if not params.get("configuration"):
        text = "No configuration provided and your test mode default configuration has not been created."
        raise Refusal(400, f"{text} Provide a configuration, or create your default by saving your customer portal settings.")
    configuration = world.store.get("billing_portal.configuration", params["configuration"])
    if not configuration["active"]:
        raise invalid("configuration", f"The configuration {configuration['id']} is not active")
    body = {
        "configuration": configuration["id"],
        "created": world.now(),
        "customer": world.store.get("customer", params["customer"])["id"],
        "flow": None,
        "locale": None,
        "on_behalf_of": None,
        "return_url": params.get("return_url"),
    }
    session = world.store.add("billing_portal.session", "bps", body)
    session["url"] = f"{world.base_url}/portal/{session['id']}"
    return world.store.save(session)


def open_session(world: World, id: str) -> Json:
    session = world.store.get("billing_portal.session", id)
    if world.now() > session["created"] + OPEN_SECONDS:
        raise Refusal(404, "This link has expired: ask for a new one")
    return session


def may(world: World, session: Json, feature: str) -> bool:
    """Whether the configuration of this visit allows it."""
    features = world.store.get("billing_portal.configuration", session["configuration"])["features"]
    return is_true(features[feature].get("enabled"))


def running(world: World, customer: str) -> Json | None:
    """The customer's subscription, if there is one that has not ended."""
    found = [body for body in world.store.all("subscription", customer=customer) if body["status"] not in subscriptions.ENDED]
    return found[-1] if found else None


def stop(world: World, customer: str, *, is_canceled: bool) -> None:
    """Cancel at the period's end, or take that back."""
    subscription = running(world, customer)
    if subscription is None:
        raise missing("subscription", customer)
    subscriptions.update(world, {"cancel_at_period_end": "true" if is_canceled else "false"}, subscription["id"])
