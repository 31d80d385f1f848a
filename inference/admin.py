"""The operators' pages of models, versions and aliases: to look at. Changes go through the API or `manage.py publish`."""

from typing import ClassVar

from django.contrib import admin

from inference.models import Alias, AliasChange, MLModel, ModelVersion
from tenants.admin import ReadOnlyAdmin


@admin.register(MLModel)
class MLModelAdmin(ReadOnlyAdmin):
    list_display = ("name", "organization", "task", "visibility", "created_at", "deleted_at")
    list_filter = ("visibility", "task")
    list_select_related: ClassVar[tuple[str, ...]] = ("organization",)
    search_fields = ("name", "organization__slug")


@admin.register(ModelVersion)
class ModelVersionAdmin(ReadOnlyAdmin):
    list_display = ("model", "number", "organization", "state", "size", "is_batchable", "attempts", "created_at", "deleted_at")
    list_filter = ("state", "hardware")
    list_select_related = ("model", "organization")
    search_fields = ("model__name", "organization__slug", "digest")


@admin.register(Alias)
class AliasAdmin(ReadOnlyAdmin):
    list_display = ("name", "model", "version", "organization", "updated_at")
    list_select_related = ("model", "version", "organization")
    search_fields = ("name", "model__name", "organization__slug")


@admin.register(AliasChange)
class AliasChangeAdmin(ReadOnlyAdmin):
    list_display = ("alias", "model", "version", "organization", "created_at", "undone_at")
    list_select_related = ("model", "version", "organization")
    search_fields = ("alias", "model__name", "organization__slug")
