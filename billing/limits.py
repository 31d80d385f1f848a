"""What an organization and a key may do, and what is left of it just now."""

import math
from datetime import datetime
from typing import Any
from uuid import UUID

import redis

from billing import stores
from inference.books import accounts
from saas.lib.errors import Unavailable
from tenants.models import ApiKey, Organization
from tenants.principal import KeyRecord, Limits


def limits_of(organization: Organization, key: KeyRecord | None, *, now: datetime) -> dict[str, Any]:  # Any: JSON
    """Both levels, each with its limits and what is left; without a key only the organization's.

    Raises Unavailable if a Valkey cannot be asked. Of an account that is not known (yet) nobody can tell the calls: None.
    """
    try:
        account = accounts.read(organization.id.hex)
        own = _level(organization.id.hex, organization.limits, now)
        own |= _quota(account, accounts.ORGANIZATION, organization.monthly_calls, now)
        return {"organization": own, "key": _key_level(key, account, now) if key else None}
    except redis.RedisError as error:
        raise Unavailable("What is left of the limits cannot be told right now") from error


def _key_level(key: KeyRecord, account: accounts.Account | None, now: datetime) -> dict[str, Any]:  # Any: JSON
    row = ApiKey.objects.of(UUID(hex=key.organization)).get(id=UUID(hex=key.id))
    level = {"id": row.shown_id, "mode": row.mode, **_level(key.id, key.limits, now)}
    return level | _quota(account, key.id, row.monthly_calls, now)


def _level(holder: str, limits: Limits, now: datetime) -> dict[str, Any]:
    """Token bucket and places of one holder (organization or key id), as inference/gateway/admit.lua keeps them."""
    lanes, at = stores.lanes(), now.timestamp()
    tokens, filled_at = lanes.hmget(f"bucket:{holder}", "tokens", "at")
    left = float(limits.burst)
    if tokens is not None and filled_at is not None:
        left = min(left, float(tokens) + max(0.0, at - float(filled_at)) * limits.rate)
    taken = lanes.zcount(f"places:{holder}", f"({at}", "+inf")
    return {
        "rate": {
            "per_second": limits.rate,
            "burst": limits.burst,
            "left": math.floor(left),
            "full_in_seconds": round((limits.burst - left) / limits.rate, 3),
        },
        "concurrency": {"limit": limits.concurrency, "left": max(0, limits.concurrency - taken)},
    }


def _quota(account: accounts.Account | None, scope: str, limit: int | None, now: datetime) -> dict[str, Any]:
    """The month's calls. `used` includes calls under way; test calls are not counted."""
    used = None if account is None else account.sums.get((scope, f"{now:%Y-%m}"), (0, 0))[0]
    left = None if limit is None or used is None else max(0, limit - used)
    resets_at = f"{now.year + now.month // 12}-{now.month % 12 + 1:02}-01T00:00:00Z"
    return {"monthly_calls": {"limit": limit, "used": used, "left": left, "resets_at": resets_at}}
