"""What an organization and a key may do, and what is left of it just now."""

import math
from datetime import datetime
from typing import Any

import redis

from billing import stores
from inference.books import accounts
from saas.lib.errors import Unavailable
from tenants.models import ApiKey, Organization
from tenants.principal import Limits


def limits_of(organization: Organization, key: ApiKey | None, *, now: datetime) -> dict[str, Any]:
    """Both levels, each with its limits and what is left. Raises Unavailable if a Valkey cannot be asked.

    An account that is not known (yet) has used what nobody can tell: its calls are None.
    """
    try:
        account = accounts.read(organization.id.hex)
        own = _level(organization.id.hex, organization.limits, now)
        shown = {"organization": own | _quota(account, accounts.ORGANIZATION, organization.monthly_calls, now), "key": None}
        if key is not None:
            level = _level(key.id.hex, effective_limits(key, organization), now)
            shown["key"] = {"id": key.shown_id, "mode": key.mode} | level | _quota(account, key.id.hex, key.monthly_calls, now)
    except redis.RedisError as error:
        raise Unavailable("What is left of the limits cannot be told right now") from error
    return shown


def effective_limits(key: ApiKey, organization: Organization) -> Limits:
    """A key's own limits where it has them, never above its organization's."""
    own, above = (key.rate, key.burst, key.concurrency), organization.limits
    rate, burst, concurrency = (
        theirs if mine is None else min(mine, theirs)
        for mine, theirs in zip(own, (above.rate, above.burst, above.concurrency), strict=True)
    )
    return Limits(rate, int(burst), int(concurrency))


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
