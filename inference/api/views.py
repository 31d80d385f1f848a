"""/models, /models/{model}/versions, /models/{model}/aliases. `{model}` is a name, or `organization/name`."""

from typing import Any

from django.conf import settings
from django.db import transaction
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from inference import actions, registry
from inference.api import upload
from inference.api.shapes import (
    AliasBody,
    AliasDetailOut,
    AliasOut,
    ModelBody,
    ModelChangeBody,
    ModelOut,
    UploadBody,
    VersionDetailOut,
    VersionOut,
)
from inference.caps import lock_for_version
from inference.models import MLModel, State, VersionQuerySet, Visibility
from inference.registry import resolve, resolve_version
from saas.lib.errors import ModelNotAllowed, NotFound
from tenants.access import Access
from tenants.models import CATALOG_ID, CATALOG_SLUG
from tenants.pagination import page
from tenants.scope import tenant_scope
from tenants.views import TenantView

READ_WRITE = {"GET": "models:read", "POST": "models:write", "PUT": "models:write"}
READ_WRITE |= {"PATCH": "models:write", "DELETE": "models:write"}


class ModelsOwnerView(TenantView):
    """What the views of models have in common."""

    required_scope = READ_WRITE

    def visible(self, name: str) -> MLModel:
        """A model that the caller may read: an own one or one of the catalogue. Raises NotFound, ModelNotAllowed."""
        model = resolve(self.organization, name)
        check_allowed(self.access, model)
        return model

    def own(self, name: str) -> MLModel:
        """A model that the caller's organization may change. Raises NotFound, also for one of the catalogue."""
        model = self.visible(name)
        if model.organization_id != self.organization.id:
            raise NotFound(f"Your organization has no model {name}")
        return model

    def versions(self, model: MLModel) -> VersionQuerySet:
        """Those that the caller sees: of the catalogue's only what can be called."""
        versions = model.versions.live().select_related("model").prefetch_related("aliases")
        return versions if model.organization_id == self.organization.id else versions.filter(state=State.READY)


def check_allowed(access: Access, model: MLModel) -> None:
    """A key that is limited to some models sees no other. Raises ModelNotAllowed."""
    check_name(access, CATALOG_SLUG if model.organization_id == CATALOG_ID else model.organization.slug, model.name)


def check_name(access: Access, owner: str, name: str) -> None:
    """The same by name, for a model that is not there yet."""
    if access.key is not None and not access.key.may_call(f"{owner}/{name}", name):
        raise ModelNotAllowed


class ModelsView(ModelsOwnerView):
    query_names = frozenset({"visibility"})

    @extend_schema(
        responses=ModelOut(many=True),
        parameters=[OpenApiParameter("visibility", description="`public`: the catalogue's instead of one's own.")],
    )
    def get(self, request: Request) -> Response:
        """The organization's models, or with `?visibility=public` the catalogue's."""
        models = MLModel.objects.prefetch_related("aliases__version")
        if request.query_params.get("visibility") == Visibility.PUBLIC:
            owner, models = CATALOG_SLUG, models.of(CATALOG_ID).published()
        else:
            owner, models = self.organization.slug, models.of(self.organization).live().select_related("organization")
        allowed = self.access.key.models if self.access.key else None
        if allowed is not None:
            pairs = [name.rpartition("/") for name in allowed]
            models = models.filter(name__in=[name for of, _, name in pairs if of in ("", owner)])
        return page(request, models, lambda model: ModelOut(model).data)

    @extend_schema(request=ModelBody, responses={201: ModelOut})
    def post(self, request: Request) -> Response:
        body = ModelBody.parse(request.data)
        check_name(self.access, self.organization.slug, body["name"])
        model = actions.create_model(organization=self.organization, actor=self.actor, **body)
        return Response(ModelOut(model).data, status=status.HTTP_201_CREATED)


class ModelView(ModelsOwnerView):
    @extend_schema(responses=ModelOut)
    def get(self, request: Request, model: str) -> Response:
        return Response(ModelOut(self.visible(model)).data)

    @extend_schema(request=ModelChangeBody, responses=ModelOut)
    def patch(self, request: Request, model: str) -> Response:
        body = ModelChangeBody.parse(request.data, partial=True)
        return Response(ModelOut(actions.update_model(model=self.own(model), actor=self.actor, **body)).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, model: str) -> Response:
        """Delete the model with its versions. The name is free again; usage records stay."""
        actions.delete_model(model=self.own(model), actor=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)


