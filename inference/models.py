"""Models, their immutable versions, and the aliases that calls go through.

A model and a version are never removed, only marked as deleted: usage records point at them. Writers lock the model's row
first (inference.actions), so that a version cannot be deleted while an alias moves to it.
"""

from datetime import datetime, timedelta
from typing import Any, ClassVar, Self
from uuid import UUID

from django.db import models
from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone

from inference.slow import has_slow_lanes
from saas.lib.ids import shown
from saas.lib.names import NAME_PATTERN
from tenants.models import CATALOG_ID, TenantModel, TenantQuerySet

PRODUCTION = "production"
INTAKE_LEASE = timedelta(seconds=150)
"""How long one attempt at intake may take before another may begin: above the sum of its subprocesses' deadlines."""
INTAKE_ATTEMPTS = 3
LIVE = Q(deleted_at__isnull=True)


class Task(models.TextChoices):
    TENSOR = "tensor"
    TABULAR = "tabular"
    IMAGE = "image-classification"
    TEXT = "text-classification"


class Visibility(models.TextChoices):
    PRIVATE = "private"
    PUBLIC = "public"


class State(models.TextChoices):
    VALIDATING = "validating"
    READY = "ready"
    REJECTED = "rejected"


class LiveQuerySet(TenantQuerySet):
    def live(self) -> Self:
        """Without what was deleted."""
        return self.filter(LIVE)


class ModelQuerySet(LiveQuerySet):
    def published(self) -> Self:
        """Public, and with a version that can be called: before that, nobody but operators knows of a model."""
        ready = ModelVersion.objects.live().filter(model=OuterRef("pk"), state=State.READY)
        return self.live().filter(Exists(ready), visibility=Visibility.PUBLIC)


