"""The form of keys and their check, and what reaches gateways when something about them changes."""

import string
import time
from datetime import timedelta

import msgspec
import pytest
from django.utils import timezone

from saas.lib.crypto import Tampered
from saas.lib.errors import ApiKeyInvalid
from tenants import actions, events, keys, records, tasks
from tenants.crypto import add_data_key, current_data_key, ring, seal_for, unseal_for
from tenants.databases import as_operator
from tenants.models import DataKey
from tenants.principal import TEST_LIMITS, unpack_key
from tenants.scope import tenant_scope


def relay_all():
    while records.relay():
        pass


def test_a_key_has_the_documented_form(make_organization, make_key):
    key, text = make_key(make_organization())

    assert len(text) == 61
    assert text.startswith(f"maas_live_{key.public_id}_")
    assert set(text[-38:]) <= set(string.ascii_letters + string.digits)
    assert keys.parse(text) == key.public_id


@pytest.mark.no_servers
def test_a_changed_character_is_noticed_without_any_look_up():
    text = keys._new_text("live")[1]
    assert keys.parse(text)
    for position in range(len(text)):
        changed = text[:position] + ("0" if text[position] != "0" else "1") + text[position + 1 :]
        assert keys.parse(changed) is None
    for wrong in (
        "",
        "maas_live_",
        text[:-1],
        text + "0",
        text + "\n",
        f" {text}",
        text.upper(),
        "é" * 61,
        "maas_beta_" + text[10:],
    ):
        assert keys.parse(wrong) is None


def test_verify_refuses_another_secret_expiry_and_revocation(make_organization, make_key):
    key, text = make_key(make_organization())
    record = unpack_key(keys.load_key(key.public_id))
    keys.verify(record, text)

    for changed in (
        {"hash": bytes(32)},
        {"is_active": False},
        {"expires_at": time.time() - 1},
        {"pepper_version": 99},
    ):
        with pytest.raises(ApiKeyInvalid):
            keys.verify(msgspec.structs.replace(record, **changed), text)
    with pytest.raises(ApiKeyInvalid):
        keys.verify(record, keys._new_text("live")[1])


def test_an_operators_change_of_limits_reaches_gateways_and_the_books(alice, make_key, lanes):
    key = make_key(alice.organization)[0]
    told = []
    events.quota_changed.append(told.append)
    try:
        actions.set_organization_limits(alice.organization.id, rate=7.0, monthly_calls=50)
    finally:
        events.quota_changed.remove(told.append)
    relay_all()

    record = unpack_key(lanes.get(f"key:{key.public_id}"))
    assert (record.limits.rate, record.organization_limits.rate, record.is_capped) == (7.0, 7.0, True)
    assert told == [alice.organization.id]


def test_the_keys_of_a_closed_organization_are_refused(client_of, alice, make_key, lanes):
    made = [make_key(alice.organization) for _ in range(3)]
    text = made[0][1]
    actions.set_organization_limits(alice.organization.id, is_active=False)
    relay_all()

    assert [unpack_key(lanes.get(f"key:{key.public_id}")).is_active for key, _ in made] == [False] * 3
    assert client_of(text).get("/api/v1/me").status_code == 401
    assert client_of(alice).get("/api/v1/organization").status_code == 404


def test_a_data_key_is_replaced_when_it_is_old_and_the_old_one_still_opens(alice, make_key):
    organization_id = alice.organization.id
    sealed = seal_for(organization_id, b"payload", context=("prediction", "output", "1"))
    before = current_data_key(organization_id)
    tasks.rotate_data_keys()
    assert current_data_key(organization_id) == before
    with as_operator():
        DataKey.objects.filter(organization_id=organization_id).update(created_at=timezone.now() - timedelta(days=31))
    key = make_key(alice.organization)[0]
    tasks.rotate_data_keys()

    after = current_data_key(organization_id)
    assert after[0] != before[0]
    assert unpack_key(keys.load_key(key.public_id)).data_key_id == after[0]
    with tenant_scope(organization_id):
        assert unseal_for(organization_id, sealed, context=("prediction", "output", "1")) == b"payload"
        with pytest.raises(Tampered):
            unseal_for(organization_id, sealed, context=("prediction", "output", "2"))


def test_a_data_key_that_was_moved_to_another_organization_does_not_open(alice, charlie):
    sealed = seal_for(alice.organization.id, b"payload", context=("a", "b", "c"))
    with tenant_scope(charlie.organization.id), pytest.raises(DataKey.DoesNotExist):
        unseal_for(charlie.organization.id, sealed, context=("a", "b", "c"))
    identity, wrapped = current_data_key(alice.organization.id)
    with pytest.raises(Tampered):
        ring().unwrap(wrapped, tenant=charlie.organization.id.hex, data_key_id=identity)
    with tenant_scope(alice.organization.id):
        assert add_data_key(alice.organization.id).retired_at is None
        assert DataKey.objects.filter(retired_at=None).count() == 1


def test_test_keys_have_no_more_than_the_limits_of_test_keys_whatever_their_owner_sets(make_organization, make_key):
    organization = make_organization()
    key = make_key(organization, mode="test", rate=1000.0, burst=1000, concurrency=1000)[0]

    record = unpack_key(keys.load_key(key.public_id))

    assert (record.limits, record.organization_limits) == (TEST_LIMITS, TEST_LIMITS)


def test_all_test_keys_of_an_organization_share_one_holder_which_is_not_that_of_its_live_keys(make_organization, make_key):
    organization = make_organization()

    def holder(**values):
        return unpack_key(keys.load_key(make_key(organization, **values)[0].public_id)).shared_holder

    live, first, second = holder(), holder(mode="test"), holder(mode="test")

    assert first == second != live == organization.id.hex
