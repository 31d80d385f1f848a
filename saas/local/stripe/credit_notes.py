"""Credit notes: an amount taken off a final invoice."""

from saas.local.stripe.catalogue import need
from saas.local.stripe.customers import refund
from saas.local.stripe.refusals import Refusal
from saas.local.stripe.routes import route
from saas.local.stripe.store import Json, page
from saas.local.stripe.world import World


@route("POST", "/v1/credit_notes")
def create(world: World, params: Json) -> Json:
    """Of an open invoice it lowers what is due; of a paid one the amount goes to the card or to the balance."""
    need(params, "invoice")
    invoice = world.store.get("invoice", params["invoice"])
    amount, to_card, to_balance = (int(params.get(name, 0)) for name in ("amount", "refund_amount", "credit_amount"))
    amount = amount or to_card + to_balance
    notes = world.store.all("credit_note", invoice=invoice["id"])
    given = sum(note["amount"] for note in notes)
    if invoice["status"] not in ("open", "paid"):
        raise Refusal(400, f"Credit notes need a finalized invoice; this one is {invoice['status']}", param="invoice")
    if not 0 < amount <= invoice["total"] - given:
        raise Refusal(400, f"The amount must be between 1 and what is left of the invoice, {invoice['total'] - given}")
    if (to_card + to_balance) != (amount if invoice["status"] == "paid" else 0):
        raise Refusal(400, "For a paid invoice refund_amount and credit_amount must add up to the amount, else be 0")
    if invoice["status"] == "open":
        invoice["amount_remaining"] = invoice["amount_due"] = invoice["amount_due"] - amount
        world.store.save(invoice)
    if to_balance:
        customer = world.store.get("customer", invoice["customer"])
        customer["balance"] -= to_balance
        world.store.save(customer)
    if to_card:
        paid = world.store.all("invoice_payment", invoice=invoice["id"])
        if not paid:
            raise Refusal(400, "Nothing was paid by card for this invoice", param="refund_amount")
        refund(world, world.store.get("payment_intent", paid[0]["payment"]["payment_intent"]), to_card, {})
    body = {
        "amount": amount,
        "created": world.now(),
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "invoice": invoice["id"],
        "memo": params.get("memo"),
        "metadata": params.get("metadata") or {},
        "number": f"{invoice['number']}-CN-{len(notes) + 1:02}",
        "reason": params.get("reason"),
        "status": "issued",
        "total": amount,
    }
    note = world.store.add("credit_note", "cn", body)
    world.emit("credit_note.created", note)
    return note


@route("GET", "/v1/credit_notes")
def list_all(world: World, params: Json) -> Json:
    wanted = {"invoice": params["invoice"]} if "invoice" in params else {}
    return page(world.store.all("credit_note", customer=params.get("customer", ""), **wanted), params, "/v1/credit_notes")
