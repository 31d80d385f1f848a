"""However many checkout pages are opened, at most one subscription comes of them."""

import secrets

import pytest

from billing.stripe import customers, payments
from billing.stripe_gateway import StripeRefused
from saas.lib.errors import StateConflict
from tests.racing import at_once
from tests.stripe.customer import GOOD, current

pytestmark = pytest.mark.usefixtures("its_clock")
URLS = {"email": "a@example.org", "success_url": "https://m.test/ok", "cancel_url": "https://m.test/no"}


@pytest.fixture
def organization(alice):
    return alice.organization


def opened(organization, plan="pro", key=None):
    return payments.checkout_plan(organization.id, plan, key=key or secrets.token_hex(8), **URLS)


def statuses(*pages):
    return [customers.retrieve_checkout(page.id).status for page in pages]


def subscriptions(standin):
    return len(standin.world.store.all("subscription"))


def test_a_page_ends_those_before_it(standin, organization):
    first, second = opened(organization), opened(organization, "pay-as-you-go")

    assert statuses(first, second) == ["expired", "open"]
    assert standin.click(first.url, card=GOOD, do="pay")[0] == 402
    assert standin.click(second.url, card=GOOD, do="pay")[0] == 303
    assert subscriptions(standin) == 1


def test_a_repeated_request_ends_not_its_own_page(standin, organization):
    first, again = opened(organization, key="k"), opened(organization, key="k")

    assert first.id == again.id
    assert statuses(first) == ["open"]


def test_a_page_of_credit_stays(standin, organization):
    credit = payments.checkout_credit(organization.id, 10**10, key="c", **URLS)
    opened(organization)

    assert statuses(credit) == ["open"]


def test_of_many_that_are_opened_at_once_one_can_be_paid(standin, organization):
    payments.customer_of(organization.id, email="a@example.org")
    pages = at_once(*[lambda: opened(organization)] * 4)

    assert sorted(statuses(*pages)) == ["expired"] * 3 + ["open"]


def test_who_has_paid_before_we_heard_of_it_gets_no_second_page(standin, organization):
    first = opened(organization)
    assert standin.click(first.url, card=GOOD, do="pay")[0] == 303
    with pytest.raises(StateConflict, match="already"):
        opened(organization)

    assert sorted(row["status"] for row in standin.world.store.all("checkout.session")) == ["complete", "expired"]
    assert subscriptions(standin) == 1


def test_a_subscription_that_begins_otherwise_ends_the_open_page(standin, organization, work):
    page = opened(organization)
    customer = payments.customer_of(organization.id, email="a@example.org")
    standin.ask("POST", "/v1/payment_methods/pm_card_visa/attach", {"customer": customer})
    prices = payments.prices_of(payments.plans.for_sale("pro", "USD"))
    customers.create_subscription(customer=customer, prices=prices, metadata={}, key="by-hand")
    work()

    assert current(organization).plan_version.plan_id == "pro"
    assert statuses(page) == ["expired"]


def test_a_page_that_cannot_be_ended_is_told(standin, organization):
    page = opened(organization)
    customers.end_checkout(page.id)
    customers.end_checkout(page.id)  # it is not open any more

    assert statuses(page) == ["expired"]
    with pytest.raises(StripeRefused):
        customers.end_checkout("cs_nobody")
