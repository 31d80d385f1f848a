"""Bodies and answers of the endpoints of models, versions and aliases."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from inference.models import MLModel, ModelVersion, Task, Visibility
from tenants.bodies import Body, ShownId
from tenants.models import CATALOG_ID, CATALOG_SLUG

Out = serializers.Serializer[Any]  # Any: answers are bound to no model


class ModelChangeBody(Body):
    task = serializers.ChoiceField(Task.choices, required=False)
    description = serializers.CharField(max_length=10_000, allow_blank=True, required=False)
    visibility = serializers.ChoiceField(Visibility.choices, required=False)


class ModelBody(ModelChangeBody):
    name = serializers.CharField(max_length=63, trim_whitespace=False)


class AliasBody(Body):
    version = serializers.CharField(max_length=63, help_text="A number like 1.0.0, or another alias.")


class UploadBody(Body):
    """What the upload's form looks like, for the API reference; inference.api.upload reads it."""

    artifact = serializers.FileField()
    manifest = serializers.JSONField(required=False)
    version = serializers.CharField(required=False)


class TensorOut(Out):
    name = serializers.CharField()
    datatype = serializers.CharField()
    shape = serializers.ListField(child=serializers.IntegerField())

    def to_representation(self, instance: Any) -> Any:  # Any: [name, datatype, shape], as the row has it
        return dict(zip(("name", "datatype", "shape"), instance, strict=True))


class ModelOut(Out):
    id = ShownId("mdl")
    name = serializers.CharField()
    organization = serializers.SerializerMethodField()
    task = serializers.CharField()
    description = serializers.CharField()
    visibility = serializers.CharField()
    aliases = serializers.SerializerMethodField()
    created_at = serializers.DateTimeField()

    def get_organization(self, model: MLModel) -> str:
        # The catalogue's own row is hidden from other tenants.
        return CATALOG_SLUG if model.organization_id == CATALOG_ID else model.organization.slug

    @extend_schema_field(serializers.DictField(child=serializers.CharField()))
    def get_aliases(self, model: MLModel) -> dict[str, str]:
        return {alias.name: alias.version.number for alias in model.aliases.all()}


class VersionOut(Out):
    id = ShownId("ver")
    model = serializers.CharField(source="model.name")
    version = serializers.CharField(source="number")
    digest = serializers.CharField()
    size = serializers.IntegerField()
    state = serializers.CharField()
    verdict = serializers.JSONField(allow_null=True)
    hardware = serializers.CharField()
    inputs = TensorOut(many=True)
    outputs = TensorOut(many=True)
    has_batch = serializers.BooleanField()
    is_batchable = serializers.BooleanField()
    aliases = serializers.SerializerMethodField()
    created_at = serializers.DateTimeField()

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_aliases(self, version: ModelVersion) -> list[str]:
        return sorted(alias.name for alias in version.aliases.all())


class VersionDetailOut(VersionOut):
    manifest = serializers.JSONField()


class AliasOut(Out):
    alias = serializers.CharField(source="name")
    model = serializers.CharField(source="model.name")
    version = serializers.CharField(source="version.number")
    updated_at = serializers.DateTimeField()


class AliasChangeOut(Out):
    version = serializers.CharField(source="version.number")
    set_at = serializers.DateTimeField(source="created_at")
    undone_at = serializers.DateTimeField(allow_null=True)


class AliasDetailOut(AliasOut):
    history = serializers.SerializerMethodField()

    @extend_schema_field(AliasChangeOut(many=True))
    def get_history(self, alias: Any) -> Any:  # Any: an Alias; JSON
        changes = alias.model.alias_changes.filter(alias=alias.name).select_related("version").order_by("-created_at")[:100]
        return AliasChangeOut(changes, many=True).data
