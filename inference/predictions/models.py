"""Asynchronous predictions: the row is the job. A broker message only says where to look."""

from datetime import datetime, timedelta
from typing import Any, ClassVar, Self
from uuid import UUID

from django.db import models
from django.db.models import F, Func, Q, Value
from django.utils import timezone

from saas.lib.ids import shown
from tenants.models import Mode, Organization, TenantModel, TenantQuerySet
from tenants.principal import KeyRecord

LEASE = timedelta(seconds=90)
"""How long one attempt may hold a prediction before another may take it: above the longest deadline."""
RESEND = timedelta(seconds=60)
"""A message that was not taken for so long is sent again; claiming makes a second one harmless."""
MAX_ATTEMPTS = 3
KEY_LIFE = timedelta(hours=48)
"""How long an Idempotency-Key stands for its prediction: as long as gateways replay an answer."""


class Status(models.TextChoices):
    STARTING = "starting"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


TERMINAL = (Status.SUCCEEDED, Status.FAILED, Status.CANCELED)


class PredictionQuerySet(TenantQuerySet):
    def seen_by(self, key: KeyRecord | None) -> Self:
        """Of an organization's, those that its key may see and cancel: of models that it may call; a test key only those made
        with test keys. A person (None) sees all.
        """
        rows = self
        if key is not None and key.models is not None:
            short = Func(F("model_name"), Value("/"), Value(2), function="split_part", output_field=models.CharField())
            rows = rows.alias(short_name=short).filter(Q(model_name__in=key.models) | Q(short_name__in=key.models))
        if key is not None and key.mode == Mode.TEST:
            rows = rows.filter(mode=Mode.TEST)
        return rows

    def due(self, now: datetime) -> Self:
        """Not finished, and nobody's at the moment."""
        return self.filter(status__in=[Status.STARTING, Status.PROCESSING], next_try_at__lte=now)

    def unsent(self, now: datetime) -> Self:
        """Due, and the message that was sent for them is lost or long on its way."""
        return self.due(now).filter(Q(sent_at=None) | Q(sent_at__lt=now - RESEND))

    def claim(self, pk: UUID) -> "Prediction | None":
        """Take a due prediction for LEASE; None if it is finished, not due, or another worker was first."""
        now = timezone.now()
        taken = (
            self.due(now)
            .filter(pk=pk)
            .update(status=Status.PROCESSING, next_try_at=now + LEASE, attempts=models.F("attempts") + 1, started_at=now)
        )
        return self.get(pk=pk) if taken else None


class Prediction(TenantModel):
    """One asynchronous prediction. Input and output are sealed with the organization's data key."""

    key_public_id = models.CharField(max_length=12)
    key_id = models.UUIDField()
    mode = models.CharField(max_length=4, choices=Mode.choices, db_default=Mode.LIVE)  # of that key
    model_name = models.CharField(max_length=127)  # owner/name
    model_id = models.UUIDField()
    version_id = models.UUIDField()
    version_number = models.CharField(max_length=40)
    hardware = models.CharField(max_length=8)
    endpoint = models.CharField(max_length=10)  # predict or infer: which body the input is
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.STARTING)
    input = models.BinaryField(null=True)  # null: removed after its retention
    output = models.BinaryField(null=True)  # null: none yet, or removed
    error_code = models.CharField(max_length=40, blank=True)
    error_detail = models.CharField(max_length=500, blank=True)
    request_id = models.CharField(max_length=128, blank=True)
    timeout = models.FloatField()  # seconds of one attempt
    attempts = models.PositiveSmallIntegerField(default=0)
    next_try_at = models.DateTimeField(default=timezone.now)
    sent_at = models.DateTimeField(default=timezone.now, null=True)  # when a message for it was last sent; null: send one
    is_cancel_requested = models.BooleanField(default=False)
    started_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField()
    data_removed_at = models.DateTimeField(null=True)
    queue_us = models.BigIntegerField(default=0)
    compute_us = models.BigIntegerField(default=0)
    quote = models.TextField(blank=True, db_default="")  # that was named when it was created, and was good then
    cost = models.CharField(max_length=40, blank=True, db_default="")  # as in X-Maas-Cost, once it has succeeded
    # null: none was given, or it is older than KEY_LIFE
    idempotency_key = models.CharField(max_length=255, null=True)  # noqa: DJ001  # the constraint lets there be many nulls
    fingerprint = models.BinaryField(max_length=32, null=True)  # SHA-256 of the request that the key stands for

    objects: ClassVar[Any] = PredictionQuerySet.as_manager()  # Any: the base class has a manager of another type

    class Meta:
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["organization", "-id"], name="prediction_newest"),
            models.Index(fields=["next_try_at"], name="prediction_due", condition=Q(status__in=["starting", "processing"])),
            models.Index(fields=["expires_at"], name="prediction_expiry", condition=Q(data_removed_at__isnull=True)),
            models.Index(fields=["created_at"], name="prediction_keyed", condition=Q(idempotency_key__isnull=False)),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(condition=Q(status__in=Status.values), name="prediction_status"),
            models.CheckConstraint(condition=Q(mode__in=Mode.values), name="prediction_mode"),
            models.UniqueConstraint(
                fields=["organization", "mode", "idempotency_key"],
                name="prediction_key_of_mode",
                condition=Q(idempotency_key__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.shown_id

    @property
    def shown_id(self) -> str:
        return shown("pred", self.id)

    def finish(self, status: Status, **columns: object) -> bool:
        """Give it its outcome, unless it has one. Returns whether this call did.

        An attempt that lost its lease may bring the answer, which is the same for all, but nothing else. What comes after the
        retention has removed the data leaves none.
        """
        values = {"status": status, "completed_at": timezone.now(), **columns}
        mine = type(self).objects.filter(pk=self.pk, organization_id=self.organization_id).exclude(status__in=TERMINAL)
        if status != Status.SUCCEEDED:
            mine = mine.filter(started_at=self.started_at)
        if mine.filter(data_removed_at=None).update(**values):
            return True
        return mine.update(**{**values, "output": None}) == 1

    def give_back(self, *, after: timedelta) -> None:
        """Let another attempt take it `after` a while. This one ended by our failure and does not count.

        Nothing happens if it lost its lease: then the prediction is another's.
        """
        mine = type(self).objects.filter(pk=self.pk, organization_id=self.organization_id, status=Status.PROCESSING)
        mine = mine.filter(started_at=self.started_at)
        mine.update(next_try_at=timezone.now() + after, sent_at=None, attempts=models.F("attempts") - 1)


class KeptData(models.Model):
    """How many bytes an organization has in sealed inputs, outputs and stored answers. Triggers keep it in each transaction."""

    organization = models.OneToOneField(
        Organization, on_delete=models.CASCADE, db_column="tenant_id", primary_key=True, related_name="+"
    )
    bytes = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.bytes} bytes"


class StoredAnswer(TenantModel):
    """An answer for an Idempotency-Key that is too large for the books. Its id is the call's; sealed like the others."""

    sealed = models.BinaryField()
    expires_at = models.DateTimeField()

    class Meta:
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["expires_at"], name="storedanswer_expiry")]

    def __str__(self) -> str:
        return self.id.hex
