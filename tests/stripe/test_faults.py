"""Each fault of the stand-in's script, seen through our gateway."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from billing import stripe_gateway
from billing.stripe import customers, invoices, usage
from billing.stripe_gateway import OutcomeUnknown, StripeRefused
from saas.lib.errors import PaymentsUnavailable
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.no_servers


@pytest.fixture
def send(standin, customer, catalogue):
    """`send(value, identifier="a", at=None)`: one meter event; whether it was new."""

    def do(value, identifier="a", at=None):
        at = at or datetime.fromtimestamp(standin.now, UTC)
        return usage.send_meter_event(event_name="spend_usd", customer=customer.id, value=value, identifier=identifier, at=at)

    return do


@pytest.fixture
def counted(standin, customer, catalogue):
    """`counted()`: all that Stripe has counted."""

    def do():
        now = datetime.fromtimestamp(standin.now, UTC).replace(minute=0, second=0)
        found = usage.usage_by_hour(
            meter=catalogue["meter"].id, customer=customer.id, start=now - timedelta(days=3), end=now + timedelta(hours=1)
        )
        return sum(found.values())

    return do


def statuses(standin, path):
    return [request["status"] for request in standin.requests() if request["path"] == path and request["method"] == "POST"]


EVENTS = "/v1/billing/meter_events"


def test_a_repeated_identifier_is_taken_as_delivered(send, counted, standin):
    assert send(5) is True
    assert send(5) is False
    assert counted() == 5
    assert statuses(standin, EVENTS) == [200, 400]


def test_an_identifier_is_forgotten_after_a_day(send, counted, standin):
    send(5)
    standin.advance(86_399 - 60)
    assert send(5) is False
    standin.advance(120)
    assert send(5) is True
    assert counted() == 10


def test_a_forgotten_identifier_counts_twice(send, counted, standin):
    send(5)
    standin.fault("forget_identifiers")

    assert send(5) is True
    assert counted() == 10


def test_another_refusal_is_not_taken_for_a_repetition(standin, send):
    with pytest.raises(StripeRefused, match="within the past 35 days"):
        send(5, at=datetime.fromtimestamp(standin.now, UTC) - timedelta(days=36))


def test_too_many_requests_are_asked_again(standin, customer):
    standin.fault("busy", path="/v1/customers", times=2)

    assert customers.retrieve_customer(customer.id).id == customer.id


def test_when_it_stays_busy_that_is_said(standin, customer):
    standin.fault("busy", path="/v1/customers", times=99)

    with pytest.raises(PaymentsUnavailable, match="no more requests") as refusal:
        customers.retrieve_customer(customer.id)
    assert not isinstance(refusal.value, OutcomeUnknown)
    assert refusal.value.retry_after > 0


def test_a_lock_timeout_is_asked_again(standin, customer):
    standin.fault("conflict", path="/v1/customers", times=2)

    assert customers.update_customer(customer.id, email="b@example.org", name="B").name == "B"


def test_a_saved_500_is_replayed_for_its_key(standin, customer):
    standin.fault("fail_before", path="/v1/invoiceitems")
    headers = {"Idempotency-Key": "same"}
    form = {"customer": customer.id, "amount": 1, "currency": "usd"}

    assert [standin.ask("POST", "/v1/invoiceitems", form, **headers)[0] for _ in range(3)] == [500, 500, 500]
    assert standin.ask("POST", "/v1/invoiceitems", form, **{"Idempotency-Key": "other"})[0] == 200


def test_a_key_belongs_to_its_parameters(standin, customer):
    form = {"customer": customer.id, "amount": 1, "currency": "usd"}
    standin.ask("POST", "/v1/invoiceitems", form, **{"Idempotency-Key": "same"})
    status, body = standin.ask("POST", "/v1/invoiceitems", form | {"amount": 2}, **{"Idempotency-Key": "same"})

    assert (status, body["error"]["type"]) == (400, "idempotency_error")


def test_who_asks_for_the_customer_may_be_another_one_each_time(standin):
    asked = [customers.create_customer(organization="c" * 32, email=f"{name}@example.org", name=name) for name in ("a", "b")]

    assert asked[0].id == asked[1].id
    assert asked[1].email == "b@example.org"


@pytest.mark.parametrize("fault", ["fail_before", "fail_after"])
def test_a_500_does_not_keep_a_subscription_from_being_canceled(standin, subscribe, fault):
    subscription = subscribe()
    standin.fault(fault, path=f"/v1/subscriptions/{subscription.id}")
    with pytest.raises(OutcomeUnknown):
        customers.cancel_subscription(subscription.id, at_period_end=True)

    assert customers.cancel_subscription(subscription.id, at_period_end=True).cancels_at is not None


def test_a_500_does_not_keep_an_invoice_from_being_finalized(standin, subscribe):
    subscription = subscribe()
    standin.advance_to(standin.next_month())
    draft = invoices.hold_invoice(customers.retrieve_subscription(subscription.id).latest_invoice)
    standin.fault("fail_before", path=f"/v1/invoices/{draft.id}/finalize")
    with pytest.raises(OutcomeUnknown):
        invoices.finalize_invoice(draft.id)

    assert invoices.finalize_invoice(draft.id).status == "open"


def test_a_refund_whose_answer_was_a_500_is_not_made_twice(standin, customer):
    session = customers.checkout_for_credit(
        customer=customer.id, amount_minor=2500, currency="USD", description="Credit", metadata={},
        success_url="https://maas.test/ok", cancel_url="https://maas.test/no", key="credit-1",
    )  # fmt: skip
    standin.click(session.url, card="4242424242424242", do="pay")
    payment = customers.retrieve_checkout(session.id).payment
    standin.fault("fail_after", path="/v1/refunds")

    invoices.refund(payment=payment, amount_minor=1000, key="refund-1")

    _, body = standin.ask("GET", "/v1/refunds", {"payment_intent": payment})
    assert [refund["amount"] for refund in body["data"]] == [1000]


@pytest.mark.parametrize(
    ("fault", "is_new"), [("drop_before", True), ("fail_before", True), ("drop_after", False), ("fail_after", False)]
)
def test_the_outcome_of_a_lost_event_is_unknown_until_it_is_sent_again(send, counted, standin, fault, is_new):
    standin.fault(fault, path=EVENTS)
    with pytest.raises(OutcomeUnknown):
        send(7)

    assert send(7) is is_new
    assert counted() == 7


def test_no_key_of_an_event_replays_a_saved_500(send, counted, standin):
    standin.fault("fail_before", path=EVENTS, times=2)
    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            send(7)

    assert send(7) is True


def test_one_event_at_a_time_for_a_customer_and_meter(send, counted, standin):
    standin.fault("slow", path=EVENTS, value=0.3)
    slow = threading.Thread(target=send, args=(1, "slow"))
    slow.start()
    until(lambda: not standin.steer("GET", "faults")["waiting"], what="the slow event")
    status, body = standin.ask("POST", EVENTS, event := {
        "event_name": "spend_usd", "payload[stripe_customer_id]": standin.world.store.all("customer")[0]["id"],
        "payload[value]": "2", "identifier": "other",
    })  # fmt: skip
    slow.join(PATIENCE)

    assert (status, body["error"]["code"]) == (429, "lock_timeout")
    assert standin.ask("POST", EVENTS, event)[0] == 200
    assert counted() == 3


def test_late_summaries_show_usage_later(send, counted, standin):
    standin.fault("late_summaries", value=3600)
    send(5)

    assert counted() == 0
    standin.advance(3601)
    assert counted() == 5


def test_usage_that_is_refused_later_is_told_by_a_thin_event(send, counted, standin):
    standin.fault("reject_usage")

    assert send(5) is True
    assert counted() == 0
    until(lambda: "v1.billing.meter.error_report_triggered" in standin.types(), what="the report")
    signature, body = next(delivery for delivery in standin.got if b"error_report" in delivery[1])
    event = stripe_gateway.read_webhook(body, signature)
    assert (event.is_thin, event.object_kind) == (True, "billing.meter")


def test_usage_for_an_unknown_meter_is_told_by_a_thin_event(standin, customer):
    at = datetime.fromtimestamp(standin.now, UTC)
    usage.send_meter_event(event_name="nothing", customer=customer.id, value=1, identifier="x", at=at)

    assert "v1.billing.meter.no_meter_found" in standin.types()


def change_names(standin, customer, *names):
    for name in names:
        customers.update_customer(customer.id, email="a@example.org", name=name)
    told = [event["data"]["object"]["name"] for event in standin.all_delivered() if event["type"] == "customer.updated"]
    return [name for name in told if name in names]


def test_webhooks_come_in_order_without_faults(standin, customer):
    assert change_names(standin, customer, "1", "2", "3") == ["1", "2", "3"]


def test_webhooks_are_lost(standin, customer):
    standin.fault("lose")

    assert change_names(standin, customer, "1", "2") == ["2"]


def test_webhooks_are_doubled(standin, customer):
    standin.fault("duplicate")

    assert change_names(standin, customer, "1", "2") == ["1", "1", "2"]


def test_webhooks_change_places(standin, customer):
    standin.fault("reorder")

    assert change_names(standin, customer, "1", "2") == ["2", "1"]


def test_webhooks_are_late(standin, customer):
    standin.fault("delay", value=0.3)

    assert change_names(standin, customer, "1", "2") == ["2", "1"]


def test_webhooks_that_are_not_taken_are_sent_again(standin, customer):
    standin.all_delivered()
    standin.answer_webhooks_with = 500
    customers.update_customer(customer.id, email="a@example.org", name="1")
    refused = "SELECT count(*) FROM delivery WHERE attempts > 0 AND state = 'due'"
    until(lambda: standin.world.store.db.execute(refused).fetchone()[0], what="a refused webhook")
    standin.answer_webhooks_with = 200

    assert "customer.updated" in standin.types()


def test_an_unknown_fault_is_refused(standin):
    status, body = standin.ask("POST", "/_standin/faults", {"kind": "earthquake"})

    assert status == 400
    assert "There is no fault earthquake" in body["error"]["message"]
    assert standin.steer("DELETE", "faults")["waiting"] == []
