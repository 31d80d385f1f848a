"""Subscriptions: periods that follow each other, changes prorated by the second, and what unpaid invoices make of them."""

from decimal import Decimal
from typing import Any

from saas.local.stripe import invoices, rating
from saas.local.stripe.catalogue import is_true, merged, need
from saas.local.stripe.customers import card_of, is_taxed
from saas.local.stripe.refusals import Refusal, invalid
from saas.local.stripe.routes import route, work
from saas.local.stripe.store import Json, page
from saas.local.stripe.webhooks import DRAFT_SECONDS
from saas.local.stripe.world import World

MOST_ITEMS = 20
DAY = 86_400
INCOMPLETE_SECONDS = 23 * 3600
ENDED = ("canceled", "incomplete_expired")


@route("POST", "/v1/subscriptions")
def create(world: World, params: Json) -> Json:
    need(params, "customer", "items")
    if params.get("collection_method") == "send_invoice":
        need(params, "days_until_due")
    made = begin(world, params["customer"], params)
    if made["collection_method"] == "charge_automatically" and card_of(world, params["customer"]) is None:
        text = "This customer has no attached payment source or default payment method."
        raise Refusal(400, text, code="resource_missing")
    return made


def begin(world: World, customer: str, params: Json, *, must_pay: bool = False) -> Json:
    """A new subscription with its first invoice. A refused card leaves it incomplete, or raises (`must_pay`).

    With `send_invoice` it is active at once, and the invoice is a draft for an hour, then sent.
    """
    now = world.now()
    trial = int(params.get("trial_period_days", 0)) * DAY
    config = {key: int(value) for key, value in (params.get("billing_cycle_anchor_config") or {}).items()} or None
    anchor = now + trial if trial else (rating.next_anchor(now, config, now) if config else now)
    items, is_sent = params["items"], params.get("collection_method") == "send_invoice"
    if not 0 < len(items) <= MOST_ITEMS:
        raise invalid("items", f"A subscription has 1 to {MOST_ITEMS} items")
    tax = {"enabled": is_taxed(world, customer, params), "liability": None}
    body: Json = {
        "automatic_tax": tax,
        "billing_cycle_anchor": anchor,
        "billing_cycle_anchor_config": config,
        "billing_mode": {"type": "flexible"},
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "collection_method": params.get("collection_method", "charge_automatically"),
        "created": now,
        "currency": world.store.get("price", items[0]["price"])["currency"],
        "customer": world.store.get("customer", customer)["id"],
        "days_until_due": int(params["days_until_due"]) if params.get("days_until_due") else None,
        "default_payment_method": None,
        "ended_at": None,
        "items": {"object": "list", "data": [], "has_more": False, "total_count": 0},
        "latest_invoice": None,
        "metadata": params.get("metadata") or {},
        "pause_collection": None,
        "start_date": now,
        "status": "trialing" if trial else ("active" if is_sent else "incomplete"),
        "trial_end": now + trial if trial else None,
        "trial_start": now if trial else None,
    }
    subscription = world.store.add("subscription", "sub", body)
    end = now + trial if trial else rating.next_anchor(now, config, anchor)
    for item in items:
        _add_item(world, subscription, item, now, end)
    world.store.save(subscription)
    world.emit("customer.subscription.created", subscription)
    invoice = invoices.draft(
        world, customer, subscription["currency"], reason="subscription_create", subscription=subscription, period_end=now
    )
    if not trial:
        part = Decimal(end - now) / rating.whole_period(end, config, anchor)
        for item in _licensed(subscription):
            _fee_line(world, invoice, item, now, end, part=part)
    subscription["latest_invoice"] = invoice["id"]
    world.store.save(subscription)
    invoices.total(world, invoice)
    world.emit("invoice.created", invoice)
    world.later(end, "subscription.cycle", subscription["id"])
    if is_sent:
        world.later(now + DRAFT_SECONDS, "invoice.finalize", invoice["id"])
        return world.store.get("subscription", subscription["id"])
    world.later(now + INCOMPLETE_SECONDS, "subscription.expire", subscription["id"])
    invoices.finalize(world, invoice)
    try:
        invoices.collect(world, invoice, is_asked=True)
    except Refusal:
        if must_pay:
            raise
        fields = {"attempt_count": 1, "attempted": True}
        world.change(world.store.get("invoice", invoice["id"]), "invoice.payment_failed", **fields)
    return world.store.get("subscription", subscription["id"])


