"""Invoices: a draft for an hour, then final, then collected, with reminders if the card refuses."""

from typing import Any

from saas.local.stripe import rating
from saas.local.stripe.catalogue import is_true, merged, need
from saas.local.stripe.customers import charge
from saas.local.stripe.metering import used
from saas.local.stripe.refusals import Refusal, invalid
from saas.local.stripe.routes import route, work
from saas.local.stripe.store import Json, page
from saas.local.stripe.webhooks import DRAFT_SECONDS, is_awaited
from saas.local.stripe.world import World

DAY = 86_400
TOLD_WITHIN = 3 * DAY  # seconds after which a draft becomes final although its invoice.created was not taken
RETRY_AFTER = (3 * DAY, 5 * DAY, 7 * DAY)  # seconds after each refused attempt; after the last one the subscription is unpaid


def draft(world: World, customer: str, currency: str, *, reason: str, subscription: Json | None = None, **fields: Any) -> Json:
    """A new draft without lines. `fields`: period_start and period_end, and what else an invoice has."""
    parent = None
    if subscription is not None:
        details = {"subscription": subscription["id"], "metadata": subscription["metadata"]}
        parent = {"type": "subscription_details", "subscription_details": details, "quote_details": None}
    now = world.now()
    body = {
        "amount_due": 0,
        "amount_paid": 0,
        "amount_remaining": 0,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": {"enabled": bool(subscription and subscription["automatic_tax"]["enabled"]), "status": None},
        "billing_reason": reason,
        "collection_method": subscription["collection_method"] if subscription else "charge_automatically",
        "created": now,
        "currency": currency,
        "customer": customer,
        "due_date": None,
        "ending_balance": None,
        "hosted_invoice_url": None,
        "lines": {"object": "list", "data": [], "has_more": False, "total_count": 0},
        "metadata": {},
        "next_payment_attempt": None,
        "number": None,
        "parent": parent,
        "period_start": now,
        "period_end": now,
        "starting_balance": world.store.get("customer", customer)["balance"],
        "status": "draft",
        "status_transitions": {"finalized_at": None, "marked_uncollectible_at": None, "paid_at": None, "voided_at": None},
        "subtotal": 0,
        "total": 0,
    }
    return world.store.add("invoice", "in", body | fields)


def line(world: World, invoice: Json, amount: int, description: str, start: int, end: int, **fields: Any) -> Json:
    """Append a line. `fields`: price, quantity, unit, item (a subscription item), is_proration, invoice_item."""
    price, item = fields.get("price"), fields.get("item")
    details = {"invoice_item": fields.get("invoice_item"), "proration": bool(fields.get("is_proration"))}
    if item is not None and not fields.get("invoice_item"):
        details |= {"subscription": item["subscription"], "subscription_item": item["id"]}
        parent = {"type": "subscription_item_details", "subscription_item_details": details, "invoice_item_details": None}
    else:
        details |= {"subscription": fields.get("subscription")}
        parent = {"type": "invoice_item_details", "invoice_item_details": details, "subscription_item_details": None}
    pricing = None
    if price is not None:
        named = {"price": price["id"], "product": price["product"]}
        pricing = {"type": "price_details", "price_details": named, "unit_amount_decimal": fields.get("unit")}
    made = {
        "id": f"il_{invoice['id'][3:]}_{len(invoice['lines']['data']) + 1}",
        "object": "line_item",
        "amount": amount,
        "currency": invoice["currency"],
        "description": description,
        "discountable": False,
        "invoice": invoice["id"],
        "livemode": False,
        "metadata": fields.get("metadata") or {},
        "parent": parent,
        "period": {"start": start, "end": end},
        "pricing": pricing,
        "quantity": fields.get("quantity", 1),
        "subtotal": amount,
        "taxes": [],
    }
    invoice["lines"]["data"].append(made)
    return made


def usage_lines(world: World, invoice: Json, item: Json, start: int, end: int) -> None:
    """The lines of a metered item: one for each tier that was reached, with what Stripe has counted until now."""
    price = world.store.get("price", item["price"]["id"])
    product = world.store.get("product", price["product"])
    meter = world.store.get("billing.meter", price["recurring"]["meter"])
    units = used(world, meter, invoice["customer"], start, end)
    for number, (quantity, amount, unit) in enumerate(rating.tiers(price, units), start=1):
        text = f"{quantity} × {product['name']} (tier {number} at {unit} / unit)"
        line(world, invoice, amount, text, start, end, price=price, quantity=quantity, unit=unit, item=item)


