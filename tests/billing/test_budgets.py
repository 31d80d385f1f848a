"""GET, PUT and DELETE /api/v1/billing/budgets."""

from uuid import UUID

import pytest

from inference.books import accounts
from saas.lib import clock
from saas.lib.ids import shown
from saas.lib.money import NANO
from saas.lib.valkey import sync_client
from tenants.keys import load_key
from tenants.models import AuditEvent
from tenants.principal import unpack_key
from tenants.scope import tenant_scope

URL = "/api/v1/billing/budgets"
OWN = f"{URL}/organization"
NOBODY = UUID("01980000-0000-7000-8000-000000000000")


@pytest.fixture
def owner(client_of, alice):
    return client_of(alice)


def put(client, url, amount):
    return client.put(url, {"amount": amount}, format="json")


def limits_of(organization) -> accounts.AccountLimits:
    return accounts.read(organization.id.hex).limits


def test_a_budget_holds_when_it_is_set(owner, alice):
    response = put(owner, OWN, "12.50")

    assert response.status_code == 200
    assert {name: response.json()[name] for name in ("scope", "key", "amount", "currency", "spent", "left")} == {
        "scope": "organization", "key": None, "amount": "12.50", "currency": "USD", "spent": "0.00", "left": "12.50",
    }  # fmt: skip
    assert limits_of(alice.organization).organization_nano == 12_500_000_000
    assert put(owner, OWN, "3").json()["amount"] == "3.00"
    assert limits_of(alice.organization).organization_nano == 3 * NANO
    assert [each["amount"] for each in owner.get(URL).json()["results"]] == ["3.00"]


def test_a_key_has_a_budget_of_its_own(owner, alice, make_key, state):
    key, _ = make_key(alice.organization)
    url = f"{URL}/{key.shown_id}"
    put(owner, OWN, "100")
    state.hset(f"account:{alice.organization.id.hex}", f"nano:{clock.now():%Y-%m}:{key.id.hex}", 2 * NANO)

    assert put(owner, url, "1.5").json()["left"] == "0.00"

    assert limits_of(alice.organization).key_nano == {key.id.hex: 1_500_000_000}
    found = owner.get(url).json()
    assert (found["scope"], found["key"], found["spent"]) == ("key", key.shown_id, "2.00")
    assert [each["key"] for each in owner.get(URL).json()["results"]] == [None, key.shown_id]


def test_a_removed_budget_limits_nothing(owner, alice):
    put(owner, OWN, "1")

    assert owner.delete(OWN).status_code == 204

    assert limits_of(alice.organization).organization_nano is None
    assert owner.get(OWN).status_code == owner.delete(OWN).status_code == 404


def test_gateways_learn_that_there_is_a_cap(owner, alice, make_key):
    from billing.sale import plans
    from tenants.access import SYSTEM

    plans.change(alice.organization.id, "pay-as-you-go", actor=SYSTEM)
    key, _ = make_key(alice.organization)
    test_key, _ = make_key(alice.organization, mode="test")
    assert not unpack_key(load_key(key.public_id)).is_capped

    put(owner, OWN, "1")

    assert unpack_key(load_key(key.public_id)).is_capped
    assert not unpack_key(load_key(test_key.public_id)).is_capped
    owner.delete(OWN)
    assert not unpack_key(load_key(key.public_id)).is_capped


def test_who_set_it_is_in_the_audit_log(owner, alice):
    put(owner, OWN, "1")
    owner.delete(OWN)

    with tenant_scope(alice.organization.id):
        events = list(AuditEvent.objects.of(alice.organization).filter(action__startswith="budget.").order_by("id"))
    assert [(event.action, event.actor, event.target) for event in events] == [
        (action, shown("usr", alice.id), alice.organization.shown_id) for action in ("budget.set", "budget.removed")
    ]


def test_a_budget_that_cannot_hold_yet_is_not_confirmed(owner, alice, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(accounts, "shared_client", lambda: sync_client("unix:///nowhere.sock"))
        assert put(owner, OWN, "1").status_code == 503

    owner.put(OWN, {"amount": "1"}, format="json")
    assert limits_of(alice.organization).organization_nano == NANO


@pytest.mark.parametrize("amount", ["-1", "", "1e3", "0.0000000001", "9000001", "NaN", 5, None, ["1"], {"a": 1}, "1,5", "१"])
def test_what_is_no_amount_is_refused(owner, amount):
    response = put(owner, OWN, amount)

    assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
    assert response.json()["errors"][0]["field"] == "amount"


@pytest.mark.parametrize("body", [{}, {"amount": "1", "currency": "EUR"}, [], "1"])
def test_another_body_is_refused(owner, body):
    assert owner.put(OWN, body, format="json").status_code in (400, 422)


@pytest.mark.parametrize("name", ["key_0", "organisation", shown("key", NOBODY), shown("org", NOBODY)])
def test_an_unknown_key_has_none(owner, name):
    for response in (put(owner, f"{URL}/{name}", "1"), owner.get(f"{URL}/{name}"), owner.delete(f"{URL}/{name}")):
        assert response.status_code == 404


def test_a_stranger_s_key_does_not_exist(owner, charlie, make_key):
    key, _ = make_key(charlie.organization)

    assert put(owner, f"{URL}/{key.shown_id}", "1").status_code == 404
    assert limits_of(charlie.organization).key_nano == {}


def test_only_who_may_bill_sees_and_sets_them(client_of, alice, join, make_user, make_key):
    assert client_of(None).get(URL).status_code == 401
    for role, seen, changed in [("billing", 200, 200), ("admin", 403, 403), ("developer", 403, 403), ("viewer", 403, 403)]:
        client = client_of(join(make_user(role), alice.organization, role))
        assert client.get(URL).status_code == seen
        assert put(client, OWN, "1").status_code == changed
    reader = client_of(make_key(alice.organization, scopes=["billing:read"])[1])
    assert (reader.get(URL).status_code, put(reader, OWN, "1").status_code) == (200, 403)
