"""POST /stripe/webhook: what is let in, what is stored, what comes of it."""

import json
import secrets
import time

import pytest
import stripe
from django.test import Client
from pydantic import SecretStr

from billing.models import StripeEvent
from saas.local.stripe.webhooks import sign
from tenants.databases import as_operator


@pytest.fixture
def secret(settings):
    secret = "whsec_of_the_tests"
    update = {"stripe_secret_key": SecretStr("sk_test_x"), "stripe_webhook_secrets": SecretStr(f"whsec_new,{secret}")}
    settings.CONFIG = settings.CONFIG.model_copy(update=update)
    return secret


def event(**fields):
    customer = {"id": f"cus_{secrets.token_hex(6)}", "object": "customer"}
    values = {"id": f"evt_{secrets.token_hex(8)}", "object": "event", "type": "customer.updated", "created": int(time.time())}
    return {**values, "data": {"object": customer}, **fields}


def deliver(body, secret, *, at=None, signature=None):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    header = sign(raw, secret, at=int(time.time()) if at is None else at) if signature is None else signature
    return Client(enforce_csrf_checks=True).post(
        "/stripe/webhook", raw, content_type="application/json; charset=utf-8", headers={"Stripe-Signature": header}
    )


def stored(name):
    with as_operator():
        return StripeEvent.objects.filter(event_id=name).first()


def test_an_event_is_stored_and_acknowledged(secret):
    body = event()
    answer = deliver(body, secret)
    row = stored(body["id"])

    assert (answer.status_code, answer.json()) == (200, {"received": True, "is_new": True})
    assert (row.type, row.object_kind, row.customer) == ("customer.updated", "customer", body["data"]["object"]["id"])
    assert row.processed_at is None


def test_a_second_delivery_is_acknowledged_and_nothing_else(secret):
    body = event()
    deliver(body, secret)
    first = stored(body["id"])
    answer = deliver({**body, "type": "something.else"}, secret)

    assert (answer.status_code, answer.json()["is_new"]) == (200, False)
    assert stored(body["id"]).received_at == first.received_at
    assert stored(body["id"]).type == "customer.updated"


def test_any_of_several_secrets_will_do(secret):
    assert deliver(event(), "whsec_new").status_code == 200
    assert deliver(event(), secret).status_code == 200


def test_the_signature_is_the_one_that_the_sdk_makes_and_checks(secret):
    body = json.dumps(event())
    header = stripe.WebhookSignature.generate_signature_header(body, secret)

    assert deliver(body.encode(), secret, signature=header).status_code == 200
    assert stripe.WebhookSignature.verify_header(body, sign(body.encode(), secret, at=int(time.time())), secret, 300)


def test_more_than_one_signature_may_come_while_a_secret_is_rolled(secret):
    body = json.dumps(event()).encode()
    now = int(time.time())
    both = f"{sign(body, 'whsec_of_another', at=now)},{sign(body, secret, at=now).partition(',')[2]}"

    assert deliver(body, secret, signature=both).status_code == 200


def test_a_thin_event_is_stored_with_what_it_is_about(secret):
    body = {
        "id": f"evt_{secrets.token_hex(8)}", "object": "v2.core.event", "type": "v1.billing.meter.no_meter_found",
        "created": "2026-11-26T05:00:00.000Z", "related_object": None,
    }  # fmt: skip

    assert deliver(body, secret).status_code == 200
    assert stored(body["id"]).is_thin


FORGED = ("another secret", "changed body", "none", "nonsense", "no time", "another scheme", "empty v1", "endless")


@pytest.mark.parametrize("wrong", ["stale", "of the future", *FORGED])
def test_what_is_forged_or_stale_is_refused_and_leaves_nothing(secret, wrong):
    body, now = event(), int(time.time())
    raw = json.dumps(body).encode()
    right = sign(raw, secret, at=now)
    changed = raw.replace(b"customer.updated", b"customer.deleted")
    answer = {
        "another secret": lambda: deliver(body, "whsec_of_somebody_else"),
        "stale": lambda: deliver(body, secret, at=now - 301),
        "of the future": lambda: deliver(body, secret, at=now + 400),
        "changed body": lambda: deliver(changed, secret, signature=right),
        "none": lambda: deliver(body, secret, signature=""),
        "nonsense": lambda: deliver(body, secret, signature="t=x,v1=\xff,,="),
        "no time": lambda: deliver(body, secret, signature=right.partition(",")[2]),
        "another scheme": lambda: deliver(body, secret, signature=right.replace("v1=", "v0=")),
        "empty v1": lambda: deliver(body, secret, signature=f"t={now},v1="),
        "endless": lambda: deliver(body, secret, signature=right.replace("t=", "t=" + "9" * 400)),
    }[wrong]()

    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_request"
    assert "signature is not valid" in answer.json()["detail"]
    assert stored(body["id"]) is None


ABOUT = '"data":{"object":{}}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"{",
        b"\xff\xfe",
        b'{"id": 1}',
        b'{"object": "event"}',
        b'{"id":"e","type":"t","created":1,"data":{"object":[]}}',
        b'{"object":"v2.core.event","id":"e","type":"t","created":1}',
        f'{{"id":"e","type":"t","created":"x",{ABOUT}}}'.encode(),
        f'{{"id":"e","type":"t","created":1e300,{ABOUT}}}'.encode(),
        f'{{"id":"e\\u0000","type":"t","created":1,{ABOUT}}}'.encode(),
        f'{{"id":"{"e" * 300}","type":"t","created":1,{ABOUT}}}'.encode(),
        f'{{"id":"","type":"t","created":1,{ABOUT}}}'.encode(),
        f'{{"id":"e","type":"{"t" * 101}","created":1,{ABOUT}}}'.encode(),
        f'{{"id":"e","type":"t","created":1,"data":{{"object":{{"object":"{"o" * 101}","id":"x"}}}}}}'.encode(),
        b'{"id":5,"type":["t"],"created":1,"data":{"object":{"id":{}}}}',
    ],
)
def test_what_is_signed_and_no_event_is_refused(secret, body):
    answer = deliver(body, secret)

    assert answer.status_code == 400, answer.content
    assert answer.json()["code"] == "invalid_request"


def test_a_large_body_is_refused_before_it_is_read(secret):
    assert deliver(b"x" * (1 << 20) + b"y", secret).status_code == 413


def test_other_methods_are_refused(secret):
    answer = Client().get("/stripe/webhook")

    assert (answer.status_code, answer["Allow"]) == (405, "POST, OPTIONS")


def test_without_secrets_it_is_unavailable(settings):
    answer = deliver(event(), "whsec_x")

    assert (answer.status_code, answer.json()["code"]) == (503, "payments_unavailable")
