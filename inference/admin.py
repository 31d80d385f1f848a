"""The operators' pages of models, versions, aliases and predictions: to look at, and without what customers sent and got.

Changes go through the API or `manage.py publish`.
"""

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from inference.models import Alias, AliasChange, MLModel, ModelVersion
from inference.predictions.models import Prediction, StoredAnswer
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


class SealedAdmin(ReadOnlyAdmin):
    """A page of a table with payloads, which are neither shown nor read."""

    list_select_related: ClassVar[tuple[str, ...]] = ("organization",)
    readonly_fields = ("id", "organization", "created_at")

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":  # Any: rows of any table
        return super().get_queryset(request).defer(*self.exclude)  # type: ignore[misc]  # each subclass has some


@admin.register(Prediction)
class PredictionAdmin(SealedAdmin):
    list_display = (
        "shown_id",
        "organization",
        "model_name",
        "version_number",
        "status",
        "error_code",
        "attempts",
        "created_at",
    )
    list_filter = ("status", "endpoint", "hardware")
    search_fields = ("=id", "organization__slug", "model_name", "=request_id")
    exclude = ("input", "output", "fingerprint", "idempotency_key")


@admin.register(StoredAnswer)
class StoredAnswerAdmin(SealedAdmin):
    list_display = ("id", "organization", "created_at", "expires_at")
    search_fields = ("=id", "organization__slug")
    exclude = ("sealed",)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:  # Any: as Django calls it
        """With a title that says why the list is empty although an Idempotency-Key was used."""
        title = "Answers stored for an Idempotency-Key that are larger than 1 MiB (smaller ones are on the state server only)"
        return super().changelist_view(request, {"title": title, **(extra_context or {})})
