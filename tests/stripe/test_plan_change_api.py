"""POST /billing/plan, GET /billing/plan/preview, POST and DELETE /billing/cancel while a subscription runs at Stripe."""

import secrets
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.models import Subscription
from billing.sale import segments
from billing.stripe import customers, invoices
from saas.lib import clock
from tenants.databases import as_operator
from tests.racing import at_once
from tests.stripe.customer import buy, current

pytestmark = pytest.mark.usefixtures("its_clock")
PLAN, PREVIEW, CANCEL = "/api/v1/billing/plan", "/api/v1/billing/plan/preview", "/api/v1/billing/cancel"


@pytest.fixture
def on(standin, alice, work, client_of):
    """`on(plan)`: Alice's organization has subscribed to it an hour ago; her client."""

    def do(plan):
        buy(standin, alice.organization, plan)
        work()
        standin.advance(3600)
        return client_of(alice)

    return do


def post(client, path, body, key=None):
    return client.post(path, body, format="json", headers={"Idempotency-Key": key} if key else None)


def preview(client, plan):
    answer = client.get(PREVIEW, {"plan": plan})
    assert answer.status_code == 200, answer.content
    return answer.json()


def at_stripe(organization):
    return customers.retrieve_subscription(current(organization).stripe_subscription)


def next_invoice(standin, organization):
    name = current(organization).stripe_subscription
    standin.advance_to(standin.next_month())
    return invoices.retrieve_invoice(customers.retrieve_subscription(name).latest_invoice)


def test_a_subscription_is_changed_at_once_and_costs_what_the_preview_said(standin, alice, on):
    client = on("pay-as-you-go")
    shown = preview(client, "pro")
    standin.advance(120)
    answer = post(client, PLAN, {"plan": "pro", "proration_at": shown["proration_at"]})
    with as_operator():
        alice.organization.refresh_from_db()

    assert (answer.status_code, answer.json()["plan"], answer.json()["ends_at"]) == (200, "pro", None)
    assert alice.organization.rate == answer.json()["limits"]["rate"] == 1000
    assert (shown["due_now"], shown["needs_checkout"], shown["monthly_fee"]) == ("0.00", False, "99.00")
    assert Decimal(shown["next_invoice"]) > 99
    assert any(line["is_proration"] for line in shown["lines"])
    bill = next_invoice(standin, alice.organization)
    assert Decimal(bill.total_minor) / 100 == Decimal(shown["next_invoice"])
    assert datetime.fromisoformat(shown["next_invoice_at"]) == bill.period_end


def test_without_a_preview_it_is_prorated_from_now_on(standin, alice, on):
    client = on("pro")
    shown = preview(client, "pay-as-you-go")
    standin.advance(86_400)

    assert post(client, PLAN, {"plan": "pay-as-you-go"}).json()["plan"] == "pay-as-you-go"
    assert next_invoice(standin, alice.organization).total_minor > Decimal(shown["next_invoice"]) * 100  # less is given back


@pytest.mark.parametrize("seconds", [-6 * 60, 60, -2 * 3600, -40 * 86_400])
def test_a_moment_that_is_of_no_preview_is_refused(standin, alice, on, seconds):
    client = on("pro")
    moment = datetime.fromtimestamp(standin.now + seconds, UTC)
    answer = post(client, PLAN, {"plan": "pay-as-you-go", "proration_at": moment.isoformat()})

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "proration_at")
    assert current(alice.organization).plan_version.plan_id == "pro"


def test_a_preview_from_before_another_change_is_refused(standin, alice, on):
    client = on("pro")
    old = preview(client, "pro")["proration_at"]
    standin.advance(60)
    post(client, PLAN, {"plan": "pay-as-you-go"})

    assert post(client, PLAN, {"plan": "pro", "proration_at": old}).status_code == 422


def test_a_plan_whose_whole_fee_is_given_back_has_included_nothing(standin, alice, on):
    client = on("pay-as-you-go")
    post(client, PLAN, {"plan": "pro"})
    at = current(alice.organization).since
    standin.advance(240)
    answer = post(client, PLAN, {"plan": "pay-as-you-go", "proration_at": at.isoformat()})
    assert answer.status_code == 200, answer.content

    with as_operator():
        parts = segments.of_month(alice.organization, clock.now())
    assert [part.version.plan_id for part in parts if part.version.monthly_fee] == []
    bill = next_invoice(standin, alice.organization)
    assert sum(line.amount_minor for line in bill.lines if line.is_proration) == 0


