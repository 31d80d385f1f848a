"""What the next invoice would be, now or after a change: reckoned in a transaction that is taken back."""

from saas.local.stripe import customers, invoices
from saas.local.stripe.catalogue import need
from saas.local.stripe.refusals import Refusal
from saas.local.stripe.routes import route
from saas.local.stripe.store import Json
from saas.local.stripe.subscriptions import begin, cycle, update
from saas.local.stripe.world import World

CHANGES = ("items", "proration_behavior", "proration_date", "cancel_at_period_end")


class _TakeBack(Exception):
    pass


@route("POST", "/v1/invoices/create_preview")
def create(world: World, params: Json) -> Json:
    preview: Json = {}
    try:
        with world.store.transaction():
            details = params.get("subscription_details") or {}
            if "subscription" in params or "items" not in details:
                need(params, "subscription")
                update(world, {key: details[key] for key in CHANGES if key in details}, params["subscription"])
                preview = _next_invoice(world, params["subscription"])
            else:
                preview = _first_invoice(world, params.get("customer", ""), details)
            raise _TakeBack
    except _TakeBack:
        return preview


def _first_invoice(world: World, customer: str, details: Json) -> Json:
    """The invoice with which a new subscription would begin; its whole months begin with a month, as ours all do."""
    anchor = details.get("billing_cycle_anchor") or {}
    customer = customer or customers.create(world, {})["id"]
    config = {"day_of_month": 1, "hour": 0, "minute": 0, "second": 0}
    made = begin(world, customer, {"items": details["items"], "billing_cycle_anchor_config": config})
    if anchor.get("type") != "timestamp" or int(anchor["timestamp"]) != made["billing_cycle_anchor"]:
        raise Refusal(400, "The stand-in previews subscriptions from the beginning of the next month only")
    return _as_preview(world.store.get("invoice", made["latest_invoice"]))


def _next_invoice(world: World, id: str) -> Json:
    """The invoice that the end of the present period will bring, with what was used until now."""
    end = max(item["current_period_end"] for item in world.store.get("subscription", id)["items"]["data"])
    with world.standing_at(end):
        cycle(world, id)
        invoice = invoices.refresh(world, world.store.get("invoice", world.store.get("subscription", id)["latest_invoice"]))
    if not invoice["lines"]["data"]:
        raise Refusal(404, "No upcoming invoices for customer", code="invoice_upcoming_none")
    return _as_preview(invoice)


def _as_preview(invoice: Json) -> Json:
    return {key: value for key, value in invoice.items() if key != "id"} | {"id": f"upcoming_{invoice['id']}", "number": None}
