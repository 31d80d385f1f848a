"""/organization, /me and /audit-events."""

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from saas.lib.ids import shown
from tenants import actions
from tenants.access import access_to
from tenants.authentication import organizations_of
from tenants.bodies import Body, ShownId
from tenants.models import AuditEvent
from tenants.pagination import page
from tenants.permissions import SIGNED_IN
from tenants.views import ManagementView, TenantView


class LimitsOut(serializers.Serializer):  # type: ignore[type-arg]  # bound to no model
    rate = serializers.FloatField(allow_null=True)
    burst = serializers.IntegerField(allow_null=True)
    concurrency = serializers.IntegerField(allow_null=True)
    monthly_calls = serializers.IntegerField(allow_null=True)


class OrganizationOut(serializers.Serializer):  # type: ignore[type-arg]  # bound to no model
    id = ShownId("org")
    slug = serializers.CharField()
    name = serializers.CharField()
    limits = LimitsOut(source="*")
    created_at = serializers.DateTimeField()


class OrganizationBody(Body):
    name = serializers.CharField(max_length=150)


class OrganizationView(TenantView):
    required_scope = {"GET": "organization:read", "PATCH": "organization:write"}

    @extend_schema(responses=OrganizationOut)
    def get(self, request: Request) -> Response:
        return Response(OrganizationOut(self.organization).data)

    @extend_schema(request=OrganizationBody, responses=OrganizationOut)
    def patch(self, request: Request) -> Response:
        body = OrganizationBody.parse(request.data)
        actions.rename_organization(self.organization, name=body["name"], actor=self.actor)
        return Response(OrganizationOut(self.organization).data)


class MeView(ManagementView):
    """Who the caller is, and which organizations a person can choose with X-Organization."""

    required_scope = SIGNED_IN

    @extend_schema(responses=dict)
    def get(self, request: Request) -> Response:
        access = access_to(request)
        user = access.user and {"id": shown("usr", access.user.id), "email": access.user.email, "name": access.user.name}
        organizations = [] if access.user is None else organizations_of(access.user)
        return Response(
            {
                "user": user,
                "key": access.key and {"id": f"key_{access.key.id}", "mode": access.key.mode},
                "organization": access.organization_id and shown("org", access.organization_id),
                "role": access.role,
                "permissions": sorted(access.permissions),
                "organizations": [found | {"id": shown("org", found["id"])} for found in organizations],
            }
        )


class AuditEventOut(serializers.Serializer):  # type: ignore[type-arg]  # bound to no model
    id = ShownId("evt")
    at = serializers.DateTimeField(source="created_at")
    actor_kind = serializers.CharField()
    actor = serializers.CharField()
    action = serializers.CharField()
    target = serializers.CharField()
    details = serializers.JSONField()


class AuditEventsView(TenantView):
    required_scope = {"GET": "audit:read"}

    @extend_schema(responses=AuditEventOut(many=True))
    def get(self, request: Request) -> Response:
        return page(request, AuditEvent.objects.of(self.organization), lambda event: AuditEventOut(event).data)
