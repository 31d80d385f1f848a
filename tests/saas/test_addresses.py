"""Who asks, behind proxies that are trusted and others that are not."""

from types import SimpleNamespace
from unittest.mock import AsyncMock, Mock

import pytest
from django.conf import settings

from inference.gateway.targets import UNKNOWN
from saas.asgi import Application
from saas.exchanges import HotExchange
from saas.lib.addresses import client_of

pytestmark = pytest.mark.no_servers
PEER = "10.0.0.1"


def forwarded(*values):
    return [(b"Host", b"x"), *((b"X-Forwarded-For", value) for value in values)]


def test_without_trusted_proxies_nobody_can_write_where_he_is():
    assert client_of(PEER, forwarded(b"192.0.2.7"), 0) == PEER


@pytest.mark.parametrize(
    ("values", "proxies", "seen"),
    [
        ((b"192.0.2.7",), 1, "192.0.2.7"),
        ((b"6.6.6.6, 192.0.2.7",), 1, "192.0.2.7"),
        ((b"6.6.6.6", b"192.0.2.7"), 1, "192.0.2.7"),
        ((b"6.6.6.6, 192.0.2.7, 10.0.0.2",), 2, "192.0.2.7"),
        ((b"2001:db8::7",), 1, "2001:db8::7"),
    ],
)
def test_what_the_outermost_trusted_proxy_has_seen_counts(values, proxies, seen):
    assert client_of(PEER, forwarded(*values), proxies) == seen


@pytest.mark.parametrize("headers", [[], forwarded(b"192.0.2.7"), forwarded(b"")])
def test_who_did_not_come_through_all_of_them_is_where_it_connects_from(headers):
    assert client_of(PEER, headers, 2) == PEER


@pytest.fixture
def behind_one(monkeypatch):
    """Settings with one trusted proxy."""
    monkeypatch.setattr(settings, "CONFIG", settings.CONFIG.model_copy(update={"trusted_proxies": 1}))


def test_a_call_comes_from_there(behind_one):
    protocol = SimpleNamespace(client=(PEER, 4711), headers=forwarded(b"6.6.6.6, 192.0.2.7"))

    assert HotExchange(protocol, b"POST", b"/", UNKNOWN, keep_alive=True).address() == "192.0.2.7"


async def test_a_management_request_comes_from_there(behind_one):
    application = Application(settings.CONFIG)
    application._front, application._management = Mock(), Mock(answer=AsyncMock())
    scope = {"type": "http", "path": "/api/v1/keys", "raw_path": b"/api/v1/keys", "query_string": b"", "method": "GET"}

    await application(scope | {"client": (PEER, 4711), "headers": forwarded(b"192.0.2.7")}, AsyncMock(), AsyncMock())

    (asked, *_), _ = application._management.answer.call_args
    assert asked["client"] == ("192.0.2.7", 4711)
