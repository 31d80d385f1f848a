"""Invoices at Stripe, payments, and money given back."""

from datetime import datetime
from functools import partial
from typing import Any

from billing.stripe.objects import Given, Invoice, Payment, reference
from billing.stripe_gateway import PROMPT, ask, client, every, once, tax

CYCLE = "subscription_cycle"  # the reason of an invoice for a period that has ended, and its usage
CAME_TO_NOTHING = ("failed", "canceled", "won", "warning_closed")  # states of refunds and disputes that leave us the money


def retrieve_invoice(invoice: str) -> Invoice:
    """With all its lines: an invoice itself brings only the first ones."""
    json = ask(client().v1.invoices.retrieve, invoice)
    if (json.get("lines") or {}).get("has_more"):
        json["lines"]["data"] = list(every(client().v1.invoices.line_items.list, invoice, params={}))
    return Invoice.read(json)


def invoices_of(customer: str) -> list[Invoice]:
    return [Invoice.read(json) for json in every(client().v1.invoices.list, params={"customer": customer})]


def open_invoices_of(customer: str) -> list[Invoice]:
    """Those that are final and wait for their money."""
    return _invoices_of(customer, "open")


def written_off_of(customer: str) -> list[Invoice]:
    """Those that somebody, or Stripe after its last try, has marked as a bad debt."""
    return _invoices_of(customer, "uncollectible")


def _invoices_of(customer: str, status: str) -> list[Invoice]:
    params = {"customer": customer, "status": status}
    return [Invoice.read(json) for json in every(client().v1.invoices.list, params=params)]


def hold_invoice(invoice: str) -> Invoice:
    """Keep a draft a draft until `finalize_invoice`."""
    return Invoice.read(ask(client().v1.invoices.update, invoice, params={"auto_advance": False}))


def hold_at_once(invoice: str) -> None:
    """The same where Stripe waits for us: briefly, and only of a draft of a month that would become final by itself."""
    service = client(PROMPT).v1.invoices
    found = Invoice.read(ask(service.retrieve, invoice, retries=0, busy_tries=1))
    if found.status == "draft" and found.reason == CYCLE and found.finalizes_by_itself:
        ask(service.update, invoice, params={"auto_advance": False}, retries=0, busy_tries=1)


def create_invoice(
    *, customer: str, currency: str, metadata: dict[str, str], key: str, days_until_due: int | None = None
) -> Invoice:
    """A draft of its own, without lines, that stays one until `finalize_invoice`; then charged, or sent and due in days."""
    service = client().v1.invoices
    params: dict[str, Any] = {
        "customer": customer,
        "currency": currency.lower(),
        "auto_advance": False,
        "pending_invoice_items_behavior": "exclude",
        "metadata": metadata,
        **({} if days_until_due is None else {"collection_method": "send_invoice", "days_until_due": days_until_due}),
        **tax(),
    }
    find = partial(every, service.list, params={"customer": customer})
    return Invoice.read(once(service.create, params, key=key, find=find))


def finalize_invoice(invoice: str) -> Invoice:
    """Make a draft final and let Stripe collect it, with its reminders."""
    params = {"auto_advance": True}
    return Invoice.read(ask(client().v1.invoices.finalize_invoice, invoice, params=params))


def pay_invoice(invoice: str) -> Invoice:
    """Try to collect it now. Raises PaymentRefused."""
    return Invoice.read(ask(client().v1.invoices.pay, invoice))


def write_off_invoice(invoice: str) -> Invoice:
    """Mark it as a bad debt: it stays unpaid, and can still be paid or voided."""
    return Invoice.read(ask(client().v1.invoices.mark_uncollectible, invoice))


def void_invoice(invoice: str) -> Invoice:
    return Invoice.read(ask(client().v1.invoices.void_invoice, invoice))


def add_invoice_item(
    *,
    customer: str,
    invoice: str,
    amount_minor: int,
    currency: str,
    description: str,
    metadata: dict[str, str],
    key: str,
    period: tuple[datetime, datetime] | None = None,
) -> str:
    """A line on a draft, for what was used in `period`; negative amounts reduce it. Its id."""
    service = client().v1.invoice_items
    params: dict[str, Any] = {
        "customer": customer,
        "invoice": invoice,
        "amount": amount_minor,
        "currency": currency.lower(),
        "description": description,
        "metadata": metadata,
    }
    if period is not None:
        params["period"] = {"start": int(period[0].timestamp()), "end": int(period[1].timestamp())}
    find = partial(every, service.list, params={"invoice": invoice})
    return str(once(service.create, params, key=key, find=find)["id"])


def set_invoice_item(item: str, *, amount_minor: int, description: str) -> None:
    """What a line of ours on a draft amounts to, and how it is called."""
    params = {"amount": amount_minor, "description": description}
    ask(client().v1.invoice_items.update, item, params=params)


def credit_note(*, invoice: str, amount_minor: int, reason: str, is_refund: bool, key: str) -> Given:
    """Take `amount_minor` off a final invoice. Of a paid one it goes back to the card (`is_refund`) or to the balance."""
    service = client().v1.credit_notes
    params: dict[str, Any] = {"invoice": invoice, "amount": amount_minor, "memo": reason}
    if is_refund:
        params["refund_amount"] = amount_minor
    elif retrieve_invoice(invoice).status == "paid":
        params["credit_amount"] = amount_minor
    find = partial(every, service.list, params={"invoice": invoice})
    return Given.read(once(service.create, params, key=key, find=find))


def refund(*, payment: str, amount_minor: int, key: str) -> Given:
    """Send a part of a payment back to the card."""
    service = client().v1.refunds
    params = {"payment_intent": payment, "amount": amount_minor, "reason": "requested_by_customer"}
    find = partial(every, service.list, params={"payment_intent": payment})
    return Given.read(once(service.create, params, key=key, find=find))


def payment_taken_back(kind: str, name: str) -> str:
    """The payment whose money a "refund" or "dispute" takes back; "" if it came to nothing, or was for no such payment."""
    service: Any = client().v1.refunds if kind == "refund" else client().v1.disputes  # Any: both retrieve by a name
    json = ask(service.retrieve, name)
    return "" if json["status"] in CAME_TO_NOTHING else reference(json.get("payment_intent"))


def retrieve_payment(payment: str) -> Payment:
    return Payment.read(ask(client().v1.payment_intents.retrieve, payment))
