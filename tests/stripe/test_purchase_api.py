"""POST /billing/checkout and /billing/portal."""

import secrets

import pytest
from pydantic import SecretStr

from tests.racing import at_once

CHECKOUT, PORTAL = "/api/v1/billing/checkout", "/api/v1/billing/portal"


def post(client, path, body, key=None):
    return client.post(path, body, format="json", headers={"Idempotency-Key": key} if key else None)


def sessions(standin):
    return standin.world.store.all("checkout.session")


def test_a_plan_is_bought_on_stripes_page(client_of, alice, standin):
    answer = post(client_of(alice), CHECKOUT, {"plan": "pro"})

    assert answer.status_code == 200, answer.content
    status, text, _ = standin.click(answer.json()["url"])
    assert status == 200
    assert "Pro" in text
    [session] = sessions(standin)
    assert session["metadata"]["organization"] == alice.organization.id.hex


def test_credit_is_bought_on_stripes_page(client_of, alice, standin):
    answer = post(client_of(alice), CHECKOUT, {"credit": "25.00"})

    assert answer.status_code == 200, answer.content
    [session] = sessions(standin)
    assert (session["mode"], session["amount_total"], session["currency"]) == ("payment", 2500, "usd")


def test_a_key_may_do_it_for_the_owner(client_of, alice, make_key, standin):
    key = make_key(alice.organization, scopes=["billing:write"])[1]

    assert post(client_of(key), CHECKOUT, {"plan": "pro"}).status_code == 200
    [customer] = standin.world.store.all("customer")
    assert customer["email"] == alice.email


def test_the_portal_has_a_page(client_of, alice, standin):
    answer = post(client_of(alice), PORTAL, {})

    assert answer.status_code == 200, answer.content
    assert standin.click(answer.json()["url"])[0] == 200


def test_a_retry_gets_the_same_page(client_of, alice, standin):
    key = secrets.token_hex(8)
    first = post(client_of(alice), CHECKOUT, {"plan": "pro"}, key)
    again = post(client_of(alice), CHECKOUT, {"plan": "pro"}, key)

    assert first.json() == again.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(sessions(standin)) == 1


def test_the_same_key_with_another_body_is_refused(client_of, alice, standin):
    key = secrets.token_hex(8)
    post(client_of(alice), CHECKOUT, {"plan": "pro"}, key)

    answer = post(client_of(alice), CHECKOUT, {"credit": "5"}, key)

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert len(sessions(standin)) == 1


def test_two_at_the_same_moment_get_one_page(client_of, alice, standin):
    key = secrets.token_hex(8)
    answers = at_once(*[lambda: post(client_of(alice), CHECKOUT, {"plan": "pro"}, key) for _ in range(3)])

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert len({answer.json()["url"] for answer in answers}) == 1
    assert len(sessions(standin)) == 1


def test_after_a_failure_the_retry_does_it(client_of, alice, standin):
    key = secrets.token_hex(8)
    standin.fault("busy", path="/v1/customers", times=20)
    first = post(client_of(alice), CHECKOUT, {"plan": "pro"}, key)
    standin.steer("DELETE", "faults")
    again = post(client_of(alice), CHECKOUT, {"plan": "pro"}, key)

    assert (first.status_code, first.json()["code"]) == (503, "payments_unavailable")
    assert again.status_code == 200
    assert len(sessions(standin)) == 1


def test_what_stripe_refuses_of_ours_is_for_the_operator_to_see(client_of, alice, standin):
    post(client_of(alice), PORTAL, {})  # makes the customer
    [customer] = standin.world.store.all("customer")
    standin.world.store.remove(customer["id"])
    answer = post(client_of(alice), CHECKOUT, {"credit": "5"})

    assert (answer.status_code, answer.json()["code"]) == (503, "payments_unavailable")
    assert customer["id"] not in answer.content.decode()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"plan": "pro", "credit": "5"},
        {"plan": ""},
        {"plan": "../../x"},
        {"credit": "-1"},
        {"credit": "0"},
        {"credit": "0.001"},
        {"credit": "1e400"},
        {"credit": "10000000"},
        {"credit": ["5"]},
        {"amount": "5"},
    ],
)
def test_bad_input_is_named_and_nothing_is_made(client_of, alice, standin, body):
    answer = post(client_of(alice), CHECKOUT, body)

    assert answer.status_code == 422, answer.content
    assert answer.json()["code"] == "validation_failed"
    assert sessions(standin) == []


@pytest.mark.parametrize(("plan", "status"), [("nonsense", 404), ("free", 409), ("prepaid", 409)])
def test_plans_that_cannot_be_bought(client_of, alice, standin, plan, status):
    assert post(client_of(alice), CHECKOUT, {"plan": plan}).status_code == status


def test_who_may_not(client_of, alice, bob, make_key, standin):
    reader = make_key(alice.organization, scopes=["billing:read"])[1]

    assert post(client_of(None), CHECKOUT, {"plan": "pro"}).status_code == 401
    assert post(client_of(bob), PORTAL, {}).status_code == 403
    assert post(client_of(reader), CHECKOUT, {"plan": "pro"}).status_code == 403
    assert sessions(standin) == []


def test_without_payments_it_says_so(client_of, alice, standin, settings):
    settings.CONFIG = settings.CONFIG.model_copy(update={"stripe_secret_key": SecretStr("")})

    answer = post(client_of(alice), CHECKOUT, {"plan": "pro"})

    assert (answer.status_code, answer.json()["code"]) == (503, "payments_unavailable")
