"""Accounts from outside the hot path: their limits, their sums, and how they are made anew.

An account is one hash per organization on the state server (prelude.lua). Tenants and keys are 32 hexadecimal digits. All
functions take the organization first, raise redis.RedisError when the state server does not answer, and use one shared client
unless they are given another.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import redis
from django.conf import settings

from inference.books.scripts import JOURNAL, KEPT_FROM, LIMITS, REBUILD, TRIMMED, WANTED, account_key, limits_key
from saas.lib.money import MAX_NANO
from saas.lib.valkey import sync_client

LIMIT_MAX = MAX_NANO  # exact in Lua's numbers, which are doubles: below 2^53
READ_MOST = 20_000  # journal records and open calls that one rebuild reads; it holds the server up for some 100 ms then
ORGANIZATION = "organization"

Sums = Mapping[tuple[str, str], tuple[int, int]]
"""(scope, period) → (calls, nano). The scope is a key or "organization", the period `2026-11` or `ever`."""


class AccountLimits(NamedTuple):
    """All limits of an account as of `version`. None, and a key that is not named: no limit. Money in nano.

    Of a month: the quotas `…_calls`, the calls that the plan includes, the budgets `…_nano`. Ever: `credit_nano`.
    """

    organization_calls: int | None
    key_calls: Mapping[str, int]
    version: int
    included_calls: int | None = None
    organization_nano: int | None = None
    key_nano: Mapping[str, int] = MappingProxyType({})
    credit_nano: int | None = None

    def fields(self) -> dict[str, int]:
        """As an account has them. ValueError for a limit that is negative or too large to be exact."""
        single = {"calls:month:": self.organization_calls, "included:month:": self.included_calls}
        single |= {"nano:month:": self.organization_nano, "nano:ever:": self.credit_nano}
        fields = {f"limit:{name}": value for name, value in single.items() if value is not None}
        fields |= {f"limit:calls:month:{key}": calls for key, calls in self.key_calls.items()}
        fields |= {f"limit:nano:month:{key}": nano for key, nano in self.key_nano.items()}
        for value in fields.values():
            if not 0 <= value <= LIMIT_MAX:
                raise ValueError(f"a limit lies between 0 and {LIMIT_MAX}, not at {value}")
        return fields

    @classmethod
    def of_fields(cls, fields: Mapping[str, int], version: int) -> "AccountLimits":
        """The opposite of `fields`."""

        def keyed(kind: str) -> dict[str, int]:
            names = [name for name in fields if name.startswith(f"limit:{kind}:month:") and not name.endswith(":")]
            return {name.rpartition(":")[2]: fields[name] for name in names}

        return cls(
            organization_calls=fields.get("limit:calls:month:"),
            key_calls=keyed("calls"),
            version=version,
            included_calls=fields.get("limit:included:month:"),
            organization_nano=fields.get("limit:nano:month:"),
            key_nano=keyed("nano"),
            credit_nano=fields.get("limit:nano:ever:"),
        )


NO_LIMITS = AccountLimits(None, {}, 0)


class Account(NamedTuple):
    """What an account holds."""

    sums: dict[tuple[str, str], tuple[int, int]]
    limits: AccountLimits


class MonthlyCalls(NamedTuple):
    """Of a month: calls `used`, those under way included, of `limit`; None: no limit."""

    used: int
    limit: int | None


class Cap(NamedTuple):
    """A limit that is set and the sum that it holds for, open calls included. `verdict` as in inference.books.batch."""

    verdict: str
    limit: int
    used: int

    @property
    def left(self) -> int:
        return max(0, self.limit - self.used)

    @property
    def is_money(self) -> bool:
        return self.verdict.startswith(("budget", "credit"))


# Verdict of a limit, its field without `limit:`, and the sum that it holds for.
_CAPS = (
    ("quota:organization", "calls:month:", "calls:{period}:"),
    ("included:organization", "included:month:", "calls:{period}:"),
    ("budget:organization", "nano:month:", "nano:{period}:"),
    ("credit:organization", "nano:ever:", "nano:ever:"),
    ("quota:key", "calls:month:{key}", "calls:{period}:{key}"),
    ("budget:key", "nano:month:{key}", "nano:{period}:{key}"),
)


@lru_cache(maxsize=1)
def shared_client() -> redis.Redis:
    """This process's own client of STATE_URL."""
    return sync_client(settings.CONFIG.state_url)


def set_limits(tenant: str, limits: AccountLimits, *, state: redis.Redis | None = None) -> bool:
    """Set all limits of an account at once; an older version never overwrites a newer one.

    True: they hold now. False: the account is unknown, and they wait beside it until it is rebuilt.
    ValueError for a limit that is negative or too large to be exact.
    """
    return bool(_run_limits("set", tenant, limits, state) == 1)


