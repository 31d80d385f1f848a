"""What a POST with an Idempotency-Key was answered, so that a retry gets the same answer and moves no money twice."""

from django.db import models

from tenants.models import TenantModel


class Post(TenantModel):
    """One request. `status` is null while it runs, which nobody else sees: its transaction holds both or neither."""

    key = models.CharField(max_length=255)
    fingerprint = models.BinaryField(max_length=32)  # as of saas.lib.fingerprints
    status = models.PositiveSmallIntegerField(null=True)
    body = models.TextField(blank=True)

    class Meta:
        db_table = "billing_post"
        constraints = [models.UniqueConstraint(fields=["organization", "key"], name="billing_post_once")]
        indexes = [models.Index(fields=["created_at"], name="billing_post_age")]

    def __str__(self) -> str:
        return self.key
