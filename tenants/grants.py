"""What somebody may hand on: never more than they hold themselves."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from saas.lib.errors import ModelNotAllowed, ScopeMissing, ValidationFailed
from tenants.access import Access
from tenants.keys import DEFAULT_LIFE, LONGEST_LIFE
from tenants.models import ApiKey, Membership, Mode, Organization
from tenants.permissions import DEFAULT_SCOPES, NEVER_EXPIRE, ROLES
from tenants.principal import TEST_LIMITS

LIMITS = ("rate", "burst", "concurrency", "monthly_calls")


def require(access: Access, permission: str) -> None:
    """Raises ScopeMissing unless `access` holds it."""
    if permission not in access.permissions:
        raise ScopeMissing(f"This needs {permission}.")


def check_scopes(access: Access, scopes: Iterable[str]) -> None:
    """Raises ScopeMissing for a scope that `access` does not hold."""
    if missing := sorted(set(scopes) - access.permissions):
        raise ScopeMissing(f"You cannot give what you do not hold: {', '.join(missing)}.")


def check_models(access: Access, models: list[str] | None) -> None:
    """A key that is limited to models can only give those. Raises ModelNotAllowed."""
    own = access.key.models if access.key else None
    if own is not None and (models is None or not set(models) <= set(own)):
        raise ModelNotAllowed("This key is limited to some models and can only give those.")


def check_mode(access: Access, mode: str) -> None:
    """A test key makes no live key. Raises ScopeMissing."""
    if access.key is not None and access.key.mode == Mode.TEST and mode != Mode.TEST:
        raise ScopeMissing("A test key cannot make a live one.")


def check_expiry(access: Access, expires_at: datetime | None) -> None:
    """Raises ScopeMissing for "never" by anyone but an owner, or an end beyond the giving key's own; else ValidationFailed."""
    if expires_at is None:
        return require(access, NEVER_EXPIRE)
    if not timezone.now() < expires_at <= timezone.now() + LONGEST_LIFE:
        detail = f"Within the next {LONGEST_LIFE.days} days, or null (never) by an owner."
        raise ValidationFailed("Some fields are not acceptable.", errors=[{"field": "expires_at", "detail": detail}])
    own = access.key.expires_at if access.key else None
    if own is not None and expires_at.timestamp() > own:
        raise ScopeMissing("A key cannot make one that outlives it.")
    return None


def default_expiry(access: Access, life: timedelta = DEFAULT_LIFE) -> datetime:
    """The end of a key that is given none: after `life`, or with the key that makes it."""
    ends = timezone.now() + life
    own = access.key.expires_at if access.key else None
    return ends if own is None else min(ends, datetime.fromtimestamp(own, tz=ends.tzinfo))


def same_life(access: Access, key: ApiKey) -> datetime | None:
    """The end of the successor of `key`: a life as long as its own."""
    return None if key.expires_at is None else default_expiry(access, min(key.expires_at - key.created_at, LONGEST_LIFE))


def check_limits(
    access: Access, organization: Organization, limits: Mapping[str, Any], *, is_test: bool = False
) -> None:  # Any: numbers, None
    """Raises ScopeMissing without limits:write, ValidationFailed above the organization's, or those of every test key."""
    if limits:
        require(access, "limits:write")
    errors = [
        {"field": f"limits.{name}", "detail": f"At most {whose} {highest}."}
        for whose, holder in (("the organization's", organization), ("a test key's", TEST_LIMITS if is_test else None))
        for name, value in limits.items()
        if value is not None and (highest := getattr(holder, name, None)) is not None and value > highest
    ]
    if errors:
        raise ValidationFailed("Some fields are not acceptable.", errors=errors)


def key_columns(
    access: Access, organization: Organization, body: Mapping[str, Any], *, of: ApiKey | None = None
) -> dict[str, Any]:
    """The columns that `body` asks for, of a new key or `of` one, once all of it is granted; raises what the checks raise.

    A key with limits of its own hands them on: what it makes or changes has no more.
    """
    columns = {name: value for name, value in body.items() if name != "limits"}
    limits = dict(body.get("limits", {}))
    is_test = (of.mode if of else body["mode"]) == Mode.TEST
    check_limits(access, organization, limits, is_test=is_test)
    check_scopes(access, columns.get("scopes", ()))
    if "models" in columns:
        check_models(access, columns["models"])
    if "mode" in columns:
        check_mode(access, columns["mode"])
    if "expires_at" in columns:
        check_expiry(access, columns["expires_at"])
    for name, highest in _own_limits(access, organization).items():
        if of is None or name in limits:
            limits[name] = min(highest, highest if limits.get(name) is None else limits[name])
    return columns | limits


def default_scopes(access: Access) -> list[str]:
    """The scopes of a key that is given none. A key that may not read its limits can still make one that only calls."""
    return [scope for scope in DEFAULT_SCOPES if scope != "limits:read" or scope in access.permissions]


def check_may_change(access: Access, key: ApiKey) -> None:
    """Who changes, rotates or revokes a key holds all that it may do. Raises ScopeMissing or ModelNotAllowed.

    Revoking too: a key for one model must not be able to stop all others.
    """
    if missing := sorted(set(key.scopes) - access.permissions):
        raise ScopeMissing(f"This key may do what you may not: {', '.join(missing)}.")
    if access.key is None:
        return
    if access.key.models is not None and (key.models is None or not set(key.models) <= set(access.key.models)):
        raise ModelNotAllowed("This key is limited to some models, the other is not.")
    if access.key.mode == Mode.TEST != key.mode:
        raise ScopeMissing("A test key cannot change a live one.")
    if access.key.expires_at is not None and (key.expires_at is None or key.expires_at.timestamp() > access.key.expires_at):
        raise ScopeMissing("A key cannot change one that outlives it.")
    for name, highest in _own_limits(access, key.organization).items():
        if getattr(key, name) is None or getattr(key, name) > highest:
            raise ScopeMissing("A key cannot change one with higher limits.")


def _own_limits(access: Access, organization: Organization) -> dict[str, Any]:  # Any: numbers
    if access.key is None:
        return {}
    giver = ApiKey.objects.of(organization).get(id=access.key.id)
    return {name: getattr(giver, name) for name in LIMITS if getattr(giver, name) is not None}


def check_role(access: Access, role: str) -> None:
    """Raises ScopeMissing for a role that may do more than `access`: only owners make owners."""
    if not ROLES[role] <= access.permissions:
        raise ScopeMissing(f"You cannot give or take the role {role}: it may do more than you.")


def check_may_remove(access: Access, membership: Membership) -> None:
    """Anybody may leave; others are removed by who holds members:write and their permissions. Raises ScopeMissing."""
    if access.user is None or access.user.id != membership.user_id:
        require(access, "members:write")
        check_role(access, membership.role)
