"""/keys."""

from datetime import timedelta

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from saas.lib.errors import NotFound
from saas.lib.ids import parse_id
from tenants import grants, keys
from tenants.bodies import Body, ShownId
from tenants.models import ApiKey, Mode, Organization
from tenants.organization_views import LimitsOut
from tenants.pagination import page
from tenants.permissions import DEFAULT_SCOPES, SCOPES
from tenants.views import TenantView

MODEL_PATTERN = r"^([a-z0-9][a-z0-9_-]{0,62}/)?[a-z0-9][a-z0-9_-]{0,62}\Z"
HIGHEST = 2**31 - 1


class LimitsBody(Body):
    """Null: as the organization's (and for `monthly_calls`: no cap of its own)."""

    rate = serializers.FloatField(min_value=0.001, max_value=HIGHEST, allow_null=True, required=False)
    burst = serializers.IntegerField(min_value=1, max_value=HIGHEST, allow_null=True, required=False)
    concurrency = serializers.IntegerField(min_value=1, max_value=HIGHEST, allow_null=True, required=False)
    monthly_calls = serializers.IntegerField(min_value=0, max_value=2**53, allow_null=True, required=False)


class KeyChangeBody(Body):
    name = serializers.CharField(max_length=100)
    scopes = serializers.ListField(child=serializers.ChoiceField([(scope, scope) for scope in SCOPES]), allow_empty=False)
    models = serializers.ListField(
        child=serializers.RegexField(MODEL_PATTERN), allow_null=True, allow_empty=False, max_length=100, required=False
    )
    expires_at = serializers.DateTimeField(allow_null=True, required=False)
    limits = LimitsBody(required=False)


class KeyBody(KeyChangeBody):
    scopes = serializers.ListField(
        child=serializers.ChoiceField([(scope, scope) for scope in SCOPES]),
        allow_empty=False,
        required=False,
        help_text=f"Default: {', '.join(DEFAULT_SCOPES)}.",
    )
    mode = serializers.ChoiceField(Mode.choices, default=Mode.LIVE)


class RotateBody(Body):
    overlap_seconds = serializers.IntegerField(
        min_value=0,
        max_value=int(keys.LONGEST_OVERLAP.total_seconds()),
        default=86_400,
        help_text="How long the old key goes on.",
    )
    expires_at = serializers.DateTimeField(
        allow_null=True, required=False, help_text="Default: a life as long as the old key's."
    )


class KeyOut(serializers.Serializer):  # type: ignore[type-arg]  # bound to no model
    id = ShownId("key")
    name = serializers.CharField()
    prefix = serializers.CharField()
    mode = serializers.CharField()
    status = serializers.CharField()
    scopes = serializers.ListField(child=serializers.CharField())
    models = serializers.ListField(child=serializers.CharField(), allow_null=True)
    limits = LimitsOut(source="*")
    replaces = ShownId("key", allow_null=True)
    created_at = serializers.DateTimeField()
    created_by = ShownId("usr", source="created_by_id", allow_null=True, help_text="Null: by a key or an operator.")
    expires_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True)


class NewKeyOut(KeyOut):
    key = serializers.CharField(help_text="The whole key. It is shown this once.")


def resolve(organization: Organization, shown_id: str) -> ApiKey:
    """The organization's key `key_…`. Raises NotFound."""
    identity = parse_id("key", shown_id)
    key = ApiKey.objects.of(organization).filter(id=identity).first() if identity else None
    if key is None:
        raise NotFound
    return key  # type: ignore[no-any-return]  # the shared queryset is typed Any


def _created(key: ApiKey, presented: str) -> Response:
    return Response(KeyOut(key).data | {"key": presented}, status=status.HTTP_201_CREATED)


class KeysView(TenantView):
    required_scope = {"GET": "keys:read", "POST": "keys:write"}

    @extend_schema(responses=KeyOut(many=True))
    def get(self, request: Request) -> Response:
        return page(request, ApiKey.objects.of(self.organization), lambda key: KeyOut(key).data)

    @extend_schema(request=KeyBody, responses={201: NewKeyOut})
    def post(self, request: Request) -> Response:
        body = KeyBody.parse(request.data)
        body.setdefault("scopes", grants.default_scopes(self.access))
        body.setdefault("models", self.access.key.models if self.access.key else None)
        body.setdefault("expires_at", grants.default_expiry(self.access))
        columns = grants.key_columns(self.access, self.organization, body)
        issued = keys.issue(organization=self.organization, created_by=self.access.user, actor=self.actor, **columns)
        return _created(*issued)


class KeyView(TenantView):
    required_scope = {"GET": "keys:read", "PATCH": "keys:write", "DELETE": "keys:write"}
    when_closed = frozenset({"DELETE"})

    @extend_schema(responses=KeyOut)
    def get(self, request: Request, key: str) -> Response:
        return Response(KeyOut(resolve(self.organization, key)).data)

    @extend_schema(request=KeyChangeBody, responses=KeyOut)
    def patch(self, request: Request, key: str) -> Response:
        body = KeyChangeBody.parse(request.data, partial=True)
        found = resolve(self.organization, key)
        grants.check_may_change(self.access, found)
        keys.change(found, actor=self.actor, **grants.key_columns(self.access, self.organization, body, of=found))
        return Response(KeyOut(found).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, key: str) -> Response:
        """Revoke the key. It stays in the list, refused everywhere from now on."""
        found = resolve(self.organization, key)
        grants.check_may_change(self.access, found)
        keys.revoke(found, actor=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)


class RotateKeyView(TenantView):
    required_scope = {"POST": "keys:write"}

    @extend_schema(request=RotateBody, responses={201: NewKeyOut})
    def post(self, request: Request, key: str) -> Response:
        body = RotateBody.parse(request.data)
        found = resolve(self.organization, key)
        grants.check_may_change(self.access, found)
        expires_at = body["expires_at"] if "expires_at" in body else grants.same_life(self.access, found)
        grants.check_expiry(self.access, expires_at)
        overlap = timedelta(seconds=body["overlap_seconds"])
        return _created(
            *keys.rotate(found, overlap=overlap, expires_at=expires_at, created_by=self.access.user, actor=self.actor)
        )
