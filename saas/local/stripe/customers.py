"""Customers and their cards. A card does what its number says; no other data of it is kept."""

from saas.local.stripe.catalogue import is_true, merged
from saas.local.stripe.refusals import Refusal, declined, missing
from saas.local.stripe.routes import route
from saas.local.stripe.store import Json, page
from saas.local.stripe.world import World

# Stripe's own test numbers. `declined`: refused when it is entered; `later`: entered, but every charge of it fails.
CARDS = {
    "4242424242424242": ("works", "a card that works"),
    "4000000000000341": ("later", "a card that is taken, but whose later charges fail"),
    "4000000000000259": ("disputed", "a card that pays, and whose payment is disputed at once"),
    "4000000000000002": ("declined", "a card that is declined"),
}


@route("POST", "/v1/customers")
def create(world: World, params: Json) -> Json:
    body = {
        "address": params.get("address"),
        "balance": 0,
        "created": world.now(),
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": params.get("description"),
        "email": params.get("email"),
        "invoice_settings": {"default_payment_method": None},
        "metadata": params.get("metadata") or {},
        "name": params.get("name"),
    }
    customer = world.store.add("customer", "cus", body)
    world.emit("customer.created", customer)
    return customer


@route("GET", "/v1/customers")
def list_all(world: World, params: Json) -> Json:
    wanted = {"email": params["email"]} if "email" in params else {}
    since = int((params.get("created") or {}).get("gte", 0))
    found = [customer for customer in world.store.all("customer", **wanted) if customer.get("created", since) >= since]
    return page(found, params, "/v1/customers")


@route("GET", "/v1/customers/{id}")
def retrieve(world: World, params: Json, id: str) -> Json:
    return world.store.get("customer", id)


@route("POST", "/v1/customers/{id}")
def update(world: World, params: Json, id: str) -> Json:
    customer = world.store.get("customer", id)
    fields: Json = {name: params[name] for name in ("email", "name", "description", "address") if name in params}
    fields["metadata"] = merged(customer["metadata"], params.get("metadata"))
    if "default_payment_method" in (settings := params.get("invoice_settings") or {}):
        method = world.store.get("payment_method", settings["default_payment_method"])
        fields["invoice_settings"] = {"default_payment_method": method["id"]}
    return world.change(customer, "customer.updated", **fields)


@route("POST", "/v1/payment_methods/{id}/attach")
def attach(world: World, params: Json, id: str) -> Json:
    """Stripe's test cards by their names; no card comes by itself here."""
    number = {"pm_card_visa": "4242424242424242", "pm_card_chargeCustomerFail": "4000000000000341"}.get(id)
    if number is None:
        raise missing("payment_method", id)
    return enter_card(world, str(params.get("customer", "")), number)


@route("DELETE", "/v1/customers/{id}")
def delete(world: World, params: Json, id: str) -> Json:
    customer = world.store.get("customer", id)
    world.store.save({"id": id, "object": "customer", "deleted": True})
    world.emit("customer.deleted", customer)
    return {"id": id, "object": "customer", "deleted": True}


def enter_card(world: World, customer_id: str, number: str) -> Json:
    """Make this the customer's card. Raises a card error for one that is declined at once."""
    behaviour = CARDS.get(number, ("", ""))[0]
    if not behaviour:
        raise Refusal(402, "Your card number is incorrect.", kind="card_error", code="incorrect_number")
    if behaviour == "declined":
        raise declined()
    customer = world.store.get("customer", customer_id)
    card = {"brand": "visa", "last4": number[-4:], "exp_month": 12, "exp_year": 2034}
    body = {"card": card, "created": world.now(), "customer": customer_id, "metadata": {}, "type": "card"}
    method = world.store.add("payment_method", "pm", body)
    world.emit("payment_method.attached", method)
    world.change(customer, "customer.updated", invoice_settings={"default_payment_method": method["id"]})
    return method