@route("GET", "/v1/subscriptions")
def list_all(world: World, params: Json) -> Json:
    found = world.store.all("subscription", customer=params.get("customer", ""))
    status = params.get("status", "")
    if status != "all":
        found = [body for body in found if (body["status"] == status if status else body["status"] not in ENDED)]
    return page(found, params, "/v1/subscriptions")


@route("GET", "/v1/subscriptions/{id}")
def retrieve(world: World, params: Json, id: str) -> Json:
    return world.store.get("subscription", id)


@route("POST", "/v1/subscriptions/{id}")
def update(world: World, params: Json, id: str) -> Json:
    subscription = world.store.get("subscription", id)
    if subscription["status"] in ENDED:
        raise Refusal(400, "A canceled subscription can only update its cancellation_details", code="resource_missing")
    before = dict(subscription)
    if "items" in params:
        behaviour = params.get("proration_behavior", "create_prorations")
        if behaviour not in ("create_prorations", "always_invoice", "none"):
            raise invalid("proration_behavior", f"Invalid proration_behavior: {behaviour}")
        at = int(params.get("proration_date", world.now()))
        _exchange(world, subscription, params["items"], at, is_prorated=behaviour != "none")
        if behaviour == "always_invoice":
            _invoice_pending(world, subscription, "subscription_update")
    fields: Json = {"metadata": merged(subscription["metadata"], params.get("metadata"))}
    if "cancel_at_period_end" in params:
        fields["cancel_at_period_end"] = is_true(params["cancel_at_period_end"])
        end = _end(subscription) if fields["cancel_at_period_end"] else None
        fields |= {"cancel_at": end, "canceled_at": world.now() if end else None}
    subscription.update(fields)
    world.store.save(subscription)
    world.emit("customer.subscription.updated", subscription, before=before)
    return subscription


@route("DELETE", "/v1/subscriptions/{id}")
def cancel(world: World, params: Json, id: str) -> Json:
    subscription = world.store.get("subscription", id)
    if subscription["status"] in ENDED:
        raise Refusal(404, f"No such subscription: '{id}'", code="resource_missing")
    if is_true(params.get("prorate")):
        for item in _licensed(subscription):
            _pending(world, subscription, item, world.now(), sign=-1)
    if is_true(params.get("invoice_now")):
        for item in _metered(subscription):
            _pending_usage(world, subscription, item, world.now())
        _invoice_pending(world, subscription, "subscription_update")
    return _end_now(world, world.store.get("subscription", id))


@work("subscription.cycle")
def cycle(world: World, id: str) -> None:
    """One period is over: an invoice for what was used in it and for the next one's fee."""
    subscription = world.store.get("subscription", id)
    if subscription["status"] in (*ENDED, "incomplete"):
        return
    start = _end(subscription)
    if start > world.now():  # its periods were moved meanwhile
        return
    is_last = subscription["cancel_at_period_end"]
    invoice = invoices.draft(
        world,
        subscription["customer"],
        subscription["currency"],
        reason="subscription_cycle",
        subscription=subscription,
        period_start=subscription["items"]["data"][0]["current_period_start"],
        period_end=start,
        auto_advance=subscription["status"] != "unpaid",
    )
    for item in _metered(subscription):
        invoices.usage_lines(world, invoice, item, item["current_period_start"], start)
    end = rating.next_anchor(start, subscription["billing_cycle_anchor_config"], subscription["billing_cycle_anchor"])
    if not is_last:
        for item in _licensed(subscription):
            whole = rating.whole_period(end, subscription["billing_cycle_anchor_config"], subscription["billing_cycle_anchor"])
            _fee_line(world, invoice, item, start, end, part=Decimal(end - start) / whole)
    invoices.take_pending(world, invoice, id)
    invoices.refresh(world, invoice)
    world.emit("invoice.created", invoice)
    world.later(world.now() + DRAFT_SECONDS, "invoice.finalize", invoice["id"])
    subscription["latest_invoice"] = invoice["id"]
    if is_last:
        world.store.save(subscription)
        _end_now(world, subscription)
        return
    before = dict(subscription)
    for item in subscription["items"]["data"]:
        item |= {"current_period_start": start, "current_period_end": end}
    if subscription["status"] == "trialing":
        subscription["status"] = "active"
    world.store.save(subscription)
    world.emit("customer.subscription.updated", subscription, before=before)
    world.later(end, "subscription.cycle", id)


