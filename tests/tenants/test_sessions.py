"""Sessions are kept under a hash of what their holders present."""

import importlib
from datetime import timedelta
from inspect import iscoroutinefunction

import pytest
from django.contrib.sessions.backends import db
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.models import Session
from django.db import connections
from django.test import Client
from django.utils import timezone

from tenants.sessions import SessionStore, kept
from tests.tenants.test_signup import sign_up


@pytest.fixture
def store():
    store = SessionStore()
    store["who"] = "alice"
    store.create()
    store["who"] = "alice"
    store.save()
    return store


def rows(*keys):
    return set(Session.objects.filter(session_key__in=keys).values_list("session_key", flat=True))


def test_a_token_is_nowhere_in_the_table_and_what_stands_there_is_no_token(email, address):
    token = sign_up(Client(), email, address).json()["meta"]["session_token"]

    with connections["owner"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM django_session AS s WHERE position(%s in s::text) > 0", [token])
        assert cursor.fetchone() == (0,)
    assert rows(token, kept(token)) == {kept(token)}
    assert Client().get("/api/v1/me", headers={"X-Session-Token": token}).status_code == 200
    assert Client().get("/api/v1/me", headers={"X-Session-Token": kept(token)}).status_code == 401


def test_what_was_saved_is_loaded_by_who_holds_the_key(store):
    assert SessionStore(store.session_key)["who"] == "alice"
    assert SessionStore().exists(store.session_key)
    assert not SessionStore().exists(kept(store.session_key))


def test_an_expired_one_is_not_loaded(store):
    Session.objects.filter(session_key=kept(store.session_key)).update(expire_date=timezone.now() - timedelta(seconds=1))

    found = SessionStore(store.session_key)

    assert found.get("who") is None
    assert found.session_key is None


def test_a_key_is_replaced_and_ended(store):
    before = store.session_key
    store.cycle_key()
    assert rows(kept(before), kept(store.session_key)) == {kept(store.session_key)}
    assert SessionStore(store.session_key)["who"] == "alice"

    SessionStore(store.session_key).flush()

    assert rows(kept(store.session_key)) == set()


def test_no_asynchronous_method_of_djangos_looks_up_the_plain_key():
    asynchronous = {name for name, value in vars(db.SessionStore).items() if iscoroutinefunction(value)}
    within = {"_aget_session_from_db", "acreate_model_instance"}  # used by the others only

    assert asynchronous - within == {name for name in vars(SessionStore) if name in vars(SessionBase) and name[0] == "a"}


def test_the_migration_keeps_those_that_are_there(store):
    plain = "k" * 32
    Session.objects.filter(session_key=kept(store.session_key)).update(session_key=plain)
    migration = importlib.import_module("tenants.migrations.0005_hashed_sessions")

    with connections["owner"].cursor() as cursor:
        cursor.execute(f"{migration.HASH} WHERE session_key = %s", [plain])

    assert SessionStore(plain)["who"] == "alice"