class MLModel(TenantModel):
    """A named model of an organization. Its name is free again once it is deleted."""

    name = models.CharField(max_length=63)
    task = models.CharField(max_length=24, choices=Task.choices, blank=True, help_text="Empty until the first upload says it.")
    description = models.TextField(blank=True, max_length=10_000)
    visibility = models.CharField(max_length=8, choices=Visibility.choices, default=Visibility.PRIVATE)
    deleted_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[Any] = ModelQuerySet.as_manager()  # Any: as the shared queryset

    class Meta:
        verbose_name = "model"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["organization", "name"], condition=LIVE, name="mlmodel_name_once"),
            models.CheckConstraint(condition=Q(name__regex=NAME_PATTERN), name="mlmodel_name_form"),
            models.CheckConstraint(condition=Q(task__in=["", *Task.values]), name="mlmodel_task"),
            models.CheckConstraint(
                condition=Q(visibility=Visibility.PRIVATE) | Q(visibility=Visibility.PUBLIC, organization=CATALOG_ID),
                name="mlmodel_only_the_catalogue_is_public",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def shown_id(self) -> str:
        return shown("mdl", self.id)

    @property
    def is_public(self) -> bool:
        return self.visibility == Visibility.PUBLIC


class VersionQuerySet(LiveQuerySet):
    def due(self, now: datetime) -> Self:
        """Not yet judged, and in nobody's hands."""
        return self.live().filter(state=State.VALIDATING, next_try_at__lte=now)

    def in_hands(self, now: datetime) -> Self:
        """Being examined, or kept back for a while after an examination that failed through our fault."""
        return self.live().filter(state=State.VALIDATING, next_try_at__gt=now)

    def claim(self, pk: UUID) -> "ModelVersion | None":
        """Take a due version for INTAKE_LEASE; None if it is judged, not due, or another worker was first."""
        now = timezone.now()
        lease = {"attempts": F("attempts") + 1, "next_try_at": now + INTAKE_LEASE, "examined_at": now}
        taken = self.due(now).filter(pk=pk).update(**lease)
        return self.select_related("model").get(pk=pk) if taken else None

    def in_order(self) -> Self:
        """Newest number first."""
        return self.order_by("-major", "-minor", "-patch")


class ModelVersion(TenantModel):
    """One artifact under a number. Nothing of it changes but its state, once, and what intake measured with it."""

    model = models.ForeignKey(MLModel, on_delete=models.CASCADE, related_name="versions", db_constraint=False)
    major = models.PositiveIntegerField()
    minor = models.PositiveIntegerField()
    patch = models.PositiveIntegerField()
    digest = models.CharField(max_length=64, help_text="SHA-256 of the artifact, hexadecimal.")
    size = models.BigIntegerField(help_text="Bytes of the artifact.")
    manifest = models.JSONField(default=dict)
    hardware = models.CharField(max_length=3, default="cpu")
    state = models.CharField(max_length=10, choices=State.choices, default=State.VALIDATING)
    verdict = models.JSONField(null=True, blank=True, help_text="What intake found, for the uploader.")
    inputs = models.JSONField(default=list, help_text="[[name, datatype, shape], …]")
    outputs = models.JSONField(default=list, help_text="[[name, datatype, shape], …]")
    has_batch = models.BooleanField(default=False, help_text="The leading dimension is free.")
    is_batchable = models.BooleanField(default=False, help_text="And its rows were found independent.")
    max_batch_rows = models.PositiveIntegerField(
        db_default=32, help_text="Rows of different calls in one run at most: intake tried no more of them together."
    )
    load_bytes = models.BigIntegerField(default=0, help_text="Memory that it takes once loaded.")
    ms_per_row = models.FloatField(default=0.0)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_try_at = models.DateTimeField(default=timezone.now)
    examined_at = models.DateTimeField(null=True, blank=True, help_text="When its last examination began.")
    examined_seconds = models.FloatField(db_default=0.0, help_text="How long its examinations took, all together.")
    needs_long = models.BooleanField(db_default=False, help_text="Its short examination did not end; a long one is due.")
    ready_at = models.DateTimeField(null=True, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)
    removed_at = models.DateTimeField(null=True, blank=True, help_text="When the artifact of a deleted version was removed.")

    objects: ClassVar[Any] = VersionQuerySet.as_manager()  # Any: as the shared queryset

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["model", "major", "minor", "patch"], name="modelversion_number_once"),
            models.CheckConstraint(condition=Q(state__in=State.values), name="modelversion_state"),
            models.CheckConstraint(condition=Q(hardware__in=["cpu", "gpu"]), name="modelversion_hardware"),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["next_try_at"], name="modelversion_due", condition=LIVE & Q(state=State.VALIDATING)),
            models.Index(fields=["deleted_at"], name="modelversion_to_remove", condition=~LIVE & Q(removed_at__isnull=True)),
        ]

    def __str__(self) -> str:
        return self.number

    @property
    def shown_id(self) -> str:
        return shown("ver", self.id)

    @property
    def number(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def has_slow_lanes(self) -> bool:
        return has_slow_lanes(takes_items=self.model.task in (Task.IMAGE, Task.TEXT), ms_per_row=self.ms_per_row)

    @property
    def artifact_key(self) -> str:
        return artifact_key(self.organization_id, self.id)


def artifact_key(organization_id: UUID, version_id: UUID) -> str:
    """Name of a version's artifact in the store: no two versions share one."""
    return f"{organization_id.hex}/{version_id.hex}.onnx"


class Alias(TenantModel):
    """A movable name of a version: `production` is what a call without version goes to."""

    model = models.ForeignKey(MLModel, on_delete=models.CASCADE, related_name="aliases", db_constraint=False)
    name = models.CharField(max_length=63)
    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="aliases", db_constraint=False)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name_plural = "aliases"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["model", "name"], name="alias_once"),
            models.CheckConstraint(condition=Q(name__regex=NAME_PATTERN), name="alias_name_form"),
        ]

    def __str__(self) -> str:
        return self.name


class AliasChange(TenantModel):
    """History of an alias, as a stack: the newest row that is not undone is where it points; a roll-back undoes that row."""

    model = models.ForeignKey(MLModel, on_delete=models.CASCADE, related_name="alias_changes", db_constraint=False)
    alias = models.CharField(max_length=63)
    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="+", db_constraint=False)
    undone_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["model", "alias", "-created_at"], name="aliaschange_newest"),
        ]

    def __str__(self) -> str:
        return f"{self.alias} {self.version_id}"


from inference.predictions.models import KeptData, Prediction, StoredAnswer  # noqa: E402, F401  # Django finds models here
