"""GET /api/v1/usage and /api/v1/usage/calls"""

import csv
import io
from datetime import UTC, datetime, timedelta

import pytest

from billing.ledger.drain import Drain
from inference.books import accounts
from inference.books.scripts import JOURNAL
from saas.lib.ids import uuid7
from saas.lib.valkey import sync_client
from tests.billing.journal import Journal, settle, usage

URL, CALLS = "/api/v1/usage", "/api/v1/usage/calls"


@pytest.fixture
def organization(make_organization):
    return make_organization()


@pytest.fixture
def reader(organization, make_key, client_of):
    return client_of(make_key(organization, name="reader", scopes=["usage:read"])[1])


@pytest.fixture
def record(organization, journal, state):
    """Put calls into the ledger."""

    def put(*many, **given):
        journal.add(*(many or [usage(organization.id, **given)]))
        settle(state, journal.name)

    return put


def test_it_adds_up_calls_by_day(reader, record, organization):
    now = datetime.now(UTC)
    record(usage(organization.id, rows=2, bytes_in=7), usage(organization.id, rows=3), usage(uuid7()))
    record(kind="reversed", nano=0)

    response = reader.get(URL)

    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"results", "as_of", "from", "to"}
    (row,) = body["results"]
    assert row["period"] in {now.date().isoformat(), (now - timedelta(hours=1)).date().isoformat()}
    assert (row["calls"], row["reversed"], row["rows"], row["bytes_in"]) == (2, 1, 5, 107)
    assert (row["amount"], row["currency"]) == ("0.000000010", "USD")


def test_it_groups_by_model_key_version_and_mode(reader, record, organization, make_key):
    key, _ = make_key(organization, name="loader")
    iris, digits = uuid7().hex, uuid7().hex
    of_iris = {"key": key.id.hex, "model": iris, "version": uuid7().hex}
    record(
        usage(organization.id, **of_iris),
        usage(organization.id, **of_iris),
        usage(organization.id, key="", model=digits, model_name="catalog/digits", version_number="2.0.0", mode="test"),
    )

    rows = reader.get(URL, {"group_by": "model,key,version,mode", "granularity": "month"}).json()["results"]

    by_model = {row["model"]: row for row in rows}
    assert set(by_model) == {"catalog/iris", "catalog/digits"}
    one, other = by_model["catalog/iris"], by_model["catalog/digits"]
    assert (one["calls"], other["calls"]) == (2, 1)
    assert (one["key"], one["key_id"], one["key_name"]) == (key.public_id, key.shown_id, "loader")
    assert (one["version"], one["mode"], one["model_id"]) == ("1.0.0", "live", f"mdl_{iris}")
    assert (other["key"], other["key_id"], other["mode"]) == (None, None, "test")
    assert len(one["period"]) == len("2026-11")


def test_hours_and_a_range(reader, record, organization):
    now = datetime.now(UTC).replace(minute=30, second=0, microsecond=0)
    for hours in (0, 1, 5):
        record(opened_ms=int((now - timedelta(hours=hours)).timestamp() * 1000))
    start = (now - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    end = now.strftime("%Y-%m-%dT%H:00:00Z")

    rows = reader.get(URL, {"granularity": "hour", "from": start, "to": end}).json()["results"]

    assert [row["period"] for row in rows] == [(now - timedelta(hours=1)).strftime("%Y-%m-%dT%H:00:00Z")]


def test_a_date_as_end_includes_its_day(reader, record):
    record()
    today = datetime.now(UTC).date()

    rows = reader.get(URL, {"from": (today - timedelta(days=1)).isoformat(), "to": today.isoformat()}).json()["results"]

    assert sum(row["calls"] for row in rows) == 1


@pytest.mark.parametrize("way", ["?format=csv&group_by=model,key", "?group_by=model,key"])
def test_csv(reader, record, organization, make_key, way, state):
    settle(state, JOURNAL)  # until it is rolled up for the first time nobody knows until when the hours are complete
    key, _ = make_key(organization, name="=SUM(A1)")
    record(key=key.id.hex)

    response = reader.get(URL + way, HTTP_ACCEPT="*/*" if "format" in way else "text/csv")

    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/csv")
    assert response["X-As-Of"]
    (row,) = csv.DictReader(io.StringIO(response.content.decode()))
    assert (row["model"], row["calls"], row["key"], row["key_name"]) == ("catalog/iris", "1", key.public_id, "'=SUM(A1)")


def test_the_format_in_the_query_goes_before_the_header(reader):
    assert reader.get(URL, {"format": "csv"}, HTTP_ACCEPT="application/json")["Content-Type"].startswith("text/csv")
    assert reader.get(URL, {"format": "json"}, HTTP_ACCEPT="text/csv")["Content-Type"] == "application/json"


def test_a_format_that_there_is_not_is_refused_only_to_those_who_may_ask(client_of):
    assert client_of(None).get(URL, {"format": "xml"}).status_code == 401


def test_csv_of_nothing_has_a_head(reader):
    response = reader.get(URL, {"format": "csv"})

    assert response.content.decode().startswith("period,calls,reversed,rows,")
    assert response.content.decode().count("\r\n") == 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"group_by": "colour"}, "group_by"),
        ({"format": "xml"}, "format"),
        ({"granularity": "second"}, "granularity"),
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-13-01"}, "to"),
        ({"to": "2026-11-21T25:00:00Z"}, "to"),
        ({"from": "2026-11-20", "to": "2026-11-01"}, "from"),
        ({"from": "2026-01-01", "to": "2026-11-01", "granularity": "hour"}, "from"),
        ({"from": "0001-01-01"}, "from"),
        ({"to": "9999-12-31"}, "to"),
        ({"to": "0001-01-01"}, "to"),
    ],
    ids=str,
)
def test_a_question_that_makes_no_sense_names_its_field(reader, query, field):
    response = reader.get(URL, query)

    assert response.status_code == 422
    assert response.json()["code"] == "validation_failed"
    assert field in [error["field"] for error in response.json()["errors"]]