def test_a_change_by_a_preview_is_charged_from_its_moment_on(standin, alice, on):
    client = on("pay-as-you-go")
    at = datetime.fromisoformat(preview(client, "pro")["proration_at"])
    standin.advance(240)
    post(client, PLAN, {"plan": "pro", "proration_at": at.isoformat()})
    assert current(alice.organization).since == at

    standin.advance(60)
    before = clock.now().replace(microsecond=0)
    post(client, PLAN, {"plan": "pay-as-you-go"})
    assert before <= current(alice.organization).since <= clock.now()


def test_a_retry_changes_nothing_again(standin, alice, on):
    client, key = on("pay-as-you-go"), secrets.token_hex(8)
    first = post(client, PLAN, {"plan": "pro"}, key)
    again = post(client, PLAN, {"plan": "pro"}, key)

    assert first.json() == again.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    changes = [request for request in standin.requests() if request["params"].get("proration_behavior")]
    assert len(changes) == 1


@pytest.mark.parametrize("fault", ["drop_after", "fail_after"])
def test_a_change_whose_answer_was_lost_is_there_after_the_retry_once(standin, alice, on, fault):
    client, key = on("pay-as-you-go"), secrets.token_hex(8)
    expected = preview(client, "pro")
    standin.fault(fault, path=f"/v1/subscriptions/{current(alice.organization).stripe_subscription}", times=2)
    first = post(client, PLAN, {"plan": "pro", "proration_at": expected["proration_at"]}, key)
    standin.steer("DELETE", "faults")
    again = post(client, PLAN, {"plan": "pro", "proration_at": expected["proration_at"]}, key)

    assert first.status_code in (200, 503)
    assert (again.status_code, again.json()["plan"]) == (200, "pro")
    assert next_invoice(standin, alice.organization).total_minor == Decimal(expected["next_invoice"]) * 100


def test_of_two_changes_at_once_both_sides_have_the_same(standin, alice, on, client_of):
    on("pro")
    wanted = ("pay-as-you-go", "pro", "pay-as-you-go")
    at_once(*[lambda plan=plan: post(client_of(alice), PLAN, {"plan": plan}) for plan in wanted])

    row, found = current(alice.organization), at_stripe(alice.organization)
    assert {item.metadata["plan"] for item in found.items} == {row.plan_version.plan_id}


@pytest.mark.parametrize("plan", ["free", "prepaid"])
def test_to_a_plan_that_is_not_paid_for_it_goes_when_the_paid_month_is_over(standin, alice, on, work, plan):
    client, ends = on("pro"), standin.next_month()
    shown = preview(client, plan)
    answer = post(client, PLAN, {"plan": plan}).json()

    assert datetime.fromisoformat(answer["ends_at"]) == datetime.fromisoformat(shown["takes_effect_at"]) == ends
    assert (answer["plan"], answer["next_plan"]) == ("pro", plan)
    assert (shown["due_now"], shown["next_invoice"], shown["proration_at"]) == ("0.00", "0.00", None)
    work()
    assert client.get(PLAN).json()["next_plan"] == plan
    standin.advance_to(ends + timedelta(minutes=1))
    work()
    after = client.get(PLAN).json()
    assert (after["plan"], after["state"], after["ends_at"], after["next_plan"]) == (plan, "active", None, None)


def test_what_is_chosen_last_follows(standin, alice, on, work):
    client = on("pro")
    post(client, PLAN, {"plan": "prepaid"})
    assert post(client, CANCEL, {}).json()["next_plan"] == "free"
    standin.advance_to(standin.next_month() + timedelta(minutes=1))
    work()

    assert client.get(PLAN).json()["plan"] == "free"


def test_a_subscription_is_canceled_with_its_month_and_that_is_taken_back(standin, alice, on, work):
    client, key = on("pro"), secrets.token_hex(8)
    ended = post(client, CANCEL, {}, key)
    assert (ended.status_code, ended.json()["plan"]) == (200, "pro")
    assert datetime.fromisoformat(ended.json()["ends_at"]) == standin.next_month()
    assert post(client, CANCEL, {}, key).json() == ended.json()

    kept = client.delete(CANCEL)
    assert (kept.status_code, kept.json()["ends_at"], kept.json()["next_plan"]) == (200, None, None)
    assert client.delete(CANCEL).status_code == 200
    standin.pass_month(hours=2)
    work()
    assert client.get(PLAN).json()["plan"] == "pro"


def test_an_end_that_was_taken_back_at_stripe_is_forgotten_with_what_would_have_followed(standin, alice, on, work):
    client = on("pro")
    post(client, PLAN, {"plan": "prepaid"})
    customers.keep_subscription(current(alice.organization).stripe_subscription)
    work()

    row = current(alice.organization)
    assert (row.ends_at, row.next_plan) == (None, "")


