"""Who makes a management request: an API key, a session's cookie (with CSRF), or allauth's X-Session-Token."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from allauth.headless.contrib.rest_framework.authentication import XSessionTokenAuthentication
from django.db import connections
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.request import Request

from saas.lib.errors import ApiKeyInvalid, NotFound
from tenants import keys
from tenants.access import Access
from tenants.models import User
from tenants.permissions import ROLES

Found = tuple[Any, Access]  # Any: request.user is a User, or the Access itself for a key


def presented_key(headers: Mapping[str, str]) -> str | None:
    """The key in `Authorization: Bearer …`, else in X-API-Key; None if there is neither. Another scheme counts as none."""
    scheme, _, credential = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credential.strip()
    return headers.get("X-API-Key")


class ApiKeyAuthentication(BaseAuthentication):
    """Authorization: Bearer maas_… or X-API-Key."""

    def authenticate(self, request: Request) -> Found | None:
        presented = presented_key(request.headers)
        if presented is None:
            return None
        record = keys.authenticate(presented)
        access = Access(UUID(hex=record.organization), frozenset(record.scopes), key=record)
        return access, access

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


class UserAuthentication(BaseAuthentication):
    """A session. The header X-Organization names the organization to act in, by slug; without it, it is the person's first."""

    def authenticate(self, request: Request) -> Found | None:
        user = self._by_token(request) if "X-Session-Token" in request.headers else self._by_cookie(request)
        if user is None:
            return None
        return user, access_of(user, request.headers.get("X-Organization"))

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'

    def _by_token(self, request: Request) -> User:
        found = XSessionTokenAuthentication().authenticate(request)
        if found is None or not found[0].is_active:
            raise ApiKeyInvalid("The session is unknown or has ended.")
        return found[0]  # type: ignore[no-any-return]  # allauth is not typed

    def _by_cookie(self, request: Request) -> User | None:
        user = getattr(request._request, "user", None)
        if user is None or not user.is_authenticated or not user.is_active:
            return None
        SessionAuthentication().enforce_csrf(request)
        return user  # type: ignore[no-any-return]  # of AUTH_USER_MODEL


def organizations_of(user: User) -> list[dict[str, Any]]:  # Any: id, slug, name, role
    """The active organizations that the person is in, oldest membership first. Goes through a door."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT id, slug, name, role FROM tenants_memberships_of(%s)", [user.id])
        return [dict(zip(("id", "slug", "name", "role"), row, strict=True)) for row in cursor.fetchall()]


def access_of(user: User, slug: str | None) -> Access:
    """What the person may do in the organization of that slug. Raises NotFound where they are no member."""
    for found in organizations_of(user):
        if slug is None or found["slug"] == slug:
            return Access(found["id"], ROLES[found["role"]], user=user, role=found["role"])
    if slug is not None:
        raise NotFound("You are in no organization of this name.")
    return Access(None, frozenset(), user=user)
