"""The customer portal: another card, another plan, the end of it, and open invoices."""

from saas.local.stripe import subscriptions
from saas.local.stripe.catalogue import need
from saas.local.stripe.refusals import Refusal, missing
from saas.local.stripe.routes import route
from saas.local.stripe.store import Json
from saas.local.stripe.world import World

OPEN_SECONDS = 3600


@route("POST", "/v1/billing_portal/sessions")
def create(world: World, params: Json) -> Json:
    need(params, "customer")
    body = {
        "configuration": "bpc_standin",
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


def running(world: World, customer: str) -> Json | None:
    """The customer's subscription, if there is one that has not ended."""
    found = [body for body in world.store.all("subscription", customer=customer) if body["status"] not in subscriptions.ENDED]
    return found[-1] if found else None


def plans(world: World, currency: str) -> list[tuple[Json, list[Json]]]:
    """What can be subscribed to: active products with their active recurring prices in this currency."""
    prices = [price for price in world.store.all("price", active=True, currency=currency) if price["recurring"]]
    found = [(product, [price for price in prices if price["product"] == product["id"]]) for product in _products(world)]
    return [(product, its) for product, its in found if its]


def _products(world: World) -> list[Json]:
    return world.store.all("product", active=True)


def switch(world: World, customer: str, product_id: str) -> None:
    """Change the subscription to all prices of another product, prorated from now on."""
    subscription = running(world, customer)
    if subscription is None:
        raise missing("subscription", customer)
    wanted = next((its for product, its in plans(world, subscription["currency"]) if product["id"] == product_id), None)
    if wanted is None:
        raise missing("product", product_id)
    items: list[Json] = [{"id": item["id"], "deleted": "true"} for item in subscription["items"]["data"]]
    items += [{"price": price["id"]} for price in wanted]
    metadata = world.store.get("product", product_id)["metadata"]
    subscriptions.update(world, {"items": items, "metadata": metadata}, subscription["id"])


def stop(world: World, customer: str, *, is_canceled: bool) -> None:
    """Cancel at the period's end, or take that back."""
    subscription = running(world, customer)
    if subscription is None:
        raise missing("subscription", customer)
    subscriptions.update(world, {"cancel_at_period_end": "true" if is_canceled else "false"}, subscription["id"])
