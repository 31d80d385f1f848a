"""Who may do what: one map from roles to permissions, and the check that every view passes.

A permission is `object:action`. Those in SCOPES can be given to an API key; the others belong to people only.
"""

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from saas.lib.errors import ApiKeyMissing, MethodNotAllowed, NotFound, ScopeMissing
from tenants.access import access_found
from tenants.models import Role

SCOPES = (
    "organization:read",
    "organization:write",
    "members:read",
    "members:write",
    "keys:read",
    "keys:write",
    "limits:read",
    "limits:write",
    "models:read",
    "models:write",
    "predictions:read",
    "predictions:write",
    "usage:read",
    "billing:read",
    "billing:write",
    "audit:read",
)
DEFAULT_SCOPES = ("limits:read", "models:read", "predictions:read", "predictions:write")

NEVER_EXPIRE = "keys:never_expire"

_BILLING = frozenset({"billing:read", "billing:write"})
_READ = frozenset({"organization:read", "members:read", "models:read", "usage:read", "limits:read"})
ROLES: dict[str, frozenset[str]] = {
    Role.OWNER: frozenset({*SCOPES, NEVER_EXPIRE}),
    Role.ADMIN: frozenset(SCOPES) - _BILLING,
    Role.DEVELOPER: _READ | {"keys:read", "keys:write", "models:write", "predictions:read", "predictions:write"},
    Role.BILLING: _BILLING | {"organization:read", "members:read", "usage:read", "limits:read"},
    Role.VIEWER: _READ,
}

SIGNED_IN = "signed-in"
"""As `required_scope`: any signed-in person or valid key, also a person without an organization."""


class HasScope(BasePermission):
    """Refuse who does not hold the view's `required_scope`: a string, or a dict by method."""

    def has_permission(self, request: Request, view: Any) -> bool:  # Any: DRF's type for views
        access = access_found(request)
        if access is None:
            raise ApiKeyMissing("Send an API key (Authorization: Bearer maas_…) or sign in.")
        required = required_scope(view, request.method or "")
        if required == SIGNED_IN:
            return True
        if access.organization_id is None:
            raise NotFound("You are in no organization.")
        if required not in access.permissions:
            raise ScopeMissing(f"This needs {required}.")
        return True


def required_scope(view: Any, method: str) -> str:  # Any: a view with the attribute, instance or class
    """What a view's method needs. A view that does not say is a mistake of ours, and refused."""
    required = getattr(view, "required_scope", None)
    if required and method == "OPTIONS":
        return SIGNED_IN  # it shows what the API reference does
    if isinstance(required, dict):
        required = required.get("GET" if method == "HEAD" else method)
        if required is None:
            raise MethodNotAllowed(f"{method} is not allowed here.")
    if not required:
        raise ImproperlyConfigured(f"{view!r} has no required_scope")
    return str(required)
