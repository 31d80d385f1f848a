"""The stand-in's answers have no field that Stripe's objects do not have, as the SDK's classes describe them."""

import importlib
import re

import pytest
from stripe._object_classes import OBJECT_CLASSES

from billing.stripe import customers, invoices
from billing.stripe import portal as stripe_portal

pytestmark = pytest.mark.no_servers
OURS = {"checkout.more"}  # the stand-in's own notes, which nobody gets
UNTYPED = {"livemode", "object", "id"}


def fields_of(kind):
    """The names that the SDK's class for this kind of object knows."""
    module, name = OBJECT_CLASSES[kind]
    klass = getattr(importlib.import_module(module), name)
    return {field for base in klass.__mro__ for field in getattr(base, "__annotations__", {})} | UNTYPED


@pytest.fixture
def lived_in(standin, subscribe, customer, catalogue):
    """A world in which everything has happened once."""
    subscription = subscribe()
    session = customers.checkout_for_credit(
        customer=customer.id, amount_minor=500, currency="USD", description="Credit", metadata={},
        success_url="https://m.test", cancel_url="https://m.test", key="c",
    )  # fmt: skip
    standin.click(session.url, card="4000000000000259", do="pay")
    invoices.refund(payment=customers.retrieve_checkout(session.id).payment, amount_minor=100, key="r")
    invoices.credit_note(invoice=subscription.latest_invoice, amount_minor=1, reason="x", is_refund=False, key="n")
    stripe_portal.link(customer=customer.id, return_url="https://m.test")
    standin.pass_month(hours=2)
    customers.cancel_subscription(subscription.id, at_period_end=False)
    standin.ask("POST", "/v1/test_helpers/test_clocks", {"frozen_time": standin.now + 10})
    return standin


def test_no_object_has_a_field_of_its_own_invention(lived_in):
    rows = lived_in.world.store.db.execute("SELECT kind, body FROM object").fetchall()
    kinds = {kind for kind, _ in rows} - OURS
    invented = {
        (kind, field)
        for kind in kinds & set(OBJECT_CLASSES)
        for body in lived_in.world.store.all(kind)
        for field in set(body) - fields_of(kind)
    }

    assert invented == set()
    assert len(kinds & set(OBJECT_CLASSES)) >= 15


def test_lines_and_items_neither(lived_in):
    lines = [line for invoice in lived_in.world.store.all("invoice") for line in invoice["lines"]["data"]]
    items = [item for subscription in lived_in.world.store.all("subscription") for item in subscription["items"]["data"]]

    assert {field for line in lines for field in set(line) - fields_of("line_item")} == set()
    assert {field for item in items for field in set(item) - fields_of("subscription_item")} == set()


def test_the_version_of_the_api_is_that_of_the_sdk():
    from stripe._api_version import _ApiVersion

    from billing.stripe_gateway import API_VERSION
    from saas.local.stripe import world

    assert API_VERSION == world.API_VERSION == _ApiVersion.CURRENT
    assert re.fullmatch(r"\d{4}-\d\d-\d\d\.\w+", API_VERSION)
