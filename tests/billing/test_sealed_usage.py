"""From a bill to days, hours and calls: what is shown adds up to what was sealed."""

import csv
import io
from decimal import Decimal

import pytest

from billing.models import UsageSeal
from saas.lib.ids import shown
from tenants.scope import tenant_scope

URL, CALLS = "/api/v1/billing/usage", "/api/v1/billing/usage/calls"


@pytest.fixture
def reader(client_of, make_key, organization, calls):
    _, key = make_key(organization, scopes=["billing:read"])
    return client_of(key)


def hours_of(organization):
    with tenant_scope(organization.id):
        return {f"{row.hour:%Y-%m-%dT%H:00:00Z}": row for row in UsageSeal.objects.filter(tenant_id=organization.id)}


@pytest.mark.parametrize("granularity", ["hour", "day", "month"])
def test_each_level_adds_up_to_the_seals(reader, organization, price, month, calls, granularity):
    body = reader.get(URL, {"granularity": granularity, "month": str(month)}).json()

    charged = [call for call in calls if call.kind == "usage" and call.mode == "live"]
    assert sum(Decimal(row["amount"]) for row in body["results"]) * 10**9 == sum(
        row.amount_nano for row in hours_of(organization).values()
    )
    assert sum(row["calls"] for row in body["results"]) == len(charged)
    assert sum(row["rows"] for row in body["results"]) == sum(call.rows for call in charged)
    assert sum(row["compute_us"] for row in body["results"]) == sum(call.compute_us for call in charged)
    [total] = body["totals"]
    assert Decimal(total["amount"]) == sum(Decimal(row["amount"]) for row in body["results"])
    assert (total["calls"], total["currency"]) == (len(charged), "USD")
    assert total["rows"] == sum(call.rows for call in charged)
    assert {(row["price_version"], row["model_id"]) for row in body["results"]} == {
        (price.version, shown("mdl", price.model_id))
    }
    assert (
        len(body["results"])
        == {"hour": 3, "day": len({row["period"][:10] for row in body["results"]}), "month": 1}[granularity]
    )


def test_csv(reader, month):
    response = reader.get(URL, {"format": "csv", "granularity": "hour", "month": str(month)})

    rows = list(csv.DictReader(io.StringIO(response.content.decode())))
    assert len(rows) == 3
    assert rows[0]["model"] == "catalog/iris"


def test_calls_of_an_hour_come_page_by_page_each_once(reader, organization, calls):
    [*_, (hour, seal)] = hours_of(organization).items()
    found, following = [], f"{CALLS}?hour={hour}&limit=3"
    while following:
        body = reader.get(following).json()
        assert len(body["results"]) <= 3
        found += body["results"]
        following = body["next"]

    assert [row["call"] for row in found] == sorted(call.call for call in calls[10:])
    assert len(found) == seal.n
    assert sum(row["amount_nano"] for row in found) == seal.amount_nano
    assert all(Decimal(row["amount"]) * 10**9 == row["amount_nano"] for row in found)


def test_a_stranger_sees_nothing_of_it(client_of, charlie, organization, calls, month):
    [hour, *_] = hours_of(organization)

    assert client_of(charlie).get(URL, {"month": str(month)}).json()["results"] == []
    assert client_of(charlie).get(CALLS, {"hour": hour}).json() == {"results": [], "next": None}


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        (URL, {"month": "2026"}, "month"),
        (URL, {"granularity": "second"}, "granularity"),
        (CALLS, {"hour": "2026-11-26T04:30:00Z"}, "hour"),
        (CALLS, {"hour": "0001-01-01T00:00:00+05:00"}, "hour"),
        (CALLS, {"hour": "2026-11-26T04:00:00Z", "cursor": "1"}, "cursor"),
        (CALLS, {"hour": "2026-11-26T04:00:00Z", "cursor": "99999999999999999999-" + 32 * "0"}, "cursor"),
        (CALLS, {"hour": "2026-11-26T04:00:00Z", "limit": "1001"}, "limit"),
    ],
)
def test_a_question_that_makes_no_sense_names_its_field(client_of, alice, path, query, field):
    response = client_of(alice).get(path, query)

    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [field]
