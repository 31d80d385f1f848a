"""What a person sees and clicks: checkout, portal, invoice. A page answers GET with HTML and POST with a redirect."""

from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from saas.local.stripe import checkout, html, invoices, portal
from saas.local.stripe.customers import card_of, enter_card
from saas.local.stripe.refusals import Refusal
from saas.local.stripe.store import Json
from saas.local.stripe.world import World


@dataclass
class Page:
    """`to`: where to go instead."""

    status: int = 200
    body: bytes = b""
    to: str = ""


def answer(world: World, method: str, path: str, form: Json) -> Page | None:
    """The page at `path`, or what a POST there does; None if there is no such page."""
    parts = path.strip("/").split("/")
    if len(parts) != 2 or parts[0] not in ("checkout", "portal", "invoice"):
        return None
    show, act = {"checkout": (_checkout, _pay), "portal": (_portal, _manage), "invoice": (_invoice, _settle)}[parts[0]]
    alert = ""
    if method == "POST":
        try:
            with world.store.transaction():
                return Page(303, to=act(world, parts[1], form))
        except Refusal as refusal:
            if refusal.status == 404:
                return Page(404, html.document("Not found", f"<p>{refusal}</p>"))
            alert = str(refusal)
    try:
        return Page(402 if alert else 200, show(world, parts[1], alert))
    except Refusal:
        return Page(404, html.document("Not found", "<p>There is no such page, or its link has expired.</p>"))


def _checkout(world: World, id: str, alert: str) -> bytes:
    session = world.store.get("checkout.session", id)
    if session["status"] != "open":
        return html.document("Checkout", f"<p>This checkout is {session['status']}.</p>", alert=alert)
    lines = session["line_items"]["data"]
    rows = [(row["name"], "by usage" if row["is_metered"] else html.money(row["amount"], row["currency"])) for row in lines]
    total = html.money(session["amount_total"], session["currency"])
    what = "Subscribe" if session["mode"] == "subscription" else "Pay"
    return html.document(
        "Checkout",
        html.table("What you buy", ("Item", "Price"), [*rows, ("Due now at most", total)]),
        html.form(f"/checkout/{id}", f"{what} with this card", html.card_choice(), value="pay"),
        html.form(f"/checkout/{id}", "Leave without paying", value="leave", is_quiet=True),
        alert=alert,
    )


def _pay(world: World, id: str, form: Json) -> str:
    session = world.store.get("checkout.session", id)
    if form.get("do") == "leave":
        return str(session["cancel_url"] or session["success_url"])
    checkout.pay(world, id, str(form.get("card", "")))
    return str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", id)


def _portal(world: World, id: str, alert: str) -> bytes:
    session = portal.open_session(world, id)
    customer, here = session["customer"], f"/portal/{id}"
    card = card_of(world, customer)
    parts = [f"<p>Card: {'ending in ' + card['card']['last4'] if card else 'none'}</p>"]
    subscription = portal.running(world, customer)
    if subscription is None:
        parts.append("<p>There is no subscription.</p>")
    else:
        parts += _plan(world, subscription, here, may_cancel=portal.may(world, session, "subscription_cancel"))
    if portal.may(world, session, "invoice_history"):
        for invoice in world.store.all("invoice", customer=customer, status="open"):
            text = f"Pay invoice {invoice['number']}: {html.money(invoice['amount_due'], invoice['currency'])}"
            parts.append(html.form(here, text, value=f"invoice:{invoice['id']}"))
    if portal.may(world, session, "payment_method_update"):
        parts.append(html.form(here, "Use this card from now on", html.card_choice(), value="card"))
    if session["return_url"]:
        parts.append(html.form(here, "Back to the service", value="leave", is_quiet=True))
    return html.document("Your billing", *parts, alert=alert)


def _plan(world: World, subscription: Json, here: str, *, may_cancel: bool) -> list[str]:
    products = {item["price"]["product"] for item in subscription["items"]["data"]}
    names = ", ".join(world.store.get("product", product)["name"] for product in sorted(products))
    end = subscription["cancel_at"]
    until = f", ends on {datetime.fromtimestamp(end, UTC):%Y-%m-%d}" if end else ""
    parts = [f"<h2>{escape(names)}</h2><p>Status: {subscription['status']}{until}</p>"]
    if may_cancel:
        text, value = ("Keep the plan", "keep") if end else ("Cancel at the end of the period", "cancel")
        parts.append(html.form(here, text, value=value, is_quiet=True))
    return parts


def _manage(world: World, id: str, form: Json) -> str:
    session = portal.open_session(world, id)
    customer = session["customer"]
    what, _, which = str(form.get("do", "")).partition(":")
    if what == "leave":
        return str(session["return_url"])
    if what == "card" and portal.may(world, session, "payment_method_update"):
        enter_card(world, customer, str(form.get("card", "")))
    elif what in ("cancel", "keep") and portal.may(world, session, "subscription_cancel"):
        portal.stop(world, customer, is_canceled=what == "cancel")
    elif what == "invoice" and world.store.get("invoice", which)["customer"] == customer:
        invoices.pay(world, {}, which)
    return f"/portal/{id}"


def _invoice(world: World, id: str, alert: str) -> bytes:
    invoice = invoices.refresh(world, world.store.get("invoice", id))
    rows = [
        (row["description"], str(row["quantity"]), html.money(row["amount"], row["currency"]))
        for row in invoice["lines"]["data"]
    ]
    rows.append(("Total", "", html.money(invoice["total"], invoice["currency"])))
    parts = [f"<p>Status: {invoice['status']}</p>", html.table("Lines", ("What", "Quantity", "Amount"), rows)]
    if invoice["status"] == "open":
        parts.append(html.form(f"/invoice/{id}", "Pay with this card", html.card_choice(), value="pay"))
    return html.document(f"Invoice {invoice['number'] or '(draft)'}", *parts, alert=alert)


def _settle(world: World, id: str, form: Json) -> str:
    invoice = world.store.get("invoice", id)
    enter_card(world, invoice["customer"], str(form.get("card", "")))
    invoices.pay(world, {}, id)
    return f"/invoice/{id}"