def test_a_wrong_question_about_csv_is_a_problem_too(reader):
    response = reader.get(URL, {"format": "csv", "group_by": "x"})

    assert response.status_code == 422
    assert response["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("url", [URL, CALLS])
def test_without_a_key_nothing_is_told(client_of, url):
    from rest_framework.test import APIClient

    assert APIClient().get(url).status_code == 401


@pytest.mark.parametrize("url", [URL, CALLS])
def test_a_key_needs_the_scope(organization, make_key, client_of, url):
    response = client_of(make_key(organization, scopes=["models:read"])[1]).get(url)

    assert response.status_code == 403
    assert response.json()["code"] == "scope_missing"


@pytest.mark.parametrize("url", [URL, CALLS])
def test_a_stranger_sees_nothing(record, make_organization, make_key, client_of, url):
    record()
    stranger = client_of(make_key(make_organization(), scopes=["usage:read"])[1])

    assert stranger.get(url).json()["results"] == []


def test_the_number_of_queries_does_not_grow(reader, record, organization, make_key, django_assert_num_queries):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    def count():
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert reader.get(URL, {"group_by": "model,key,version,mode"}).status_code == 200
        return len(queries)

    record(key=make_key(organization)[0].id.hex)
    first = count()
    record(*(usage(organization.id, key=make_key(organization)[0].id.hex) for _ in range(10)))

    assert count() == first


def test_as_of_is_now_when_the_journal_is_empty_and_the_oldest_entrys_time_when_not(reader, state):
    settle(state, JOURNAL)
    before = datetime.now(UTC)
    as_of = datetime.fromisoformat(reader.get(URL).json()["as_of"])
    assert before - timedelta(seconds=2) < as_of <= datetime.now(UTC)

    waiting = Journal(state, JOURNAL).add(usage(uuid7()))
    as_of = datetime.fromisoformat(reader.get(URL).json()["as_of"])
    written = datetime.fromtimestamp(int(waiting.partition("-")[0]) / 1000, UTC)
    settle(state, JOURNAL)

    assert as_of == written - timedelta(seconds=1)


def test_as_of_without_the_state_server_is_what_the_ledger_holds(reader, state, monkeypatch):
    last = Journal(state, JOURNAL).add(usage(uuid7()))
    settle(state, JOURNAL)
    monkeypatch.setattr(accounts, "shared_client", lambda: sync_client("unix:///nowhere.sock"))

    as_of = datetime.fromisoformat(reader.get(URL).json()["as_of"])

    assert as_of == datetime.fromtimestamp(int(last.partition("-")[0]) / 1000, UTC)


def test_as_of_waits_for_the_roll_up(reader, state):
    journal, drain = Journal(state, JOURNAL), Drain(state)
    rolled = journal.add(usage(uuid7()))
    settle(state, JOURNAL)
    journal.add(usage(uuid7()))
    while drain.step():
        pass

    as_of = datetime.fromisoformat(reader.get(URL).json()["as_of"])

    assert as_of == datetime.fromtimestamp(int(rolled.partition("-")[0]) / 1000, UTC) - timedelta(seconds=1)
    settle(state, JOURNAL)
    assert datetime.fromisoformat(reader.get(URL).json()["as_of"]) > as_of


def test_single_calls_newest_first_page_by_page(reader, record, organization, make_key):
    key, _ = make_key(organization)
    mine = [usage(organization.id, key=key.id.hex if n % 2 else uuid7().hex, request_id=f"r{n}") for n in range(5)]
    record(*mine)
    day = datetime.fromtimestamp(mine[0].opened_ms / 1000, UTC).date().isoformat()
    expected = [f"call_{call}" for call in sorted((r.call for r in mine), reverse=True)]

    first = reader.get(CALLS, {"limit": 3, "day": day}).json()
    second = reader.get(first["next"]).json()

    assert [call["id"] for call in first["results"] + second["results"]] == expected
    assert second["next"] is None
    of_key = reader.get(CALLS, {"key": key.public_id, "day": day}).json()["results"]
    assert {call["request_id"] for call in of_key} == {"r3", "r1"}  # made in one millisecond, their order is chance
    (only,) = reader.get(CALLS, {"request_id": "r2", "day": day, "model": "catalog/iris"}).json()["results"]
    assert (only["rows"], only["kind"], only["version"], only["key"]) == (1, "usage", "1.0.0", None)
    assert reader.get(CALLS, {"key": "nobody", "day": day}).json()["results"] == []
    assert reader.get(CALLS, {"day": "2020-01-01"}).json()["results"] == []


@pytest.mark.parametrize(
    "query",
    [{"limit": "0"}, {"limit": "many"}, {"limit": "101"}, {"day": "today"}, {"cursor": "x"}],
    ids=str,
)
def test_a_wrong_page_names_its_field(reader, query):
    response = reader.get(CALLS, query)

    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == list(query)
