"""What the next invoice would be, now or after a change: reckoned in a transaction that is taken back."""

from saas.local.stripe import invoices
from saas.local.stripe.catalogue import need
from saas.local.stripe.routes import route
from saas.local.stripe.store import Json
from saas.local.stripe.subscriptions import cycle, update
from saas.local.stripe.world import World


class _TakeBack(Exception):
    pass


@route("POST", "/v1/invoices/create_preview")
def create(world: World, params: Json) -> Json:
    need(params, "subscription")
    preview: Json = {}
    try:
        with world.store.transaction():
            details = params.get("subscription_details") or {}
            if "items" in details:
                wanted = {key: details[key] for key in ("items", "proration_behavior", "proration_date") if key in details}
                update(world, wanted, params["subscription"])
            preview = _next_invoice(world, params["subscription"])
            raise _TakeBack
    except _TakeBack:
        return preview


def _next_invoice(world: World, id: str) -> Json:
    """The invoice that the end of the present period will bring, with what was used until now."""
    end = max(item["current_period_end"] for item in world.store.get("subscription", id)["items"]["data"])
    with world.standing_at(end):
        cycle(world, id)
        invoice = invoices.refresh(world, world.store.get("invoice", world.store.get("subscription", id)["latest_invoice"]))
    return {key: value for key, value in invoice.items() if key != "id"} | {"id": f"upcoming_{invoice['id']}", "number": None}
