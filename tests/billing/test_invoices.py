"""GET /billing/invoices and /billing/invoices/{invoice}."""

import secrets
from datetime import UTC, datetime

import pytest

INVOICES = "/api/v1/billing/invoices"
START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
LINES = [
    {"description": "1 × Pro", "amount_minor": 9900, "units": 1, "is_usage": False, "starts_at": None, "ends_at": None},
    {
        "description": "Usage of Pro",
        "amount_minor": 1234,
        "units": 13_711_111,
        "is_usage": True,
        "starts_at": "2026-11-01T00:00:00Z",
        "ends_at": "2026-12-01T00:00:00Z",
    },
]


@pytest.fixture
def make_invoice(alice):
    from billing.models import Invoice
    from tenants.databases import as_operator

    def make(**fields):
        given = {
            "organization_id": alice.organization.id,
            "stripe_invoice": f"in_{secrets.token_hex(8)}",
            "stripe_customer": "cus_1",
            "stripe_subscription": f"sub_{secrets.token_hex(8)}",
            "number": "A-0001",
            "status": "open",
            "currency": "USD",
            "total_minor": 11134,
            "due_minor": 11134,
            "paid_minor": 0,
            "period_start": START,
            "period_end": END,
            "lines": LINES,
            "hosted_url": "http://pay.test/1",
            "settlement": "settled",
        }
        with as_operator():
            return Invoice.objects.create(**given | fields)

    return make


def path(invoice):
    return f"{INVOICES}/inv_{invoice.id.hex}"


def test_invoices_are_listed_newest_first(client_of, alice, make_invoice):
    first, second = make_invoice(number="A-0001"), make_invoice(number="A-0002", status="draft", settlement="waiting")

    body = client_of(alice).get(INVOICES).json()

    assert [row["number"] for row in body["results"]] == ["A-0002", "A-0001"]
    newest = body["results"][0]
    assert newest["id"] == f"inv_{second.id.hex}"
    assert (newest["status"], newest["usage_checked"], newest["currency"]) == ("draft", False, "USD")
    assert body["results"][1]["id"] == f"inv_{first.id.hex}"


def test_an_invoice_shows_its_lines_and_the_way_down(client_of, alice, make_invoice):
    body = client_of(alice).get(path(make_invoice())).json()

    assert (body["total"], body["due"], body["paid"], body["usage_checked"]) == ("111.34", "111.34", "0.00", True)
    assert body["url"] == "http://pay.test/1"
    fee, used = body["lines"]
    assert (fee["amount"], fee["is_usage"], fee["by_day"]) == ("99.00", False, None)
    assert (used["amount"], used["quantity"]) == ("12.34", 13_711_111)
    days = client_of(alice).get(used["by_day"])
    assert days.status_code == 200
    assert days.json()["from"] == "2026-11-01T00:00:00Z"


def test_the_newest_comparison_is_shown_with_it(client_of, alice, make_invoice):
    from billing.models import ReconRun
    from tenants.databases import as_operator

    invoice = make_invoice()
    with as_operator():
        for draft, verdict in ((5, "missing"), (7, "match")):
            ReconRun.objects.create(
                organization_id=alice.organization.id, meter="spend_usd", stripe_subscription=invoice.stripe_subscription,
                period_start=START, period_end=END, ledger=7, pushed=7, stripe=7, draft=draft, verdict=verdict,
            )  # fmt: skip

    found = client_of(alice).get(path(invoice)).json()["reconciliation"]

    assert (found["verdict"], found["ledger"], found["draft"]) == ("match", 7, 7)
    assert client_of(alice).get(path(make_invoice())).json()["reconciliation"] is None


def test_amounts_follow_the_currencys_coins(client_of, alice, make_invoice):
    body = client_of(alice).get(path(make_invoice(currency="JPY", total_minor=1500))).json()

    assert body["total"] == "1500"


def test_a_stranger_finds_nothing(client_of, charlie, make_invoice):
    assert client_of(charlie).get(path(make_invoice())).status_code == 404
    assert client_of(charlie).get(INVOICES).json()["results"] == []


@pytest.mark.parametrize("name", ["inv_", "inv_1", "in_0123456789abcdef", "x" * 300])
def test_what_is_no_invoice_is_not_found(client_of, alice, name):
    assert client_of(alice).get(f"{INVOICES}/{name}").status_code == 404


def test_who_may_read_invoices(client_of, alice, bob, make_key, make_invoice):
    invoice = make_invoice()

    assert client_of(None).get(path(invoice)).status_code == 401
    assert client_of(bob).get(path(invoice)).status_code == 403
    assert client_of(make_key(alice.organization, scopes=["billing:read"])[1]).get(path(invoice)).status_code == 200
