"""A draft with usage is held before Stripe's word of it is acknowledged: no worker needs to be alive within the hour."""

import json

import pytest
from django.test import Client

from billing.invoicing import settling
from billing.stripe import customers, invoices
from billing.stripe.following import alone
from tests.stripe.usage.world import HOUR
from tests.waiting import until


@pytest.fixture
def created(world, standin):
    """`created()`: the month is over, Stripe has not been heard of it: the delivery of its draft's `invoice.created`."""

    def do(wanted="subscription_cycle"):
        standin.all_delivered()
        for signature, body in standin.got:
            event = json.loads(body)
            if event["type"] == "invoice.created" and event["data"]["object"]["billing_reason"] == wanted:
                return event["data"]["object"]["id"], signature, body
        raise AssertionError("there was none")

    world.use(world.this_hour - HOUR, 15_000_000_000)
    world.move_to(world.end_of_month)
    return do


def deliver(signature, body):
    return Client().post("/stripe/webhook", body, content_type="application/json", headers={"Stripe-Signature": signature})


def test_it_is_held_when_the_event_is_acknowledged_and_nobody_has_worked(world, created):
    draft, signature, body = created()

    assert deliver(signature, body).status_code == 200
    world.move(hours=30)

    found = invoices.retrieve_invoice(draft)
    assert (found.status, found.finalizes_by_itself) == ("draft", False)
    row = settling.heard_of(draft)
    world.sealed_until(world.end_of_month)
    assert settling.settle(row.id)
    assert sum(line.units for line in invoices.retrieve_invoice(draft).lines if line.units > 1) == 15_000_000


@pytest.mark.parametrize("kind", ["fail_before", "busy", "drop_before"])
def test_what_could_not_be_held_is_not_acknowledged_and_held_by_the_next_delivery(world, created, standin, kind):
    draft, signature, body = created()
    standin.fault(kind, path="/v1/invoices", times=1)

    refused = deliver(signature, body)
    assert (refused.status_code, refused.json()["code"]) == (503, "payments_unavailable")
    assert invoices.retrieve_invoice(draft).finalizes_by_itself

    again = deliver(signature, body)
    assert (again.status_code, again.json()["is_new"]) == (200, False)
    assert not invoices.retrieve_invoice(draft).finalizes_by_itself


def test_one_that_another_is_at_is_left_to_the_next_delivery(created, as_role):
    draft, signature, body = created()
    other = as_role("ops")
    other.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"stripe {draft}"])
    assert deliver(signature, body).status_code == 503
    other.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [f"stripe {draft}"])

    assert deliver(signature, body).status_code == 200
    with alone(draft):  # the lock was given back
        pass


def test_only_drafts_of_months_of_our_customers_are_held(world, created, standin):
    stranger = customers.create_customer(organization="0" * 32, email="s@example.org", name="S")
    named = {"customer": stranger.id, "auto_advance": "true"}
    draft = standin.ask("POST", "/v1/invoices", named)[1]["id"]
    _, signature, body = created("manual")
    assert deliver(signature, body).status_code == 200
    assert invoices.retrieve_invoice(draft).finalizes_by_itself

    draft = standin.ask("POST", "/v1/invoices", {**named, "customer": world.stripe.customer})[1]["id"]
    standin.all_delivered()
    until(lambda: draft in standin.got[-1][1].decode() or None, what="its event")
    assert deliver(*standin.got[-1]).status_code == 200
    assert invoices.retrieve_invoice(draft).finalizes_by_itself


def test_a_draft_that_is_gone_is_acknowledged(world, created, standin):
    draft, signature, body = created()
    standin.world.store.remove(draft)

    assert deliver(signature, body).status_code == 200
