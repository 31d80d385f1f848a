"""What is asked of Stripe once is made once, and a 500 that Stripe repeats for its key is in nobody's way for a day."""

import secrets

import pytest

from billing import stripe_gateway
from billing.models import StripeAttempt
from billing.stripe import attempts, customers, invoices
from billing.stripe_gateway import OutcomeUnknown
from saas.lib import clock
from tenants.databases import as_operator
from tests.racing import at_once

CUSTOMERS = "/v1/customers"


@pytest.fixture
def make(standin):
    """`make()`: the customer of an organization of this test's own."""
    organization = secrets.token_hex(16)
    return lambda: customers.create_customer(organization=organization, email="once@example.org", name="Once")


def made(standin):
    _, body = standin.ask("GET", CUSTOMERS, {"email": "once@example.org"})
    return [customer["id"] for customer in body["data"]]


@pytest.mark.parametrize("fault", ["fail_before", "fail_after", "drop_before", "drop_after"])
@pytest.mark.parametrize("times", [1, 2])
def test_it_is_made_once_whatever_happens(standin, make, fault, times):
    standin.fault(fault, path=CUSTOMERS, times=times)

    assert make().id == make().id
    assert len(made(standin)) == 1


def test_while_stripe_goes_on_failing_each_call_goes_on_where_the_last_one_ended(standin):
    service, email = stripe_gateway.client().v1.customers, "once@example.org"

    def make():
        return stripe_gateway.once(service.create, {"email": email}, key=f"mine:{standin.secret}", find=lambda: ())

    standin.fault("fail_before", path=CUSTOMERS, times=7)
    for _ in range(3):  # 3 keys; then the first one's saved answer and 2 more, twice
        with pytest.raises(OutcomeUnknown):
            make()

    assert make()["email"] == email
    assert len(made(standin)) == 1


def test_two_at_once_ask_under_the_same_next_key(standin, make):
    standin.fault("fail_before", path=CUSTOMERS)

    assert len({customer.id for customer in at_once(make, make, make)}) == 1
    assert len(made(standin)) == 1


def test_a_lost_connection_is_asked_again_under_its_own_key(standin, make):
    standin.fault("drop_before", path=CUSTOMERS, times=3)  # as often as the SDK tries
    with pytest.raises(OutcomeUnknown):
        make()
    make()

    with as_operator():
        assert not StripeAttempt.objects.filter(key__startswith="customer:", at__gte=clock.now()).exists()
    assert len(made(standin)) == 1


def test_a_page_to_pay_on_is_not_kept_away_by_a_500_either(standin, customer):
    standin.fault("fail_before", path="/v1/checkout/sessions")

    def ask():
        return customers.checkout_for_credit(
            customer=customer.id, amount_minor=500, currency="USD", description="Prepaid credit", metadata={},
            success_url="https://maas.test/ok", cancel_url="https://maas.test/no", key="checkout:a",
        )  # fmt: skip

    assert ask().id == ask().id


@pytest.mark.parametrize("fault", ["fail_before", "fail_after"])
def test_making_an_invoice_final_has_a_new_key_each_time(standin, subscribe, customer, fault):
    subscribe()
    standin.advance_to(standin.next_month())
    [draft] = [found for found in invoices.invoices_of(customer.id) if found.status == "draft"]
    standin.fault(fault, path=f"/v1/invoices/{draft.id}/finalize")
    with pytest.raises(OutcomeUnknown):
        invoices.finalize_invoice(draft.id)

    if invoices.retrieve_invoice(draft.id).status == "draft":
        invoices.finalize_invoice(draft.id)
    assert invoices.retrieve_invoice(draft.id).status != "draft"


def test_numbers_of_keys_that_stripe_has_forgotten_are_removed(standin, make):
    standin.fault("fail_before", path=CUSTOMERS)
    make()
    with as_operator():
        StripeAttempt.objects.update(at=clock.now() - attempts.KEPT * 2)

        attempts.forget()

        assert not StripeAttempt.objects.exists()
