"""Accounts from outside the hot path: their limits, their sums, and how they are made anew.

An account is one hash per organization on the state server (prelude.lua). Tenants and keys are 32 hexadecimal digits. All
functions take the organization first, raise redis.RedisError when the state server does not answer, and use one shared client
unless they are given another.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import redis
from django.conf import settings

from inference.books.scripts import JOURNAL, KEPT_FROM, LIMITS, REBUILD, TRIMMED, WANTED, account_key, limits_key
from saas.lib.valkey import sync_client

LIMIT_MAX = 9_000_000 * 10**9  # exact in Lua's numbers, which are doubles: below 2^53
READ_MOST = 20_000  # journal records and open calls that one rebuild reads; it holds the server up for some 100 ms then
ORGANIZATION = "organization"

Sums = Mapping[tuple[str, str], tuple[int, int]]
"""(scope, period) → (calls, nano). The scope is a key or "organization", the period `2026-11` or `ever`."""


class AccountLimits(NamedTuple):
    """Monthly numbers of calls as of `version`; None: no limit."""

    organization_calls: int | None
    key_calls: Mapping[str, int]
    version: int


class Account(NamedTuple):
    """What an account holds; `limits` as its fields are named, without the leading `limit:`."""

    sums: dict[tuple[str, str], tuple[int, int]]
    limits: AccountLimits


class MonthlyCalls(NamedTuple):
    """Of a month: calls `used`, those under way included, of `limit`; None: no limit."""

    used: int
    limit: int | None


@lru_cache(maxsize=1)
def shared_client() -> redis.Redis:
    """This process's own client of STATE_URL."""
    return sync_client(settings.CONFIG.state_url)


def set_limits(
    tenant: str,
    organization_calls: int | None,
    key_calls: Mapping[str, int],
    version: int,
    *,
    state: redis.Redis | None = None,
) -> bool:
    """Set all limits of an account at once; an older version never overwrites a newer one.

    True: they hold now. False: the account is unknown, and they wait beside it until it is rebuilt.
    ValueError for a limit that is negative or too large to be exact.
    """
    return _run_limits("set", tenant, AccountLimits(organization_calls, key_calls, version), state)


def create(tenant: str, *, state: redis.Redis | None = None) -> None:
    """The empty account of a new organization. For one that may have calls already, `install` is right instead."""
    _run_limits("create", tenant, AccountLimits(None, {}, 0), state)


def read(tenant: str, *, state: redis.Redis | None = None) -> Account | None:
    """What the account holds now, open calls at their maximum; None if it is unknown. Old months may or may not be there."""
    fields: Any = (state or shared_client()).hgetall(account_key(tenant))  # redis-py cannot tell that these are bytes
    if b"limits_version" not in fields:
        return None
    sums: dict[tuple[str, str], list[int]] = {}
    organization_calls, key_calls = None, {}
    for name, value in fields.items():
        kind, *rest = name.decode().split(":")
        if kind == "limit" and rest[:2] == ["calls", "month"]:
            if rest[2]:
                key_calls[rest[2]] = int(value)
            else:
                organization_calls = int(value)
        elif kind in ("calls", "nano"):
            period, key = rest
            sums.setdefault((key or ORGANIZATION, period), [0, 0])[kind == "nano"] = int(value)
    limits = AccountLimits(organization_calls, key_calls, int(fields[b"limits_version"]))
    return Account({scope: (calls, nano) for scope, (calls, nano) in sums.items()}, limits)


def monthly_calls(
    tenant: str, period: str, scopes: Sequence[str], *, state: redis.Redis | None = None
) -> list[MonthlyCalls] | None:
    """The calls of `period` of each scope (ORGANIZATION or a key), and nothing else of the account; None if it is unknown."""
    names = ["" if scope == ORGANIZATION else scope for scope in scopes]
    fields = [field for name in names for field in (f"calls:{period}:{name}", f"limit:calls:month:{name}")]
    found: Any = (state or shared_client()).hmget(account_key(tenant), ["limits_version", *fields])  # as in read
    if found[0] is None:
        return None
    pairs = zip(found[1::2], found[2::2], strict=True)
    return [MonthlyCalls(int(used or 0), None if limit is None else int(limit)) for used, limit in pairs]


def kept_from(*, state: redis.Redis | None = None) -> str:
    """The oldest month of which accounts keep sums (pruning.py); "" if all are kept."""
    oldest: Any = (state or shared_client()).get(KEPT_FROM)  # as in read
    return (oldest or b"").decode()


def wanted(*, state: redis.Redis | None = None) -> list[str]:
    """Organizations whose calls met an unknown account."""
    tenants: Any = (state or shared_client()).smembers(WANTED)  # as in read
    return sorted(tenant.decode() for tenant in tenants)


def install(
    tenant: str,
    sums: Sums,
    limits: AccountLimits,
    position: str,
    *,
    most: int = READ_MOST,
    state: redis.Redis | None = None,
) -> bool:
    """Make the account anew: `sums` of the ledger as of `position`, and what the journal and the open calls add to them.

    Limits that were set meanwhile with a newer version stay. False: the journal was trimmed past `position`, or more than
    `most` records are left to add; take a new snapshot and start over.
    """
    return _run_rebuild("install", tenant, sums, limits, position, most, state) == 1


def compare(
    tenant: str, sums: Sums, position: str, *, most: int = READ_MOST, state: redis.Redis | None = None
) -> dict[str, tuple[int, int]] | None:
    """Check the account against ledger + journal + open: field → (as it is, as it should be), where they differ.

    Empty: exact. None: it cannot be told from this snapshot, as with `install`.
    """
    reply = _run_rebuild("compare", tenant, sums, AccountLimits(None, {}, 0), position, most, state)
    if not isinstance(reply, list):
        return None
    fields = iter(reply)
    return {name.decode(): (int(there), int(right)) for name, there, right in zip(fields, fields, fields, strict=True)}


def _run_limits(mode: str, tenant: str, limits: AccountLimits, state: redis.Redis | None) -> bool:
    keys = [account_key(tenant), limits_key(tenant)]
    reply = LIMITS.run_sync(state or shared_client(), keys, [mode, limits.version, *_limit_fields(limits)])
    return bool(reply == 1)


def _run_rebuild(
    mode: str, tenant: str, sums: Sums, limits: AccountLimits, position: str, most: int, state: redis.Redis | None
) -> object:
    fields: list[str | int] = []
    for (scope, period), (calls, nano) in sums.items():
        name = f"{period}:{'' if scope == ORGANIZATION else scope}"
        fields += (f"calls:{name}", calls, f"nano:{name}", nano)
    arguments = [mode, tenant, position, most, limits.version, len(fields) // 2, *fields, *_limit_fields(limits)]
    keys = [account_key(tenant), limits_key(tenant), JOURNAL, TRIMMED]
    return REBUILD.run_sync(state or shared_client(), keys, arguments)


def _limit_fields(limits: AccountLimits) -> list[str | int]:
    fields: list[str | int] = []
    whole = {} if limits.organization_calls is None else {"": limits.organization_calls}
    for key, calls in {**whole, **limits.key_calls}.items():
        if not 0 <= calls <= LIMIT_MAX:
            raise ValueError(f"a limit lies between 0 and {LIMIT_MAX}, not at {calls}")
        fields += (f"limit:calls:month:{key}", calls)
    return fields
