"""Seals of hours, and how far sealing is. Written by billing.proof.sealer alone; their migration makes them by SQL."""

from django.db import models


class UsageSeal(models.Model):
    """The calls of an organization in an hour (of the journal's ids) as one signed hash. Append-only, for everybody.

    `prev_seal` is the hash of the seal with the number before. Its rows are those from `first_call` to `last_call` in this hour
    that came in batches of the drain after `after_batch`, up to `last_batch`. The real primary key is (tenant_id, hour, seq).
    """

    tenant_id = models.UUIDField()
    hour = models.DateTimeField()
    seq = models.IntegerField()
    number = models.BigIntegerField(primary_key=True, help_text="Place in the organization's chain, from 1.")
    n = models.BigIntegerField()
    amount_nano = models.BigIntegerField()
    merkle_root = models.BinaryField()
    prev_seal = models.BinaryField()
    key_version = models.IntegerField()
    sig = models.BinaryField()
    first_call = models.UUIDField()
    last_call = models.UUIDField()
    after_batch = models.BigIntegerField()
    last_batch = models.BigIntegerField()
    sealed_at = models.DateTimeField()
    by_price = models.JSONField(default=list)  # live, answered calls, as billing.proof.seals.Parts makes it

    class Meta:
        db_table = "usage_seal"
        managed = False

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.hour:%Y-%m-%d %H}h #{self.number}"


class SealDue(models.Model):
    """An hour of an organization that has rows without a seal. The real primary key is (stream, hour, tenant_id)."""

    stream = models.CharField(max_length=100)
    tenant_id = models.UUIDField(primary_key=True)
    hour = models.DateTimeField()
    first_call = models.UUIDField()
    last_call = models.UUIDField()

    class Meta:
        db_table = "seal_due"
        managed = False

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.hour:%Y-%m-%d %H}h"


class SealProgress(models.Model):
    """Up to which batch a journal's rows are in `seal_due`, by compare-and-set; all hours before `hour` are sealed."""

    stream = models.CharField(max_length=100, primary_key=True)
    batch = models.BigIntegerField()
    hour = models.DateTimeField()

    class Meta:
        db_table = "seal_progress"
        managed = False

    def __str__(self) -> str:
        return f"{self.stream} {self.batch}"