def refresh(world: World, invoice: Json) -> Json:
    """Reckon a draft anew: usage may have come since. A final one stays as it is."""
    if invoice["status"] != "draft":
        return invoice
    old, invoice["lines"]["data"] = invoice["lines"]["data"], []
    seen = set()
    for row in old:
        details = row["parent"]["subscription_item_details"] or {}
        price = world.store.get("price", row["pricing"]["price_details"]["price"]) if row["pricing"] else None
        if price is None or not details or not price["recurring"] or price["recurring"]["usage_type"] != "metered":
            row["id"] = f"il_{invoice['id'][3:]}_{len(invoice['lines']['data']) + 1}"
            invoice["lines"]["data"].append(row)
        elif details["subscription_item"] not in seen:
            seen.add(details["subscription_item"])
            item = {"id": details["subscription_item"], "subscription": details["subscription"], "price": price}
            usage_lines(world, invoice, item, row["period"]["start"], row["period"]["end"])
    return total(world, invoice)


def total(world: World, invoice: Json) -> Json:
    """Sum up the lines, less what the customer's balance gives. The stand-in knows no taxes: they are 0."""
    invoice["total"] = invoice["subtotal"] = sum(row["amount"] for row in invoice["lines"]["data"])
    invoice["lines"]["total_count"] = len(invoice["lines"]["data"])
    balance = min(0, invoice["starting_balance"])
    invoice["amount_due"] = invoice["amount_remaining"] = max(0, invoice["total"] + balance)
    return world.store.save(invoice)


def take_pending(world: World, invoice: Json, subscription: str) -> None:
    """Move what waits for the customer's next invoice onto this one."""
    for item in world.store.all("invoiceitem", customer=invoice["customer"], invoice=None):
        if subscription_of(item) in (None, subscription):
            add_item(world, invoice, item)


def subscription_of(item: Json) -> Any:
    """The id of the subscription that an invoice item belongs to, None for one of the customer's."""
    return item["parent"]["subscription_details"]["subscription"] if item["parent"] else None


def parent_of(subscription: str | None) -> Json | None:
    """Where an invoice item names its subscription."""
    details = {"subscription": subscription, "subscription_item": None}
    return {"type": "subscription_details", "subscription_details": details} if subscription else None


def add_item(world: World, invoice: Json, item: Json) -> None:
    item["invoice"] = invoice["id"]
    world.store.save(item)
    price = world.store.get("price", item["pricing"]["price_details"]["price"]) if item["pricing"] else None
    period = item["period"]
    more: Json = {"price": price, "quantity": item["quantity"], "invoice_item": item["id"], "metadata": item["metadata"]}
    more |= {"is_proration": item["proration"], "subscription": subscription_of(item)}
    line(world, invoice, item["amount"], item["description"], period["start"], period["end"], **more)


def finalize(world: World, invoice: Json) -> Json:
    """Give a draft its number and its final amounts."""
    if invoice["status"] != "draft":
        raise Refusal(400, f"This invoice is {invoice['status']}: only a draft can be finalized", code="invoice_not_editable")
    invoice["starting_balance"] = world.store.get("customer", invoice["customer"])["balance"]
    refresh(world, invoice)
    count = sum(other["number"] is not None for other in world.store.all("invoice", customer=invoice["customer"]))
    customer = world.store.get("customer", invoice["customer"])
    if invoice["collection_method"] == "send_invoice":
        if invoice["due_date"] is None:
            name = invoice["parent"]["subscription_details"]["subscription"]
            invoice["due_date"] = world.now() + DAY * world.store.get("subscription", name)["days_until_due"]
        world.later(invoice["due_date"], "invoice.overdue", invoice["id"])
    applied = min(invoice["total"], -min(0, invoice["starting_balance"]))  # a negative total becomes a balance
    customer["balance"] = invoice["starting_balance"] + applied
    world.store.save(customer)
    return world.change(
        invoice,
        "invoice.finalized",
        status="open",
        number=f"{invoice['customer'][-8:].upper()}-{count + 1:04}",
        ending_balance=customer["balance"],
        hosted_invoice_url=f"{world.base_url}/invoice/{invoice['id']}",
        status_transitions={**invoice["status_transitions"], "finalized_at": world.now()},
    )


