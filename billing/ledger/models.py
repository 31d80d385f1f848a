"""The ledger and its sums. Rows are written by the drain alone (billing.ledger.writing); everybody else reads.

None of these tables has a foreign key: nothing may keep the drain from recording a call that was served. A call that a
session started, without an API key, has the nil UUID as its key.
"""

from uuid import UUID

from django.db import models

NIL = UUID(int=0)


class UsageEvent(models.Model):
    """One call. Append-only and partitioned by day; the day is that of the UUIDv7 call id, so the id is unique everywhere.

    The table is made by SQL in the first migration: its real primary key is (day, call_id, seq).
    """

    day = models.DateField()
    call_id = models.UUIDField(primary_key=True)
    seq = models.SmallIntegerField(default=0)
    tenant_id = models.UUIDField()
    api_key_id = models.UUIDField()
    model_id = models.UUIDField()
    version_id = models.UUIDField()
    model_name = models.TextField()
    version_number = models.TextField()
    endpoint = models.TextField()
    mode = models.TextField()
    kind = models.TextField()
    period = models.CharField(max_length=7)
    rows = models.BigIntegerField()
    bytes_in = models.BigIntegerField()
    bytes_out = models.BigIntegerField()
    queue_us = models.BigIntegerField()
    compute_us = models.BigIntegerField()
    price_version = models.IntegerField()
    amount_nano = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    is_clamped = models.BooleanField()
    request_id = models.TextField()
    opened_at = models.DateTimeField()
    closed_at = models.DateTimeField()
    stream_id = models.TextField()
    batch = models.BigIntegerField(default=0)  # of the drain, in which it came; the roll-up goes by it
    digests = models.TextField(default="")  # SHA-256 of model, request and answer, with colons, if there is a receipt

    class Meta:
        db_table = "usage_event"
        managed = False
        verbose_name = "call"

    def __str__(self) -> str:
        return str(self.call_id)


class UsageHour(models.Model):
    """Calls of one hour (in which they were opened) by key, model, version and mode; all that pages read.

    The sums count answered calls; `reversed` counts those whose gateway died before their close, which cost nothing.
    `total_ms` is the sum of the times from open to close. Nobody looks for an id, so it has no index.
    UsageRollup says up to where in the journal the hours are complete.
    """

    tenant_id = models.UUIDField()
    api_key_id = models.UUIDField()
    model_id = models.UUIDField()
    version_id = models.UUIDField()
    mode = models.TextField()
    hour = models.DateTimeField()
    currency = models.CharField(max_length=3)
    model_name = models.TextField()
    version_number = models.TextField()
    calls = models.BigIntegerField()
    reversed = models.BigIntegerField()
    rows = models.BigIntegerField()
    bytes_in = models.BigIntegerField()
    bytes_out = models.BigIntegerField()
    queue_us = models.BigIntegerField()
    compute_us = models.BigIntegerField()
    total_ms = models.BigIntegerField()
    amount_nano = models.BigIntegerField()

    class Meta:
        db_table = "usage_hour"
        constraints = [
            models.UniqueConstraint(
                fields=["tenant_id", "hour", "api_key_id", "model_id", "version_id", "mode", "currency"], name="usage_hour_key"
            )
        ]

    def __str__(self) -> str:
        return f"{self.model_name} {self.hour:%Y-%m-%d %H}h"


class UsageMonth(models.Model):
    """What a key (the nil UUID: sessions) has used in a month (`2026-11`): what accounts are rebuilt from, exact with each row.

    Test-mode and reversed calls raise no sum. Made by SQL: its real primary key is (tenant_id, api_key_id, period).
    """

    tenant_id = models.UUIDField()
    api_key_id = models.UUIDField()
    period = models.CharField(max_length=7)
    calls = models.BigIntegerField()
    amount_nano = models.BigIntegerField()

    class Meta:
        db_table = "usage_month"
        managed = False

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.api_key_id} {self.period}"


class JournalPosition(models.Model):
    """How far a journal has been moved into the ledger: the id of the last stream entry, changed only by compare-and-set.

    `batch` is the number of the last one; each stream counts in a range of its own.
    """

    stream = models.CharField(max_length=100, primary_key=True)
    position = models.CharField(max_length=41)
    updated_at = models.DateTimeField()
    batch = models.BigIntegerField(default=0)

    class Meta:
        db_table = "journal_position"

    def __str__(self) -> str:
        return f"{self.stream} {self.position}"


class UsageRollup(models.Model):
    """How far a journal's rows are in the hours: batch and position as the drain had them, changed only by compare-and-set."""

    stream = models.CharField(max_length=100, primary_key=True)
    batch = models.BigIntegerField()
    position = models.CharField(max_length=41)

    class Meta:
        db_table = "usage_rollup"

    def __str__(self) -> str:
        return f"{self.stream} {self.position}"


class JournalQuarantine(models.Model):
    """A journal record that the ledger refused, as it was, with the reason. A person looks at each."""

    stream = models.CharField(max_length=100)
    stream_id = models.CharField(max_length=41)
    number = models.IntegerField(help_text="Place of the record in its stream entry, from 0.")
    raw = models.BinaryField()
    error = models.TextField()
    created_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "journal_quarantine"
        constraints = [models.UniqueConstraint(fields=["stream", "stream_id", "number"], name="journal_quarantine_key")]

    def __str__(self) -> str:
        return f"{self.stream_id} #{self.number}"