def is_taxed(world: World, customer_id: str, params: Json) -> bool:
    """Whether Stripe Tax is on for this request. Raises a refusal for a customer of whom nobody knows, or asks, the address."""
    if not is_true((params.get("automatic_tax") or {}).get("enabled")):
        return False
    is_asked = (params.get("customer_update") or {}).get("address") == "auto"
    if not (is_asked or world.store.get("customer", customer_id).get("address")):
        raise Refusal(
            400,
            "Automatic tax calculation in Checkout requires a valid address on the Customer, or `customer_update[address]`"
            " set to 'auto' to save the address entered during Checkout to the Customer.",
            code="customer_tax_location_invalid",
            param="automatic_tax",
        )
    return True


def card_of(world: World, customer_id: str) -> Json | None:
    """The card that invoices of this customer are charged to."""
    customer = world.store.get("customer", customer_id)
    if customer.get("deleted"):
        raise missing("customer", customer_id)
    name = customer["invoice_settings"]["default_payment_method"]
    return world.store.get("payment_method", name) if name else None


def charge(world: World, customer_id: str, amount: int, currency: str, *, metadata: Json | None = None) -> Json:
    """A PaymentIntent that succeeded. Raises a card error if there is no card, or one that refuses."""
    method = card_of(world, customer_id)
    if method is None:
        raise Refusal(402, "The customer has no payment method.", kind="card_error", code="payment_method_missing")
    behaviour = next(does for number, (does, _) in CARDS.items() if number.endswith(method["card"]["last4"]))
    if behaviour == "later":
        raise declined()
    body = {
        "amount": amount,
        "amount_received": amount,
        "created": world.now(),
        "currency": currency,
        "customer": customer_id,
        "description": None,
        "metadata": metadata or {},
        "payment_method": method["id"],
        "status": "succeeded",
    }
    payment = world.store.add("payment_intent", "pi", body)
    world.emit("payment_intent.succeeded", payment)
    if behaviour == "disputed":
        _dispute(world, payment)
    return payment


def _dispute(world: World, payment: Json) -> None:
    body = {
        "amount": payment["amount"],
        "created": world.now(),
        "currency": payment["currency"],
        "metadata": {},
        "payment_intent": payment["id"],
        "reason": "fraudulent",
        "status": "needs_response",
    }
    world.emit("charge.dispute.created", world.store.add("dispute", "du", body))


@route("GET", "/v1/disputes/{id}")
def retrieve_dispute(world: World, params: Json, id: str) -> Json:
    return world.store.get("dispute", id)


@route("GET", "/v1/payment_intents/{id}")
def retrieve_payment(world: World, params: Json, id: str) -> Json:
    return world.store.get("payment_intent", id)


@route("POST", "/v1/refunds")
def create_refund(world: World, params: Json) -> Json:
    payment = world.store.get("payment_intent", params.get("payment_intent", ""))
    given = sum(refund["amount"] for refund in world.store.all("refund", payment_intent=payment["id"]))
    amount = int(params.get("amount", payment["amount_received"] - given))
    return refund(world, payment, amount, params)


def refund(world: World, payment: Json, amount: int, params: Json) -> Json:
    """Give back a part of a payment, never more than is left of it."""
    given = sum(refund["amount"] for refund in world.store.all("refund", payment_intent=payment["id"]))
    left = payment["amount_received"] - given
    if not 0 < amount <= left:
        raise Refusal(400, f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})", param="amount")
    body = {
        "amount": amount,
        "created": world.now(),
        "currency": payment["currency"],
        "metadata": params.get("metadata") or {},
        "payment_intent": payment["id"],
        "reason": params.get("reason"),
        "status": "succeeded",
    }
    made = world.store.add("refund", "re", body)
    world.emit("refund.created", made)
    return made


@route("GET", "/v1/refunds/{id}")
def retrieve_refund(world: World, params: Json, id: str) -> Json:
    return world.store.get("refund", id)


@route("GET", "/v1/refunds")
def list_refunds(world: World, params: Json) -> Json:
    wanted = {"payment_intent": params["payment_intent"]} if "payment_intent" in params else {}
    return page(world.store.all("refund", **wanted), params, "/v1/refunds")
