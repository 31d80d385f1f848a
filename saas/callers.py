"""Who makes a management request, as far as that is proved: it decides about turns, before a thread looks at the request.

A key or a session is told in the head, but anybody can write one there. It counts from when Django has accepted it, or a call
has proved it in this process. All others are told apart by where they come from, so that making up keys gains nothing.
"""

import asyncio
import hashlib
import ipaddress
import time
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple

from django.conf import settings
from django.http import parse_cookie
from django.utils.datastructures import CaseInsensitiveMapping

from saas.lib.errors import AppError
from tenants.authentication import presented_key
from tenants.principal import KeyRecord

Scope = MutableMapping[str, Any]  # Any: as ASGI says
Known = Callable[[str], KeyRecord | None]
"""The record behind a presented key, if memory has it. Raises AppError where the key is none."""

REMEMBERED = 50_000  # credentials; the oldest go first
REMEMBERED_SECONDS = 600.0  # a session that ended or a key that was revoked meanwhile has its turns a little longer, no more
PREFIX_V6 = 64  # bits that a network gives to one customer at least


class Caller(NamedTuple):
    """`name`: an organization, a user or an address. A stranger has proved nothing."""

    name: str
    is_stranger: bool


class Callers:
    """Of one process."""

    def __init__(self) -> None:
        self._accepted: dict[bytes, tuple[str, float]] = {}  # by credential's digest: who, and until when that counts

    def of(self, scope: Scope, known: Known) -> Caller:
        """Who asks. From now on `scope["accepted"]` takes the name of who its credential turns out to be, in any thread."""
        key, session = _presented(scope)
        credential = key or session
        if credential:
            digest = hashlib.sha256(credential.encode()).digest()
            loop = asyncio.get_running_loop()
            scope["accepted"] = lambda name: loop.call_soon_threadsafe(self._accept, digest, name)
            name, until = self._accepted.get(digest, ("", 0.0))
            if until > time.monotonic():
                return Caller(name, False)
        try:
            record = known(key) if key else None
        except AppError:
            record = None
        if record is not None:
            return Caller(organization(record.organization), False)
        return Caller(place_of(scope["client"][0] if scope.get("client") else ""), True)

    def _accept(self, digest: bytes, name: str) -> None:
        self._accepted.pop(digest, None)
        self._accepted[digest] = (name, time.monotonic() + REMEMBERED_SECONDS)
        if len(self._accepted) > REMEMBERED:
            del self._accepted[next(iter(self._accepted))]


def organization(hex_id: str) -> str:
    return f"organization {hex_id}"


def place_of(address: str) -> str:
    """An address of IPv4, a network of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return f"address {address}"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return f"address {ipaddress.ip_network((parsed, PREFIX_V6), strict=False)}"
        parsed = parsed.ipv4_mapped
    return f"address {parsed}"


def _presented(scope: Scope) -> tuple[str, str]:
    """(key, session) as the head has them, "" for none."""
    given = CaseInsensitiveMapping((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    cookie = parse_cookie(given.get("Cookie", "")).get(settings.SESSION_COOKIE_NAME)
    return presented_key(given) or "", given.get("X-Session-Token") or cookie or ""