def collect(world: World, invoice: Json, *, is_asked: bool = False) -> Json:
    """Charge an open invoice. A refusal starts the reminders, or raises where somebody asked for this very attempt.

    One that is sent waits for its customer.
    """
    payment = None
    if invoice["collection_method"] == "send_invoice" and invoice["amount_due"] > 0 and not is_asked:
        return invoice
    if invoice["amount_due"] > 0:
        try:
            payment = charge(world, invoice["customer"], invoice["amount_due"], invoice["currency"])
        except Refusal as refusal:
            if is_asked:
                raise
            return _refused(world, invoice, str(refusal))
    world.never("invoice.collect", invoice["id"])
    invoice["attempt_count"] += payment is not None
    world.change(
        invoice,
        "invoice.paid",
        status="paid",
        amount_paid=invoice["amount_due"],
        amount_remaining=0,
        attempted=True,
        next_payment_attempt=None,
        status_transitions={**invoice["status_transitions"], "paid_at": world.now()},
    )
    world.emit("invoice.payment_succeeded", invoice)
    if payment is not None:
        body = {"amount_paid": invoice["amount_due"], "created": world.now(), "currency": invoice["currency"]}
        body |= {"invoice": invoice["id"], "is_default": True, "status": "paid"}
        body |= {"payment": {"type": "payment_intent", "payment_intent": payment["id"]}}
        world.emit("invoice_payment.paid", world.store.add("invoice_payment", "inpay", body))
    _tell_subscription(world, invoice)
    return invoice


def _refused(world: World, invoice: Json, reason: str) -> Json:
    attempts = invoice["attempt_count"] + 1
    waits = RETRY_AFTER[attempts - 1] if attempts <= len(RETRY_AFTER) else None
    next_at = None if waits is None else world.now() + waits
    fields = {"attempt_count": attempts, "attempted": True, "next_payment_attempt": next_at}
    world.change(invoice, "invoice.payment_failed", **fields)
    if next_at is not None:
        world.later(next_at, "invoice.collect", invoice["id"])
    _tell_subscription(world, invoice)
    return invoice


def _tell_subscription(world: World, invoice: Json) -> None:
    from saas.local.stripe.subscriptions import follow  # which makes the invoices

    if invoice["parent"] is not None:
        follow(world, invoice)


@work("invoice.finalize")
def finalize_in_time(world: World, id: str) -> None:
    invoice = world.store.get("invoice", id)
    if invoice["status"] != "draft" or not invoice["auto_advance"]:
        return
    last = invoice["created"] + TOLD_WITHIN
    if world.now() < last and is_awaited(world, "invoice.created", id):
        world.later(last, "invoice.finalize", id)
    else:
        collect(world, finalize(world, invoice))


@work("invoice.overdue")
def overdue(world: World, id: str) -> None:
    """One that was sent is due, and not paid."""
    invoice = world.store.get("invoice", id)
    if invoice["status"] == "open":
        world.emit("invoice.overdue", invoice)
        _tell_subscription(world, invoice)


@work("invoice.collect")
def collect_again(world: World, id: str) -> None:
    invoice = world.store.get("invoice", id)
    if invoice["status"] == "open":
        collect(world, invoice)


@route("GET", "/v1/invoices")
def list_all(world: World, params: Json) -> Json:
    wanted = {"status": params["status"]} if "status" in params else {}
    found = world.store.all("invoice", customer=params.get("customer", ""), **wanted)
    return page([refresh(world, invoice) for invoice in found], params, "/v1/invoices")


@route("POST", "/v1/invoices")
def create(world: World, params: Json) -> Json:
    """One that belongs to no subscription; what waits for the customer's next invoice comes onto it if that is asked for."""
    need(params, "customer")
    customer = world.store.get("customer", params["customer"])["id"]
    advances = is_true(params.get("auto_advance", "false"))
    currency, metadata = params.get("currency", "usd"), params.get("metadata") or {}
    sent: Json = {}
    if params.get("collection_method") == "send_invoice":
        need(params, "days_until_due")
        sent = {"collection_method": "send_invoice", "due_date": world.now() + DAY * int(params["days_until_due"])}
    invoice = draft(world, customer, currency, reason="manual", auto_advance=advances, metadata=metadata, **sent)
    behaviour = params.get("pending_invoice_items_behavior", "exclude")
    if behaviour not in ("exclude", "include"):
        raise invalid("pending_invoice_items_behavior", f"Invalid pending_invoice_items_behavior: {behaviour}")
    if behaviour == "include":
        take_pending(world, invoice, "")
    if advances:
        world.later(world.now() + DRAFT_SECONDS, "invoice.finalize", invoice["id"])
    world.emit("invoice.created", invoice)
    return total(world, invoice)


@route("GET", "/v1/invoices/{id}")
def retrieve(world: World, params: Json, id: str) -> Json:
    return refresh(world, world.store.get("invoice", id))


@route("GET", "/v1/invoices/{id}/lines")
def list_lines(world: World, params: Json, id: str) -> Json:
    lines = refresh(world, world.store.get("invoice", id))["lines"]["data"]
    return page(lines[::-1], params, f"/v1/invoices/{id}/lines")


