"""GET and POST /billing/plan, GET /billing/prices."""

import secrets
from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from billing.sale import plans, prices
from tenants.access import Actor
from tenants.databases import as_operator
from tests.racing import at_once, statuses

PLAN, PRICES = "/api/v1/billing/plan", "/api/v1/billing/prices"
OPERATOR = Actor("operator", "usr_1")


def choose(client, plan, **headers):
    return client.post(PLAN, {"plan": plan}, format="json", headers=headers or None)


def test_the_plan_is_shown_with_what_can_be_chosen(client_of, alice):
    body = client_of(alice).get(PLAN).json()

    assert (body["plan"], body["state"], body["currency"], body["monthly_fee"]) == ("free", "active", "USD", "0.00")
    assert body["included_calls"] == 10_000
    assert body["limits"]["rate"] == 100
    choices = [choice["plan"] for choice in body["choices"]]
    assert {"free", "pay-as-you-go", "pro", "prepaid"} <= set(choices)
    assert not {"custom", "internal"} & set(choices)


def test_a_plan_without_invoices_is_chosen_at_once(client_of, alice, make_key):
    from tenants.keys import authenticate

    _, presented = make_key(alice.organization)
    answer = choose(client_of(alice), "prepaid")

    assert (answer.status_code, answer.json()["plan"]) == (200, "prepaid")
    assert client_of(alice).get(PLAN).json()["plan"] == "prepaid"
    assert authenticate(presented).organization_limits.rate == 200


@pytest.mark.parametrize("plan", ["pro", "pay-as-you-go"])
def test_a_plan_that_is_paid_for_is_not_given_away(client_of, alice, plan):
    answer = choose(client_of(alice), plan)

    assert (answer.status_code, answer.json()["code"]) == (409, "state_conflict")
    assert client_of(alice).get(PLAN).json()["plan"] == "free"


def test_a_plan_that_is_paid_at_stripe_is_not_changed_while_that_is_away(client_of, alice):
    from billing.models import Subscription

    with as_operator():
        Subscription.objects.of(alice.organization).update(stripe_subscription="sub_1", stripe_status="active")

    answer = choose(client_of(alice), "prepaid")

    assert (answer.status_code, answer.json()["code"]) == (503, "payments_unavailable")
    assert client_of(alice).get(PLAN).json()["plan"] == "free"


@pytest.mark.parametrize("plan", ["internal", "custom", "gold"])
def test_a_plan_that_is_not_for_everybody_is_not_there(client_of, alice, plan):
    answer = choose(client_of(alice), plan)

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("body", [{}, {"plan": ""}, {"plan": 5}, {"plan": "free", "more": 1}, {"plan": "a b"}])
def test_a_wrong_body_is_refused(client_of, alice, body):
    answer = client_of(alice).post(PLAN, body, format="json")

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


@pytest.mark.parametrize(
    ("role", "may_read", "may_write"), [("billing", 200, 200), ("admin", 403, 403), ("developer", 403, 403)]
)
def test_owners_and_billing_see_and_change_it(client_of, alice, make_user, join, role, may_read, may_write):
    client = client_of(join(make_user(role), alice.organization, role))

    assert client.get(PLAN).status_code == client.get(PRICES).status_code == may_read
    assert choose(client, "prepaid").status_code == may_write


def test_a_retry_with_the_same_key_is_answered_the_same_and_changes_nothing(client_of, alice):
    first = choose(client_of(alice), "prepaid", **{"Idempotency-Key": "k1"})
    choose(client_of(alice), "free")
    again = choose(client_of(alice), "prepaid", **{"Idempotency-Key": "k1"})

    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    assert client_of(alice).get(PLAN).json()["plan"] == "free"


def test_a_key_is_of_one_request_and_one_organization(client_of, alice, charlie):
    choose(client_of(alice), "prepaid", **{"Idempotency-Key": "k1"})

    other = choose(client_of(alice), "free", **{"Idempotency-Key": "k1"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert choose(client_of(charlie), "free", **{"Idempotency-Key": "k1"}).status_code == 200


def test_what_was_refused_may_be_tried_again_with_the_same_key(client_of, alice):
    assert choose(client_of(alice), "pro", **{"Idempotency-Key": "k1"}).status_code == 409
    plans.change(alice.organization.id, "pro", actor=OPERATOR)

    assert choose(client_of(alice), "pro", **{"Idempotency-Key": "k1"}).status_code == 200


def test_of_many_with_one_key_one_does_the_work(client_of, alice):
    answers = at_once(*[lambda: choose(client_of(alice), "prepaid", **{"Idempotency-Key": "k1"}) for _ in range(4)])

    assert statuses(answers) == [200] * 4
    assert sorted("Idempotent-Replayed" in answer.headers for answer in answers) == [False, True, True, True]


def test_old_answers_are_forgotten(client_of, alice):
    from billing.models import Post
    from billing.tasks import forget_posts

    choose(client_of(alice), "prepaid", **{"Idempotency-Key": secrets.token_hex(8)})
    with as_operator():
        mine = Post.objects.of(alice.organization)
        forget_posts()
        assert mine.count() == 1
        mine.update(created_at=timezone.now() - timedelta(days=8))
        forget_posts()
        assert mine.count() == 0


def test_prices_are_those_that_the_organization_pays(client_of, alice, charlie, ready_model, private_model):
    name = f"catalog/{ready_model.name}"

    def seen(who, wanted):
        return next(each for each in client_of(who).get(PRICES).json()["results"] if each["model"] == wanted)

    assert seen(alice, name) == {"model": name, "price": None, "next": None}
    listed = prices.add_price(model=ready_model, call_price=Decimal("0.00012"), actor=OPERATOR)
    assert seen(alice, name)["price"]["price_version"] == listed.version
    assert (seen(alice, name)["price"]["call"], seen(alice, name)["price"]["second"]) == ("0.00012", "0.00")
    own = prices.add_price(model=ready_model, organization=alice.organization, call_price=Decimal("0.0001"), actor=OPERATOR)
    assert seen(alice, name)["next"]["price_version"] == own.version
    assert seen(charlie, name)["next"] is None
    assert seen(alice, f"{alice.organization.slug}/own")["price"]["price_version"] == 0


def test_a_stranger_does_not_see_the_prices_of_private_models(client_of, charlie, private_model):
    body = client_of(charlie).get(PRICES).json()

    assert not [each for each in body["results"] if each["model"].endswith("/own")]
