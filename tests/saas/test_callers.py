"""Who makes a management request: only what is proved has turns of its own."""

import asyncio

import pytest

from saas.callers import Caller, Callers, place_of
from saas.lib.errors import ApiKeyInvalid
from tests.saas.serving import key_record
from tests.waiting import until_async

pytestmark = pytest.mark.no_servers
STRANGER = Caller("address 10.0.0.1", True)


def scope_of(**headers):
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"headers": sent, "client": ("10.0.0.1", 5)}


def known(presented):
    if presented == "invented":
        raise ApiKeyInvalid
    return key_record(organization="a" * 32) if presented == "alice" else None


async def test_a_key_that_calls_have_proved_is_its_organizations():
    callers = Callers()

    assert callers.of(scope_of(authorization="Bearer alice"), known) == Caller(f"organization {'a' * 32}", False)
    assert callers.of(scope_of(x_api_key="alice"), known) == Caller(f"organization {'a' * 32}", False)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer invented"},
        {"x_api_key": "never seen"},
        {"x_session_token": "invented"},
        {"cookie": "a=b; sessionid=invented"},
    ],
)
async def test_what_is_not_proved_is_where_it_comes_from(headers):
    assert Callers().of(scope_of(**headers), known) == STRANGER


@pytest.mark.parametrize("headers", [{"x_session_token": "s"}, {"cookie": "a=b; sessionid=s"}, {"x_api_key": "never seen"}])
async def test_what_django_has_accepted_counts_from_then_on(headers):
    callers, scope = Callers(), scope_of(**headers)
    assert callers.of(scope, known) == STRANGER

    await asyncio.to_thread(scope["accepted"], "user 1")

    await until_async(lambda: callers.of(scope_of(**headers), known) == Caller("user 1", False))
    assert callers.of(scope_of(x_session_token="another"), known) == STRANGER


async def test_what_was_accepted_is_forgotten_after_a_while(monkeypatch):
    monkeypatch.setattr("saas.callers.REMEMBERED_SECONDS", 0.0)
    callers, scope = Callers(), scope_of(cookie="sessionid=s")
    callers.of(scope, known)
    scope["accepted"]("user 1")
    await until_async(lambda: callers._accepted)

    assert callers.of(scope, known) == STRANGER


async def test_no_more_is_remembered_than_fits(monkeypatch):
    monkeypatch.setattr("saas.callers.REMEMBERED", 3)
    callers = Callers()
    for number in range(5):
        scope = scope_of(x_session_token=str(number))
        callers.of(scope, known)
        scope["accepted"](f"user {number}")
    await until_async(lambda: callers.of(scope_of(x_session_token="4"), known) == Caller("user 4", False))

    assert len(callers._accepted) == 3
    assert callers.of(scope_of(x_session_token="0"), known) == STRANGER


def test_addresses_of_one_network_are_one_place():
    assert place_of("2001:db8:1:2::1") == place_of("2001:db8:1:2:ffff::9") == "address 2001:db8:1:2::/64"
    assert place_of("2001:db8:1:3::1") != place_of("2001:db8:1:2::1")
    assert place_of("10.0.0.1") == place_of("::ffff:10.0.0.1") == "address 10.0.0.1"
    assert place_of("") == "address "
