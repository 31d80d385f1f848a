"""GET /api/v1/limits"""

import time

import msgspec
import pytest

from inference.books import accounts
from inference.holders import holder_key
from saas.lib.valkey import sync_client
from tenants import records
from tenants.principal import holder_of_test_keys

URL = "/api/v1/limits"


@pytest.fixture
def organization(make_organization):
    return make_organization()


@pytest.fixture
def key(organization, make_key):
    """(key, text): 2 requests per second in a bucket of 10, 5 at once, 50 a month."""
    return make_key(organization, scopes=["limits:read"], rate=2.0, burst=10, concurrency=5, monthly_calls=50)


def test_what_was_not_used_is_all_left(organization, key, client_of):
    body = client_of(key[1]).get(URL).json()

    assert body["organization"]["rate"]["per_second"] == organization.rate
    assert body["organization"]["rate"]["left"] == organization.burst
    assert body["organization"]["monthly_calls"]["limit"] == 10_000  # of the plan Free, which ends with them
    assert body["organization"]["monthly_calls"]["used"] == 0
    assert body["key"]["id"] == key[0].shown_id
    assert body["key"]["rate"] == {"per_second": 2.0, "burst": 10, "left": 10, "full_in_seconds": 0.0}
    assert body["key"]["concurrency"] == {"limit": 5, "used": 0, "left": 5}
    quota = body["key"]["monthly_calls"]
    assert (quota["limit"], quota["used"], quota["left"]) == (50, 0, 50)
    assert quota["resets_at"] > time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    assert quota["resets_at"].endswith("-01T00:00:00Z")


def test_what_was_used_is_told(organization, key, client_of, lanes, state):
    holder, month = key[0].id.hex, time.strftime("%Y-%m", time.gmtime())
    soon, past = time.time() + 60, time.time() - 1  # nothing is refilled before `soon`, however long this takes
    stored = msgspec.msgpack.encode([0.5, soon, soon, "a gateway", 1, soon, "another", 1, soon, "a dead one", 1, past])
    lanes.set(holder_key(holder), stored)
    state.hset(f"account:{organization.id.hex}", mapping={f"calls:{month}:": 9, f"calls:{month}:{holder}": 7})

    body = client_of(key[1]).get(URL).json()

    assert body["key"]["rate"] == {"per_second": 2.0, "burst": 10, "left": 0, "full_in_seconds": 4.75}
    assert body["key"]["concurrency"]["left"] == 3
    assert body["key"]["monthly_calls"]["left"] == 43
    assert body["organization"]["monthly_calls"]["used"] == 9


def test_what_test_keys_share_is_told_beside_the_organizations_own(organization, key, client_of, lanes):
    soon = time.time() + 60  # nothing is refilled before
    lanes.set(holder_key(holder_of_test_keys(organization.id.hex)), msgspec.msgpack.encode([5.0, soon, soon, "g", 1, soon]))

    body = client_of(key[1]).get(URL).json()["organization"]

    assert body["test_keys"]["rate"] == {"per_second": 5.0, "burst": 10, "left": 5, "full_in_seconds": 1.0}
    assert body["test_keys"]["concurrency"] == {"limit": 2, "used": 1, "left": 1}
    assert body["concurrency"]["used"] == 0


@pytest.mark.parametrize(("quota", "limit"), [(None, 10_000), (20_000, 10_000), (5_000, 5_000)])
def test_calls_that_a_plan_ends_with_are_a_limit_like_a_quota(make_organization, make_key, client_of, state, quota, limit):
    organization = make_organization(monthly_calls=quota)
    _, text = make_key(organization, scopes=["limits:read"])
    ends = accounts.AccountLimits(quota, {}, 1000, included_calls=10_000)
    assert accounts.set_limits(organization.id.hex, ends)
    state.hset(f"account:{organization.id.hex}", f"calls:{time.strftime('%Y-%m', time.gmtime())}:", 4_990)

    calls = client_of(text).get(URL).json()["organization"]["monthly_calls"]

    assert (calls["limit"], calls["used"], calls["left"]) == (limit, 4_990, limit - 4_990)


def test_a_key_is_never_shown_more_than_its_organization_has(organization, make_key, client_of):
    _, text = make_key(organization, scopes=["limits:read"], rate=organization.rate * 10, burst=1)

    assert client_of(text).get(URL).json()["key"]["rate"]["per_second"] == organization.rate


def test_calls_of_an_unknown_account_are_unknown(organization, key, client_of, state):
    state.delete(f"account:{organization.id.hex}")

    assert client_of(key[1]).get(URL).json()["key"]["monthly_calls"]["left"] is None


def test_without_a_valkey_it_is_503(key, client_of, monkeypatch):
    monkeypatch.setattr(records, "client", lambda: sync_client("unix:///nowhere.sock"))
    response = client_of(key[1]).get(URL)
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    monkeypatch.undo()

    monkeypatch.setattr(accounts, "shared_client", lambda: sync_client("unix:///nowhere.sock"))
    assert client_of(key[1]).get(URL).status_code == 503


def test_who_may_not(client_of, organization, make_key):
    from rest_framework.test import APIClient

    assert APIClient().get(URL).status_code == 401
    assert client_of(make_key(organization, scopes=["usage:read"])[1]).get(URL).status_code == 403
