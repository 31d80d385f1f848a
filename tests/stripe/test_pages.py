"""The pages that a person clicks, without JavaScript."""

import re
import secrets
import urllib.error
import urllib.request

import pytest

from billing.stripe import customers
from billing.stripe import portal as stripe_portal

pytestmark = pytest.mark.no_servers
GOOD, LATER, DECLINED = "4242424242424242", "4000000000000341", "4000000000000002"


@pytest.fixture
def checkout(standin, customer, catalogue):
    return customers.checkout_for_subscription(
        customer=customer.id,
        prices=catalogue["pro"],
        metadata={"plan": "pro"},
        success_url="https://maas.test/ok?session={CHECKOUT_SESSION_ID}",
        cancel_url="https://maas.test/no",
        key=secrets.token_hex(8),
    )


@pytest.fixture
def portal(standin, customer):
    return stripe_portal.link(customer=customer.id, return_url="https://maas.test/back")


def test_the_page_names_what_is_bought_and_can_be_read_aloud(standin, checkout):
    status, text, _ = standin.click(checkout.url)

    assert status == 200
    assert "50.00 USD" in text
    assert '<html lang="en">' in text
    assert all(part in text for part in ("<title>Checkout</title>", "<main>", "<h1>", "<legend>Card</legend>", "<caption>"))
    assert "<script" not in text
    assert len(re.findall(r"<label><input type=\"radio\"", text)) == 4


def test_paying_leads_back_with_the_session(standin, checkout):
    status, _, to = standin.click(checkout.url, card=GOOD, do="pay")

    assert (status, to) == (303, f"https://maas.test/ok?session={checkout.id}")
    assert customers.retrieve_checkout(checkout.id).status == "complete"
    assert "This checkout is complete" in standin.click(checkout.url)[1]


@pytest.mark.parametrize("card", [DECLINED, LATER, "1234", ""])
def test_a_card_that_fails_is_said_and_leaves_nothing(standin, checkout, customer, card):
    status, text, _ = standin.click(checkout.url, card=card, do="pay")

    assert status == 402
    assert 'role="alert"' in text
    assert customers.retrieve_checkout(checkout.id).status == "open"
    assert customers.subscriptions_of(customer.id) == []
    assert standin.click(checkout.url, card=GOOD, do="pay")[0] == 303


def test_who_leaves_can_come_back(standin, checkout):
    assert standin.click(checkout.url, do="leave")[::2] == (303, "https://maas.test/no")
    assert customers.retrieve_checkout(checkout.id).status == "open"


def test_a_page_that_is_paid_twice_is_paid_once(standin, checkout, customer):
    standin.click(checkout.url, card=GOOD, do="pay")
    status, text, _ = standin.click(checkout.url, card=GOOD, do="pay")

    assert status == 402
    assert "complete" in text
    assert len(customers.subscriptions_of(customer.id)) == 1


def test_a_checkout_expires_after_a_day(standin, checkout):
    standin.advance(86_401)

    assert customers.retrieve_checkout(checkout.id).status == "expired"
    assert "checkout.session.expired" in standin.types()


def test_the_portal_does_what_its_configuration_allows(standin, subscribe, portal, customer):
    subscription = subscribe()
    configuration = stripe_portal.find()
    standin.ask(
        "POST",
        f"/v1/billing_portal/configurations/{configuration.id}",
        {"features[subscription_cancel][enabled]": "false", "features[payment_method_update][enabled]": "false"},
    )

    page = standin.click(portal)[1]
    assert "Cancel at" not in page
    assert "Use this card" not in page
    standin.click(portal, do="cancel")
    standin.click(portal, do="card", card=GOOD)
    assert customers.retrieve_subscription(subscription.id).cancels_at is None


@pytest.mark.parametrize("configuration", [None, "bpc_nobody"])
def test_there_is_no_portal_without_a_configuration(standin, customer, configuration):
    named = {"configuration": configuration} if configuration else {}
    status, body = standin.ask("POST", "/v1/billing_portal/sessions", {"customer": customer.id, **named})

    assert status in (400, 404)
    assert "onfiguration" in body["error"]["message"]


def test_the_portal_changes_no_plan(standin, customer):
    asked = {"features[subscription_update][enabled]": "true"}

    assert standin.ask("POST", "/v1/billing_portal/configurations", asked)[0] == 400


def test_the_portal_cancels_and_takes_it_back(standin, subscribe, portal):
    subscription = subscribe()
    standin.click(portal, do="cancel")
    assert customers.retrieve_subscription(subscription.id).cancels_at is not None
    standin.click(portal, do="keep")
    assert customers.retrieve_subscription(subscription.id).cancels_at is None


def test_the_portal_of_one_customer_pays_no_others_invoice(standin, subscribe, portal):
    from billing.stripe import invoices as stripe_invoices

    subscription = subscribe()
    standin.click(portal, card=LATER, do="card")
    standin.pass_month(hours=2)
    invoice = customers.retrieve_subscription(subscription.id).latest_invoice
    other = customers.create_customer(organization="b" * 32, email="b@example.org", name="B")
    theirs = stripe_portal.link(customer=other.id, return_url="https://maas.test/back")
    standin.click(theirs, card=GOOD, do="card")

    standin.click(theirs, do=f"invoice:{invoice}")
    assert stripe_invoices.retrieve_invoice(invoice).status == "open"


def test_an_open_invoice_is_paid_on_its_page(standin, subscribe, portal):
    from billing.stripe import invoices as stripe_invoices

    subscription = subscribe()
    standin.click(portal, card=LATER, do="card")
    standin.pass_month(hours=2)
    invoice = stripe_invoices.retrieve_invoice(customers.retrieve_subscription(subscription.id).latest_invoice)

    assert "Status: open" in standin.click(invoice.hosted_url)[1]
    assert standin.click(invoice.hosted_url, card=GOOD, do="pay")[0] == 303
    assert stripe_invoices.retrieve_invoice(invoice.id).status == "paid"


def test_a_portal_link_expires(standin, portal):
    assert standin.click(portal)[0] == 200
    standin.advance(3_601)
    assert standin.click(portal)[0] == 404


@pytest.mark.parametrize("path", ["/", "/checkout/cs_nobody", "/portal/", "/invoice/in_nobody", "/checkout/a/b"])
def test_there_is_nothing_else(standin, path):
    assert standin.click(standin.base_url + path)[0] == 404


def test_the_api_needs_the_key(standin):
    assert standin.ask("GET", "/v1/customers", Authorization="Bearer sk_test_wrong")[0] == 401
    assert standin.ask("GET", "/_standin/clock", Authorization="")[0] == 401


@pytest.mark.parametrize("headers", [{"Host": "evil.example:80"}, {"Origin": "https://evil.example"}])
def test_a_page_elsewhere_cannot_ask(standin, checkout, headers):
    request = urllib.request.Request(checkout.url, b"do=leave", headers | {"Connection": "close"})

    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
    assert refusal.value.code == 403
    refusal.value.close()
