"""What an organization and a key may do and have, and what is left of it just now: for the API and the operators' pages."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import redis

import inference.caps
import tenants.caps
from inference.books import accounts
from inference.holders import Holder, holder_key
from saas.lib.errors import Unavailable
from tenants import records
from tenants.models import ApiKey, Organization
from tenants.principal import TEST_LIMITS, KeyRecord, Limits, holder_of_test_keys

Months = Sequence[accounts.MonthlyCalls | None]


def limits_of(organization: Organization, key: KeyRecord | None, *, now: datetime) -> dict[str, Any]:  # Any: JSON
    """Both levels, each with its limits and what is left; without a key only the organization's. As LimitsLeftOut.

    Raises Unavailable if a Valkey cannot be asked. Of an account that is not known (yet) nobody can tell the calls: None.
    """
    scopes = [accounts.ORGANIZATION, key.id] if key else [accounts.ORGANIZATION]
    try:
        months: Months = accounts.monthly_calls(organization.id.hex, f"{now:%Y-%m}", scopes) or [None] * len(scopes)
        whole = _lower(organization.monthly_calls, _included_calls(organization, now))
        own = _level(organization.id.hex, organization.limits, now)
        own["test_keys"] = _level(holder_of_test_keys(organization.id.hex), organization.limits.within(TEST_LIMITS), now)
        own |= _quota(months[0], whole, now) | _caps(organization)
        return {"organization": own, "key": _key_level(key, months[1], now) if key else None}
    except redis.RedisError as error:
        raise Unavailable("What is left of the limits cannot be told right now") from error


def _key_level(key: KeyRecord, month: accounts.MonthlyCalls | None, now: datetime) -> dict[str, Any]:  # Any: JSON
    row = ApiKey.objects.of(UUID(hex=key.organization)).get(id=UUID(hex=key.id))
    level = {"id": row.shown_id, "mode": row.mode, **_level(key.id, key.limits, now)}
    return level | _quota(month, row.monthly_calls, now)


def _level(holder: str, limits: Limits, now: datetime) -> dict[str, Any]:
    """Token bucket and places of one holder (organization or key id, or a holder_of_test_keys)."""
    at = now.timestamp()
    known = Holder.unpack(cast(bytes | None, records.client().get(holder_key(holder))), at)
    left = known.left(limits.rate, limits.burst, at)
    return {
        "rate": {
            "per_second": limits.rate,
            "burst": limits.burst,
            "left": math.floor(left),
            "full_in_seconds": round((limits.burst - left) / limits.rate, 3),
        },
        "concurrency": _counted(limits.concurrency, known.taken),
    }


def _included_calls(organization: Organization, now: datetime) -> int | None:
    """After how many calls of the month the plan ends them; None: it charges for more, or the account is not known."""
    caps = accounts.caps(organization.id.hex, f"{now:%Y-%m}") or []
    return next((cap.limit for cap in caps if cap.verdict == "included:organization"), None)


def _lower(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _quota(month: accounts.MonthlyCalls | None, limit: int | None, now: datetime) -> dict[str, Any]:
    """The month's calls. `used` includes calls under way; test calls are not counted."""
    used = None if month is None else month.used
    left = None if limit is None or used is None else max(0, limit - used)
    resets_at = f"{now.year + now.month // 12}-{now.month % 12 + 1:02}-01T00:00:00Z"
    return {"monthly_calls": {"limit": limit, "used": used, "left": left, "resets_at": resets_at}}


def _caps(organization: Organization) -> dict[str, Any]:
    """What it has of each kind; of the caps per model, what the fullest model has."""
    used = tenants.caps.used(organization) | inference.caps.used(organization)
    caps: dict[str, Any] = {cap.name: _counted(cap.of(organization), count) for cap, count in used.items()}
    return caps | {"artifact_bytes": {"limit": inference.caps.largest_artifact(organization)}}


def _counted(limit: int, used: int) -> dict[str, int]:
    return {"limit": limit, "used": used, "left": max(0, limit - used)}