def test_another_paid_plan_takes_the_end_back(standin, alice, on):
    client = on("pro")
    post(client, CANCEL, {})
    assert post(client, PLAN, {"plan": "pay-as-you-go"}).json()["ends_at"] is None
    post(client, CANCEL, {})
    same = post(client, PLAN, {"plan": "pay-as-you-go"}).json()

    assert (same["plan"], same["ends_at"]) == ("pay-as-you-go", None)
    assert at_stripe(alice.organization).cancels_at is None


def test_a_subscription_is_canceled_at_once(standin, alice, on, work):
    client = on("pro")
    answer = post(client, CANCEL, {"at": "now"})

    assert (answer.status_code, answer.json()["plan"], answer.json()["ends_at"]) == (200, "free", None)
    assert at_stripe(alice.organization).status == "canceled"
    again = post(client, CANCEL, {"at": "now"})
    assert (again.status_code, again.json()["plan"]) == (200, "free")
    assert client.delete(CANCEL).status_code == 409


def test_an_end_that_we_have_not_heard_of_is_no_fault(standin, alice, on):
    client = on("pro")
    standin.fault("lose", times=1000)
    customers.cancel_subscription(current(alice.organization).stripe_subscription, at_period_end=False)

    assert post(client, PLAN, {"plan": "prepaid"}).json()["plan"] == "prepaid"


@pytest.mark.parametrize(("method", "path"), [("post", CANCEL), ("delete", CANCEL)])
def test_who_never_subscribed_has_nothing_to_cancel(client_of, alice, standin, method, path):
    answer = getattr(client_of(alice), method)(path, {}, format="json")

    assert (answer.status_code, answer.json()["code"]) == (409, "state_conflict")


def test_a_plan_that_is_still_to_be_bought_is_previewed_as_the_checkout_will_ask(standin, alice, client_of, work):
    client = client_of(alice)
    shown = preview(client, "pro")
    assert (shown["needs_checkout"], shown["proration_at"], shown["next_invoice"]) == (True, None, "99.00")
    assert standin.world.store.all("customer") == standin.world.store.all("subscription") == []
    assert post(client, PLAN, {"plan": "pro"}).status_code == 409
    buy(standin, alice.organization)
    work()

    first = invoices.retrieve_invoice(at_stripe(alice.organization).latest_invoice)
    assert abs(Decimal(shown["due_now"]) * 100 - first.total_minor) <= 1  # some seconds went by
    assert datetime.fromisoformat(shown["next_invoice_at"]) == standin.next_month()


def test_between_plans_that_are_not_paid_for_nothing_is_due(alice, client_of, standin):
    shown = preview(client_of(alice), "prepaid")

    assert (shown["due_now"], shown["next_invoice_at"], shown["lines"], shown["needs_checkout"]) == ("0.00", None, [], False)


@pytest.mark.parametrize(("query", "status"), [({}, 422), ({"plan": ""}, 422), ({"plan": "a b"}, 422), ({"plan": "gold"}, 404)])
def test_a_preview_of_nothing(client_of, alice, standin, query, status):
    assert client_of(alice).get(PREVIEW, query).status_code == status


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CANCEL, {"at": "tomorrow"}),
        (CANCEL, {"at": None}),
        (CANCEL, {"now": True}),
        (PLAN, {"plan": "pro", "proration_at": "now"}),
        (PLAN, {"plan": "pro", "proration_at": 5}),
    ],
)
def test_bad_input_is_named(client_of, alice, standin, path, body):
    answer = post(client_of(alice), path, body)

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), answer.content


def test_while_stripe_is_away_nothing_is_changed(standin, alice, on):
    client = on("pro")
    standin.fault("busy", times=1000)
    answers = [post(client, PLAN, {"plan": "free"}), post(client, CANCEL, {}), client.delete(CANCEL)]
    answers.append(client.get(PREVIEW, {"plan": "free"}))
    standin.steer("DELETE", "faults")

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(503, "payments_unavailable")] * 4
    assert at_stripe(alice.organization).cancels_at is None


def test_a_plan_that_is_no_longer_sold_when_its_turn_comes_becomes_free(standin, alice, on, work):
    client = on("pro")
    post(client, CANCEL, {})
    with as_operator():
        Subscription.objects.of(alice.organization).current().update(next_plan="gone")
    standin.advance_to(standin.next_month() + timedelta(minutes=1))
    work()

    assert client.get(PLAN).json()["plan"] == "free"


def test_a_reader_sees_previews_and_cancels_nothing(standin, alice, on, make_key, client_of):
    on("pro")
    reader = client_of(make_key(alice.organization, scopes=["billing:read"])[1])

    assert reader.get(PREVIEW, {"plan": "free"}).status_code == 200
    assert post(reader, CANCEL, {}).status_code == reader.delete(CANCEL).status_code == 403