def lower_credit(
    tenant: str, limits: AccountLimits, *, settled: int, ending: int, state: redis.Redis | None = None
) -> int | None:
    """As `set_limits`, when credit of `ending` nano ends: what is charged beyond `settled` by then, at most that, it pays.

    So much is added to `credit_nano`, and from that moment no call opens on more. Returns what is charged, ever, in nano; None,
    and nothing is set, while the account is unknown.
    """
    arguments = ["lower", limits.version, settled, ending, *_flat(limits)]
    reply: Any = LIMITS.run_sync(state or shared_client(), [account_key(tenant), limits_key(tenant)], arguments)  # as in read
    return None if reply is None else int(reply)


def create(tenant: str, *, state: redis.Redis | None = None) -> None:
    """The empty account of a new organization. For one that may have calls already, `install` is right instead."""
    _run_limits("create", tenant, NO_LIMITS, state)


def read(tenant: str, *, state: redis.Redis | None = None) -> Account | None:
    """What the account holds now, open calls at their maximum; None if it is unknown. Old months may or may not be there."""
    fields: Any = (state or shared_client()).hgetall(account_key(tenant))  # redis-py cannot tell that these are bytes
    if b"limits_version" not in fields:
        return None
    sums: dict[tuple[str, str], list[int]] = {}
    limits: dict[str, int] = {}
    for field, value in fields.items():
        name = field.decode()
        kind, *rest = name.split(":")
        if kind == "limit":
            limits[name] = int(value)
        elif kind in ("calls", "nano"):
            period, key = rest
            sums.setdefault((key or ORGANIZATION, period), [0, 0])[kind == "nano"] = int(value)
    set_ = AccountLimits.of_fields(limits, int(fields[b"limits_version"]))
    return Account({scope: (calls, nano) for scope, (calls, nano) in sums.items()}, set_)


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


def caps(tenant: str, period: str, key: str = "", *, state: redis.Redis | None = None) -> list[Cap] | None:
    """The limits that a call of `key` ("": of nobody's) in `period` has to keep, in the order of books.lua; None: unknown."""
    those = [cap for cap in _CAPS if key or "{key}" not in cap[1]]
    names = [name.format(period=period, key=key) for _, limit, sum_ in those for name in (f"limit:{limit}", sum_)]
    found: Any = (state or shared_client()).hmget(account_key(tenant), ["limits_version", *names])  # as in read
    if found[0] is None:
        return None
    values = zip(those, found[1::2], found[2::2], strict=True)
    return [Cap(cap[0], int(limit), int(used or 0)) for cap, limit, used in values if limit is not None]


def charged(tenant: str, period: str, scopes: Sequence[str], *, state: redis.Redis | None = None) -> list[int] | None:
    """Nano that each scope (ORGANIZATION or a key) is charged in `period` (or `ever`), open calls included; None: unknown."""
    fields = [f"nano:{period}:{'' if scope == ORGANIZATION else scope}" for scope in scopes]
    found: Any = (state or shared_client()).hmget(account_key(tenant), ["limits_version", *fields])  # as in read
    return None if found[0] is None else [int(nano or 0) for nano in found[1:]]


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
    reply = _run_rebuild("compare", tenant, sums, NO_LIMITS, position, most, state)
    if not isinstance(reply, list):
        return None
    fields = iter(reply)
    return {name.decode(): (int(there), int(right)) for name, there, right in zip(fields, fields, fields, strict=True)}


def _run_limits(mode: str, tenant: str, limits: AccountLimits, state: redis.Redis | None) -> Any:  # Any: the script's reply
    keys = [account_key(tenant), limits_key(tenant)]
    return LIMITS.run_sync(state or shared_client(), keys, [mode, limits.version, *_flat(limits)])


def _run_rebuild(
    mode: str, tenant: str, sums: Sums, limits: AccountLimits, position: str, most: int, state: redis.Redis | None
) -> object:
    fields: list[str | int] = []
    for (scope, period), (calls, nano) in sums.items():
        name = f"{period}:{'' if scope == ORGANIZATION else scope}"
        fields += (f"calls:{name}", calls, f"nano:{name}", nano)
    arguments = [mode, tenant, position, most, limits.version, len(fields) // 2, *fields, *_flat(limits)]
    keys = [account_key(tenant), limits_key(tenant), JOURNAL, TRIMMED]
    return REBUILD.run_sync(state or shared_client(), keys, arguments)


def _flat(limits: AccountLimits) -> list[str | int]:
    return [part for field in limits.fields().items() for part in field]