@work("subscription.expire")
def expire(world: World, id: str) -> None:
    """The first invoice was not paid within 23 hours."""
    subscription = world.store.get("subscription", id)
    if subscription["status"] == "incomplete":
        world.change(subscription, "customer.subscription.updated", status="incomplete_expired", ended_at=world.now())


def follow(world: World, invoice: Json) -> None:
    """What an invoice that was paid, or whose payment was refused, makes of its subscription."""
    subscription = world.store.get("subscription", invoice["parent"]["subscription_details"]["subscription"])
    status = subscription["status"]
    if invoice["status"] == "paid" and status in ("incomplete", "past_due", "unpaid"):
        others = world.store.all("invoice", customer=invoice["customer"], status="open")
        if not any(other["parent"] == invoice["parent"] for other in others):
            status = "active"
    elif invoice["status"] == "open" and status in ("active", "trialing", "past_due"):
        status = "past_due" if invoice["next_payment_attempt"] or invoice.get("due_date") else "unpaid"
    if status != subscription["status"]:
        world.change(subscription, "customer.subscription.updated", status=status)


# --- items and money


def _add_item(world: World, subscription: Json, params: Json, start: int, end: int) -> Json:
    price = world.store.get("price", params.get("price", ""))
    is_metered = bool(price["recurring"]) and price["recurring"]["usage_type"] == "metered"
    if not price["recurring"]:
        raise invalid("items", "The price is not recurring: a subscription needs recurring prices")
    if not price["active"]:
        raise invalid("items", f"The price {price['id']} is inactive")
    if is_metered and "quantity" in params:
        raise invalid("items", "You cannot set the quantity of a metered price")
    if price["currency"] != subscription["currency"]:
        raise invalid("items", "All prices of a subscription have one currency")
    shown = {key: value for key, value in price.items() if key != "tiers"}
    item: Json = {"object": "subscription_item", "created": world.now(), "price": shown, "subscription": subscription["id"]}
    item |= {"current_period_start": start, "current_period_end": end, "metadata": {}}
    if not is_metered:
        item["quantity"] = int(params.get("quantity", 1))
    count = world.store.setting("items") + 1
    world.store.set("items", count)
    item["id"] = f"si_{subscription['id'][4:16]}{int(count):06}"
    subscription["items"]["data"].append(item)
    subscription["items"]["total_count"] = len(subscription["items"]["data"])
    return item


def _exchange(world: World, subscription: Json, wanted: list[Json], at: int, *, is_prorated: bool) -> None:
    """Change items: what is no longer used is given back from `at` on, what is new is charged until the period's end."""
    rows = subscription["items"]["data"]
    start, end = rows[0]["current_period_start"], _end(subscription)
    if not start <= at <= end:
        raise invalid("proration_date", "The proration date must be within the current period")
    is_prorated = is_prorated and subscription["status"] != "trialing"
    for params in wanted:
        old = next((row for row in rows if row["id"] == params.get("id")), None)
        if params.get("id") and old is None:
            raise invalid("items", f"No such subscription item: {params['id']}")
        if old is not None and _stays(old, params):
            continue
        if old is not None:
            rows.remove(old)
            if "quantity" not in old:
                _pending_usage(world, subscription, old, at)
            elif is_prorated:
                _pending(world, subscription, old, at, sign=-1)
        if not is_true(params.get("deleted")):
            price = params.get("price") or (old["price"]["id"] if old else "")
            new = _add_item(world, subscription, {**params, "price": price}, start, end)
            if "quantity" not in new:
                new["current_period_start"] = at
            elif is_prorated:
                _pending(world, subscription, new, at, sign=1)
    if not 0 < len(rows) <= MOST_ITEMS:
        raise invalid("items", f"A subscription has 1 to {MOST_ITEMS} items")
    world.store.save(subscription)


