"""What the API reference says of our ways to sign in. drf-spectacular finds these classes once this module is imported."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema

Scheme = dict[str, Any]  # Any: OpenAPI's security scheme


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # of its base
    target_class = "tenants.authentication.ApiKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: AutoSchema) -> Scheme:
        return {"type": "http", "scheme": "bearer", "description": "maas_live_… or maas_test_…; X-API-Key is taken too."}


class UserScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # of its base
    target_class = "tenants.authentication.UserAuthentication"
    name = ["session", "sessionToken"]  # either of them

    def get_security_requirement(self, auto_schema: AutoSchema) -> list[dict[str, list[Any]]]:  # Any: scopes, of which none
        return [{name: []} for name in self.name]

    def get_security_definition(self, auto_schema: AutoSchema) -> list[Scheme]:
        token = {"type": "apiKey", "in": "header", "name": "X-Session-Token", "description": "Of /_allauth/app/v1/."}
        return [{"type": "apiKey", "in": "cookie", "name": "sessionid"}, token]
