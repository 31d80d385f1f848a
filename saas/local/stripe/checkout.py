"""Checkout sessions: made over the API, paid or left on a page."""

from typing import Any

from saas.local.stripe import subscriptions
from saas.local.stripe.catalogue import need
from saas.local.stripe.customers import charge, enter_card, is_taxed
from saas.local.stripe.refusals import Refusal, invalid
from saas.local.stripe.routes import route, work
from saas.local.stripe.store import Json, page
from saas.local.stripe.world import World

OPEN_SECONDS = 24 * 3600
MODES = ("payment", "setup", "subscription")


@route("POST", "/v1/checkout/sessions")
def create(world: World, params: Json) -> Json:
    need(params, "mode", "success_url")
    mode = params["mode"]
    if mode not in MODES:
        raise invalid("mode", f"Invalid mode: must be one of {MODES}")
    customer = params.get("customer") or ""
    if not customer:
        raise invalid("customer", "The stand-in needs a customer: make one first")
    world.store.get("customer", customer)
    if mode != "setup":
        need(params, "line_items")
    items = [_item(world, item, mode) for item in params.get("line_items", [])]
    total = sum(item["amount"] for item in items)
    expires = int(params.get("expires_at", world.now() + OPEN_SECONDS))
    body: Json = {
        "amount_subtotal": total,
        "amount_total": total,
        "automatic_tax": {"enabled": is_taxed(world, customer, params), "status": None},
        "cancel_url": params.get("cancel_url"),
        "client_reference_id": params.get("client_reference_id"),
        "created": world.now(),
        "currency": items[0]["currency"] if items else params.get("currency"),
        "customer": customer,
        "expires_at": expires,
        "line_items": {"object": "list", "data": items, "has_more": False},
        "metadata": params.get("metadata") or {},
        "mode": mode,
        "payment_intent": None,
        "payment_status": "unpaid" if total or mode == "payment" else "no_payment_required",
        "status": "open",
        "subscription": None,
        "success_url": params["success_url"],
        "ui_mode": "hosted",
        "url": None,
    }
    session = world.store.add("checkout.session", "cs_test", body)
    session["url"] = f"{world.base_url}/checkout/{session['id']}"
    world.store.save(session)
    more = {key: params[key] for key in ("subscription_data", "payment_intent_data", "customer_update") if key in params}
    world.store.add("checkout.more", "more", more | {"prices": params.get("line_items", [])}, id=f"more_{session['id']}")
    world.later(expires, "checkout.expire", session["id"])
    return shown(session)


def shown(session: Json) -> Json:
    """As Stripe shows it: lines only to who asks for them."""
    return {key: value for key, value in session.items() if key != "line_items"}


def _item(world: World, params: Json, mode: str) -> Json:
    """A line of the page: what it is called and what it costs now."""
    if "price" in params:
        price = world.store.get("price", params["price"])
        name = world.store.get("product", price["product"])["name"]
    else:
        data = params.get("price_data") or {}
        amount = data.get("unit_amount")
        price = {"recurring": data.get("recurring"), "currency": data.get("currency"), "unit_amount": amount and int(amount)}
        name = (data.get("product_data") or {}).get("name", "")
        if not amount or int(amount) <= 0:
            raise invalid("line_items", "An amount must be positive")
    recurring = price["recurring"]
    if (recurring is not None) != (mode == "subscription"):
        raise invalid("line_items", f"In {mode} mode, prices must {'' if mode == 'subscription' else 'not '}be recurring")
    if recurring and recurring.get("usage_type") == "metered":
        if "quantity" in params:
            raise invalid("line_items", "Quantity should not be specified where usage_type is metered")
        return {"name": f"{name}, by usage", "amount": 0, "currency": price["currency"], "is_metered": True}
    quantity = int(params.get("quantity", 1))
    return {"name": name, "amount": (price["unit_amount"] or 0) * quantity, "currency": price["currency"], "is_metered": False}


@route("GET", "/v1/checkout/sessions")
def list_all(world: World, params: Json) -> Json:
    wanted = {"status": params["status"]} if "status" in params else {}
    found = world.store.all("checkout.session", customer=params.get("customer", ""), **wanted)
    return page([shown(session) for session in found], params, "/v1/checkout/sessions")


@route("GET", "/v1/checkout/sessions/{id}")
def retrieve(world: World, params: Json, id: str) -> Json:
    return shown(world.store.get("checkout.session", id))


@route("POST", "/v1/checkout/sessions/{id}/expire")
def expire_now(world: World, params: Json, id: str) -> Json:
    session = world.store.get("checkout.session", id)
    if session["status"] != "open":
        raise Refusal(400, f"Only an open session can be expired; this one is {session['status']}")
    return shown(world.change(session, "checkout.session.expired", status="expired", url=None))


@work("checkout.expire")
def expire(world: World, id: str) -> None:
    if world.store.get("checkout.session", id)["status"] == "open":
        expire_now(world, {}, id)


def pay(world: World, id: str, number: str) -> Json:
    """The customer enters a card and pays. Raises a card error: the session stays open then."""
    session = world.store.get("checkout.session", id)
    if session["status"] != "open":
        raise Refusal(400, f"This page is {session['status']}")
    more = world.store.get("checkout.more", f"more_{id}")
    enter_card(world, session["customer"], number)
    if (more.get("customer_update") or {}).get("address") == "auto":
        world.change(world.store.get("customer", session["customer"]), "customer.updated", address={"country": "US"})
    fields: dict[str, Any] = {"status": "complete", "url": None, "payment_status": "paid"}
    if session["mode"] == "subscription":
        data = more.get("subscription_data") or {}
        tax = {"automatic_tax": {"enabled": session["automatic_tax"]["enabled"]}}
        params = {**data, **tax, "items": more["prices"]}
        made = subscriptions.begin(world, session["customer"], params, must_pay=True)
        fields["subscription"] = made["id"]
    elif session["mode"] == "payment":
        data = more.get("payment_intent_data") or {}
        metadata = data.get("metadata")
        payment = charge(world, session["customer"], session["amount_total"], session["currency"], metadata=metadata)
        fields["payment_intent"] = payment["id"]
    return world.change(session, "checkout.session.completed", **fields)
