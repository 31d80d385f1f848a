"""Not a test: an organization that buys and pays on the stand-in's pages, and what it is on here."""

import secrets

from billing.sale.models import current_subscription
from billing.stripe import payments
from tenants.databases import as_operator

GOOD, LATER = "4242424242424242", "4000000000000341"


def current(organization):
    with as_operator():
        return current_subscription(organization.id)


def buy(standin, organization, plan="pro", card=GOOD):
    page = payments.checkout_plan(
        organization.id, plan, email="alice@example.org", success_url="https://m.test/ok", cancel_url="https://m.test/no",
        key=secrets.token_hex(8),
    )  # fmt: skip
    assert standin.click(page.url, card=card, do="pay")[0] == 303


def use_card(standin, organization, card):
    link = payments.portal(organization.id, email="alice@example.org", return_url="https://m.test/back")
    assert standin.click(link, card=card, do="card")[0] == 303