@route("POST", "/v1/invoices/{id}")
def update(world: World, params: Json, id: str) -> Json:
    invoice = world.store.get("invoice", id)
    fields: Json = {"metadata": merged(invoice["metadata"], params.get("metadata"))}
    if "auto_advance" in params:
        fields["auto_advance"] = is_true(params["auto_advance"])
        if fields["auto_advance"] and invoice["status"] == "draft":
            world.later(world.now() + DRAFT_SECONDS, "invoice.finalize", id)
    return world.change(invoice, "invoice.updated", **fields)


@route("POST", "/v1/invoices/{id}/finalize")
def finalize_now(world: World, params: Json, id: str) -> Json:
    invoice = world.store.get("invoice", id)
    if "auto_advance" in params:
        invoice["auto_advance"] = is_true(params["auto_advance"])
    finalize(world, invoice)
    if invoice["auto_advance"]:
        world.later(world.now(), "invoice.collect", id)
    return invoice


@route("POST", "/v1/invoices/{id}/pay")
def pay(world: World, params: Json, id: str) -> Json:
    invoice = world.store.get("invoice", id)
    if invoice["status"] == "draft":
        finalize(world, invoice)
    if invoice["status"] == "paid":
        raise Refusal(400, "Invoice is already paid", code="invoice_already_paid")
    return collect(world, invoice, is_asked=True)


@route("POST", "/v1/invoices/{id}/void")
def void(world: World, params: Json, id: str) -> Json:
    invoice = world.store.get("invoice", id)
    if invoice["status"] not in ("open", "uncollectible"):
        raise Refusal(400, f"This invoice is {invoice['status']}: only an open or uncollectible one can be voided")
    world.never("invoice.collect", id)
    return world.change(invoice, "invoice.voided", status="void", amount_remaining=0)


@route("POST", "/v1/invoices/{id}/mark_uncollectible")
def mark_uncollectible(world: World, params: Json, id: str) -> Json:
    invoice = world.store.get("invoice", id)
    if invoice["status"] != "open":
        raise Refusal(400, f"This invoice is {invoice['status']}: only an open one can be marked as uncollectible")
    world.never("invoice.collect", id)
    return world.change(invoice, "invoice.marked_uncollectible", status="uncollectible", next_payment_attempt=None)


@route("POST", "/v1/invoiceitems")
def create_item(world: World, params: Json) -> Json:
    need(params, "customer", "amount", "currency")
    now, period = world.now(), params.get("period") or {}
    body = {
        "amount": int(params["amount"]),
        "currency": params["currency"],
        "customer": params["customer"],
        "date": now,
        "description": params.get("description"),
        "invoice": None,
        "metadata": params.get("metadata") or {},
        "parent": parent_of(params.get("subscription")),
        "period": {key: int(period.get(key, now)) for key in ("start", "end")},
        "pricing": None,
        "proration": False,
        "quantity": 1,
    }
    item = world.store.add("invoiceitem", "ii", body)
    if params.get("invoice"):
        invoice = world.store.get("invoice", params["invoice"])
        if invoice["status"] != "draft":
            raise Refusal(400, "This invoice is no longer editable", code="invoice_not_editable", param="invoice")
        add_item(world, invoice, item)
        refresh(world, invoice)
    world.emit("invoiceitem.created", item)
    return item


@route("POST", "/v1/invoiceitems/{id}")
def update_item(world: World, params: Json, id: str) -> Json:
    """Of an item on a draft, or one that waits for an invoice."""
    item = world.store.get("invoiceitem", id)
    item["amount"] = int(params.get("amount") or item["amount"])
    item["description"] = params.get("description", item["description"])
    item["metadata"] = merged(item["metadata"], params.get("metadata"))
    if item["invoice"]:
        invoice = world.store.get("invoice", item["invoice"])
        if invoice["status"] != "draft":
            raise Refusal(400, "This invoice is no longer editable", code="invoice_not_editable", param="invoice")
        for row in invoice["lines"]["data"]:
            if (row["parent"]["invoice_item_details"] or {}).get("invoice_item") == id:
                row |= {"amount": item["amount"], "subtotal": item["amount"], "description": item["description"]}
                row["metadata"] = item["metadata"]
        refresh(world, invoice)
    return world.store.save(item)


@route("GET", "/v1/invoiceitems")
def list_items(world: World, params: Json) -> Json:
    wanted = {"invoice": params["invoice"]} if "invoice" in params else {}
    return page(world.store.all("invoiceitem", customer=params.get("customer", ""), **wanted), params, "/v1/invoiceitems")


@route("GET", "/v1/invoice_payments")
def list_payments(world: World, params: Json) -> Json:
    wanted = {"invoice": params["invoice"]} if "invoice" in params else {}
    return page(world.store.all("invoice_payment", **wanted), params, "/v1/invoice_payments")
