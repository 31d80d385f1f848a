"""Operators add prices, versions of plans and subscriptions in the admin; each addition has who and why."""

import json
import secrets
from datetime import timedelta

import pytest
from django.utils import timezone

from tenants.databases import as_operator

TABLES = ["priceversion", "plan", "planversion", "subscription"]
ALL = '[{"up_to": null, "rate": "1"}]'


@pytest.fixture
def add(operator):
    """`add(table, **fields)`: fill the form and send it; its complaints by field, {} if it was taken."""

    def send(table, **fields):
        response = operator.post(f"/admin/billing/{table}/add/", fields)
        if response.status_code == 302:
            return {}
        assert response.status_code == 200, response.content[:500]
        return {name: " ".join(said) for name, said in response.context["adminform"].form.errors.items()}

    return send


@pytest.fixture
def price():
    """Fields of a price that would do."""
    return {"currency": "USD", "call_price": "0.001", "row_price": "0", "second_price": "0", "reason": "because"}


@pytest.fixture
def plan(embedded):
    from billing.models import Plan

    with as_operator():
        return Plan.objects.create(slug=f"p-{secrets.token_hex(4)}", name="P")


@pytest.fixture
def version(plan):
    """Fields of a version of a plan that would do."""
    now = timezone.now() + timedelta(seconds=30)
    return {
        "plan": plan.slug, "currency": "USD", "monthly_fee": "10", "included_amount": "5", "overage": ALL, "reason": "because",
        "starts_at_0": f"{now:%Y-%m-%d}", "starts_at_1": f"{now:%H:%M:%S}",
    }  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_every_table_has_a_page_and_a_form(operator, table):
    assert operator.get(f"/admin/billing/{table}/").status_code == 200
    assert operator.get(f"/admin/billing/{table}/add/").status_code == 200


@pytest.mark.parametrize("table", TABLES)
def test_nothing_is_changed_or_removed(operator, table, alice):
    from django.apps import apps

    with as_operator():
        pk = apps.get_model("billing", table).objects.first().pk
    for page, expected in (("change", 403), ("delete", 403)):
        assert operator.post(f"/admin/billing/{table}/{pk}/{page}/", {"post": "yes", "name": "x"}).status_code == expected
    assert operator.get(f"/admin/billing/{table}/{pk}/change/").status_code == 200


def test_a_price_is_added_with_who_and_why(add, price, public_model):
    from billing.models import PriceVersion

    assert add("priceversion", model=f"catalog/{public_model.name}", **price) == {}

    with as_operator():
        row = PriceVersion.objects.get(model_id=public_model.id)
    assert row.actor.startswith("operator usr_")
    assert (row.reason, row.name, str(row.call_price)) == ("because", f"catalog/{public_model.name}", "0.001000000")


def test_a_price_of_one_organization(add, price, alice, public_model, private_model):
    from billing.models import PriceVersion

    slug = alice.organization.slug
    assert add("priceversion", model=f"catalog/{public_model.name}", organization=slug, **price) == {}
    assert add("priceversion", model=f"{slug}/own", **price) == {}
    assert add("priceversion", organization=slug, **price) == {}

    with as_operator():
        rows = PriceVersion.objects.filter(organization_id=alice.organization.id)
        assert {row.model_id for row in rows} == {public_model.id, private_model.id, None}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"call_price": "-1"}, "call_price"),
        ({"row_price": "9000001"}, "row_price"),
        ({"second_price": "0.0000000001"}, "second_price"),
        ({"call_price": "x"}, "call_price"),
        ({"currency": "XXX"}, "currency"),
        ({"reason": ""}, "reason"),
        ({"model": "catalog/nothing"}, "model"),
        ({"model": ""}, "model"),
        ({"organization": "nobody-at-all"}, "organization"),
        ({"starts_at_0": "2020-01-01", "starts_at_1": "00:00:00"}, "starts_at"),
        ({"starts_at_0": "x", "starts_at_1": "y"}, "starts_at"),
    ],
)
def test_a_wrong_price_is_refused_beside_its_field(add, price, public_model, wrong, field):
    from billing.models import PriceVersion

    assert field in add("priceversion", **({"model": f"catalog/{public_model.name}"} | price | wrong))

    with as_operator():
        assert not PriceVersion.objects.filter(model_id=public_model.id).exists()


def test_versions_of_a_plan_are_counted(add, version, plan):
    assert add("planversion", **version) == {}
    assert add("planversion", **version, rate="5") == {}

    with as_operator():
        rows = list(plan.versions.order_by("version").values_list("version", "rate", "reason"))
    assert rows == [(1, None, "because"), (2, 5.0, "because")]


def test_a_new_version_begins_as_the_last_one(operator, add, version, plan):
    add("planversion", **version, burst="7")

    form = operator.get(f"/admin/billing/planversion/add/?plan={plan.slug}").context["adminform"].form

    assert (form.initial["burst"], form.initial["plan"]) == (7, plan.slug)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"monthly_fee": "-1"}, "monthly_fee"),
        ({"monthly_fee": "9000001"}, "monthly_fee"),
        ({"currency": "XXX"}, "currency"),
        ({"included_calls": "-1"}, "included_calls"),
        ({"rate": "0"}, "rate"),
        ({"retention_hours": "0"}, "retention_hours"),
        ({"starts_at_0": "2020-01-01", "starts_at_1": "00:00:00"}, "starts_at"),
        ({"overage": "{}"}, "overage"),
        ({"overage": "[1]"}, "overage"),
        ({"overage": '[{"up_to": null}]'}, "overage"),
        ({"overage": '[{"up_to": "1", "rate": "1"}]'}, "overage"),
        ({"overage": '[{"up_to": "5", "rate": "1"}, {"up_to": "4", "rate": "1"}, {"up_to": null, "rate": "1"}]'}, "overage"),
        ({"overage": '[{"up_to": null, "rate": "-1"}]'}, "overage"),
        ({"overage": '[{"up_to": null, "rate": 1}]'}, "overage"),
        ({"overage": "nonsense"}, "overage"),
    ],
)
def test_a_wrong_version_is_refused_beside_its_field(add, version, plan, wrong, field):
    assert field in add("planversion", **(version | wrong))

    with as_operator():
        assert not plan.versions.exists()


def test_an_organization_is_put_on_a_version(add, alice, version, plan):
    from billing.sale.models import current_subscription

    add("planversion", **version, rate="42")
    with as_operator():
        wanted = plan.versions.get()

    assert add("subscription", slug=alice.organization.slug, plan_version=wanted.pk, reason="asked for it") == {}

    with as_operator():
        current = current_subscription(alice.organization)
    assert (current.plan_version_id, current.reason) == (wanted.pk, "asked for it")
    assert current.actor.startswith("operator usr_")


def test_a_charged_organization_keeps_its_currency(add, alice, version, plan):
    from inference.books import accounts

    accounts.shared_client().hset(f"account:{alice.organization.id.hex}", "nano:ever:", 1)
    add("planversion", **(version | {"currency": "EUR"}))
    with as_operator():
        wanted = plan.versions.get()

    refused = add("subscription", slug=alice.organization.slug, plan_version=wanted.pk, reason="x")

    assert "USD" in json.dumps(refused)


def test_nobody_has_a_plan_who_is_not_there(add):
    assert "slug" in add("subscription", slug="nobody-at-all", plan_version="1", reason="x")
