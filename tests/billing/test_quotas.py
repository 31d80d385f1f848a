"""Monthly numbers of calls: from PostgreSQL into the accounts, in order, whatever fails."""

from contextlib import closing
from datetime import timedelta

import pytest
import redis
from django.utils import timezone

from billing.caps import quotas
from billing.ledger import rebuild, writing
from inference.books import accounts
from saas.lib.errors import Unavailable
from saas.lib.valkey import sync_client
from tenants.models import ApiKey, Organization
from tenants.scope import tenant_scope


@pytest.fixture
def connection(embedded):
    with closing(writing.connect()) as connection:
        yield connection


@pytest.fixture
def broken_state(monkeypatch):
    """The state server cannot be reached."""
    monkeypatch.setattr(accounts, "shared_client", lambda: sync_client("unix:///nowhere.sock"))


def set_quota(organization, calls, as_role) -> None:
    as_role("ops").execute("UPDATE tenants_organization SET monthly_calls = %s WHERE id = %s", [calls, str(organization.id)])


def test_a_new_organization_has_an_account(make_organization):
    account = accounts.read(make_organization().id.hex)

    assert account.sums == {}
    assert account.limits.organization_calls is None


def test_a_quota_is_in_the_account_when_it_was_set(make_organization, make_key):
    organization = make_organization()
    key, _ = make_key(organization, monthly_calls=7)

    assert accounts.read(organization.id.hex).limits.key_calls == {key.id.hex: 7}

    with tenant_scope(organization.id):
        from tenants import keys
        from tenants.access import SYSTEM

        keys.change(key, actor=SYSTEM, monthly_calls=None)
    assert accounts.read(organization.id.hex).limits.key_calls == {}


def test_a_change_by_any_hand_is_projected_by_the_bookkeeper(make_organization, connection, as_role):
    organization = make_organization()
    set_quota(organization, 100, as_role)

    assert quotas.project_pending(connection) >= 1

    assert accounts.read(organization.id.hex).limits.organization_calls == 100
    assert quotas.project_pending(connection) == 0


def test_a_quota_that_cannot_hold_yet_is_not_confirmed_and_comes_later(make_organization, connection, as_role, monkeypatch):
    organization = make_organization()
    set_quota(organization, 5, as_role)
    with monkeypatch.context() as patched:
        patched.setattr(accounts, "shared_client", lambda: sync_client("unix:///nowhere.sock"))
        with pytest.raises(Unavailable):
            quotas.project_now(organization.id)
        with pytest.raises(redis.RedisError):
            quotas.project_pending(connection)
    assert accounts.read(organization.id.hex).limits.organization_calls is None

    quotas.project_pending(connection)

    assert accounts.read(organization.id.hex).limits.organization_calls == 5


def test_a_key_without_quota_is_made_while_the_state_server_is_away(make_organization, make_key, broken_state):
    key, _ = make_key(make_organization())

    assert key.monthly_calls is None


def test_an_older_quota_never_overwrites(make_organization, connection, as_role):
    organization = make_organization()
    set_quota(organization, 10, as_role)
    old = quotas.read_quota(connection, organization.id)
    set_quota(organization, 20, as_role)
    quotas.project_now(organization.id)

    accounts.set_limits(organization.id.hex, old.limits)

    assert accounts.read(organization.id.hex).limits.organization_calls == 20


def test_versions_follow_changes_and_nothing_else(make_organization, make_key, connection):
    organization = make_organization()
    key, _ = make_key(organization, monthly_calls=5)

    def version():
        return quotas.read_quota(connection, organization.id).limits.version

    first = version()
    with tenant_scope(organization.id):
        ApiKey.objects.of(organization).filter(id=key.id).update(name="other")
    assert version() == first
    with tenant_scope(organization.id):
        ApiKey.objects.of(organization).filter(id=key.id).update(monthly_calls=6)
    assert version() == first + 1


def test_an_unreasonable_quota_is_no_quota(make_organization, connection, as_role):
    organization = make_organization()
    set_quota(organization, 2**62, as_role)

    quotas.project_pending(connection)

    assert accounts.read(organization.id.hex).limits.organization_calls == accounts.LIMIT_MAX


def test_a_lost_account_comes_back_with_its_limits(make_organization, connection, as_role, state):
    organization = make_organization()
    set_quota(organization, 3, as_role)
    state.delete(f"account:{organization.id.hex}")
    quotas.project_pending(connection)

    assert rebuild.rebuild(connection, organization.id)

    assert accounts.read(organization.id.hex).limits.organization_calls == 3


def test_the_application_reads_the_quota_of_its_own_tenant_only(make_organization, as_role):
    mine, other = make_organization(monthly_calls=5), make_organization(monthly_calls=6)
    statement = "SELECT limits ->> 'limit:calls:month:' FROM limits_of(%s)"
    app = as_role("app", mine.id)
    found = []
    for organization in (mine, other):
        app.execute(statement, [str(organization.id)])
        found.append(app.fetchall())
    assert found == [[("5",)], []]

    nobody = as_role("app")
    nobody.execute(statement, [str(mine.id)])
    assert nobody.fetchall() == []


def test_a_quota_is_projected_from_within_a_transaction_of_another_tenant(make_organization, as_role):
    mine, other = make_organization(), make_organization()
    set_quota(other, 8, as_role)
    with tenant_scope(mine.id):
        quotas.project_now(other.id)

        assert [each.id for each in Organization.objects.all()] == [mine.id]

    assert accounts.read(other.id.hex).limits.organization_calls == 8


def test_keys_that_are_long_revoked_are_left_out(make_organization, make_key, connection):
    organization = make_organization()
    now, before, still = (make_key(organization, monthly_calls=5)[0] for _ in range(3))
    with tenant_scope(organization.id):
        ApiKey.objects.filter(id=now.id).update(revoked_at=timezone.now())
        ApiKey.objects.filter(id=before.id).update(revoked_at=timezone.now() - timedelta(hours=2))
        ApiKey.objects.filter(id=still.id).update(expires_at=timezone.now() - timedelta(hours=2))  # its owner may extend it

    assert set(quotas.read_quota(connection, organization.id).limits.key_calls) == {now.id.hex, still.id.hex}