class VersionsView(ModelsOwnerView):
    """Not atomic: no transaction is open while an upload is on its way."""

    parser_classes = (MultiPartParser,)
    parts: upload.Parts

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:  # Any: the URL's parts
        if request.method == "POST":  # before authentication, because its CSRF check reads the form
            self.parts = upload.expect(request, settings.CONFIG.artifact_max_bytes)
        try:
            with transaction.atomic():
                super().initial(request, *args, **kwargs)
        except BaseException:
            if request.method == "POST":
                self.parts.discard()
            raise

    @extend_schema(responses=VersionOut(many=True))
    def get(self, request: Request, model: str) -> Response:
        with tenant_scope(self.organization.id):
            return page(request, self.versions(self.visible(model)), lambda version: VersionOut(version).data)

    @extend_schema(request={"multipart/form-data": UploadBody}, responses={202: VersionOut})
    def post(self, request: Request, model: str) -> Response:
        """Upload a version: a multipart form with the file `artifact`, and `manifest` (JSON) and `version` if wanted."""
        with tenant_scope(self.organization.id):
            found = self.own(model)
            room = lock_for_version(actions.lock_model(found))
        try:
            upload.limit(request, self.parts, room)
            if upload.admit(request, self.organization.id, self.parts):
                return Response(status=status.HTTP_204_NO_CONTENT)
            artifact, manifest, number = upload.receive(request)
            assert artifact.path is not None
            version = actions.upload_version(
                model=found,
                actor=self.actor,
                path=artifact.path,
                digest=artifact.digest,
                size=artifact.size or 0,
                manifest=manifest,
                number=number,
            )
        finally:
            self.parts.discard()
        with tenant_scope(self.organization.id):
            body = VersionOut(self.versions(found).get(id=version.id)).data
        location = request.build_absolute_uri(f"{request.path}/{version.number}")
        return Response(body, status=status.HTTP_202_ACCEPTED, headers={"Location": location})


class VersionView(ModelsOwnerView):
    @extend_schema(responses=VersionDetailOut)
    def get(self, request: Request, model: str, version: str) -> Response:
        found = self.visible(model)
        chosen = self.versions(found).filter(id=resolve_version(found, version).id).first()
        if chosen is None:
            raise NotFound(f"The model {model} has no version or alias {version}")
        registry.see_to(chosen)
        return Response(VersionDetailOut(chosen).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, model: str, version: str) -> Response:
        """Delete a version that no alias points at. Its number is never used again."""
        actions.delete_version(version=resolve_version(self.own(model), version), actor=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)


class AliasesView(ModelsOwnerView):
    @extend_schema(responses=AliasOut(many=True))
    def get(self, request: Request, model: str) -> Response:
        aliases = self.visible(model).aliases.select_related("model", "version")
        return page(request, aliases, lambda alias: AliasOut(alias).data)


class AliasView(ModelsOwnerView):
    @extend_schema(responses=AliasDetailOut)
    def get(self, request: Request, model: str, alias: str) -> Response:
        return Response(AliasDetailOut(actions.find_alias(self.visible(model), alias)).data)

    @extend_schema(request=AliasBody, responses=AliasOut)
    def put(self, request: Request, model: str, alias: str) -> Response:
        """Point the alias at a ready version."""
        body = AliasBody.parse(request.data)
        moved = actions.promote(model=self.own(model), actor=self.actor, alias=alias, version=body["version"])
        return Response(AliasOut(moved).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, model: str, alias: str) -> Response:
        actions.delete_alias(model=self.own(model), actor=self.actor, alias=alias)
        return Response(status=status.HTTP_204_NO_CONTENT)


class RollbackView(ModelsOwnerView):
    @extend_schema(request=None, responses=AliasOut)
    def post(self, request: Request, model: str, alias: str) -> Response:
        """Point the alias at the version that it pointed at before."""
        return Response(AliasOut(actions.roll_back(model=self.own(model), actor=self.actor, alias=alias)).data)