def _stays(item: Json, params: Json) -> bool:
    """Whether these parameters leave an item as it is."""
    quantity = item.get("quantity", 1)
    is_same = (
        params.get("price", item["price"]["id"]) == item["price"]["id"] and int(params.get("quantity") or quantity) == quantity
    )
    return is_same and not is_true(params.get("deleted"))


def _fee_line(world: World, invoice: Json, item: Json, start: int, end: int, *, part: Decimal) -> None:
    price = item["price"]
    name = world.store.get("product", price["product"])["name"]
    amount = rating.flat(price, item["quantity"], part=part)
    more: Json = {"price": price, "quantity": item["quantity"], "unit": price["unit_amount_decimal"], "item": item}
    invoices.line(world, invoice, amount, f"{item['quantity']} × {name}", start, end, **more, is_proration=part != 1)


def _pending(world: World, subscription: Json, item: Json, at: int, *, sign: int) -> None:
    """A proration that waits for the next invoice: the rest of the period, by seconds, of the full month's fee."""
    end = _end(subscription)
    whole = rating.whole_period(end, subscription["billing_cycle_anchor_config"], subscription["billing_cycle_anchor"])
    amount = sign * rating.flat(item["price"], item["quantity"], part=Decimal(end - at) / whole)
    name = world.store.get("product", item["price"]["product"])["name"]
    text = f"{'Remaining' if sign > 0 else 'Unused'} time on {name}"
    _put_off(world, subscription, item, amount, text, at, end, quantity=item["quantity"])


def _pending_usage(world: World, subscription: Json, item: Json, at: int) -> None:
    """What was used of a metered item until it goes."""
    probe = invoices.draft(world, subscription["customer"], subscription["currency"], reason="manual")
    invoices.usage_lines(world, probe, item, item["current_period_start"], at)
    world.store.remove(probe["id"])
    for row in probe["lines"]["data"]:
        if row["quantity"]:
            start = item["current_period_start"]
            _put_off(world, subscription, item, row["amount"], row["description"], start, at, quantity=row["quantity"])


def _put_off(
    world: World, subscription: Json, item: Json, amount: int, text: str, start: int, end: int, *, quantity: int
) -> None:
    priced = {"price": item["price"]["id"], "product": item["price"]["product"]}
    body = {
        "amount": amount,
        "currency": subscription["currency"],
        "customer": subscription["customer"],
        "date": world.now(),
        "description": text,
        "invoice": None,
        "metadata": {},
        "parent": invoices.parent_of(subscription["id"]),
        "period": {"start": start, "end": end},
        "pricing": {"type": "price_details", "price_details": priced, "unit_amount_decimal": None},
        "proration": True,
        "quantity": quantity,
    }
    world.emit("invoiceitem.created", world.store.add("invoiceitem", "ii", body))


def _invoice_pending(world: World, subscription: Json, reason: str) -> None:
    """An invoice of its own for what waits, collected at once."""
    currency = subscription["currency"]
    invoice = invoices.draft(world, subscription["customer"], currency, reason=reason, subscription=subscription)
    invoices.take_pending(world, invoice, subscription["id"])
    invoices.total(world, invoice)
    if not invoice["lines"]["data"]:
        world.store.remove(invoice["id"])
        return
    world.emit("invoice.created", invoice)
    subscription["latest_invoice"] = invoice["id"]
    world.store.save(subscription)
    invoices.collect(world, invoices.finalize(world, invoice))


def _end_now(world: World, subscription: Json) -> Json:
    world.never("subscription.cycle", subscription["id"])
    now = world.now()
    fields: dict[str, Any] = {"status": "canceled", "ended_at": now, "canceled_at": subscription["canceled_at"] or now}
    return world.change(subscription, "customer.subscription.deleted", **fields)


def _end(subscription: Json) -> int:
    return max(int(item["current_period_end"]) for item in subscription["items"]["data"])


def _licensed(subscription: Json) -> list[Json]:
    return [item for item in subscription["items"]["data"] if "quantity" in item]


def _metered(subscription: Json) -> list[Json]:
    return [item for item in subscription["items"]["data"] if "quantity" not in item]
