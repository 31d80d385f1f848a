"""What we have heard from Stripe."""

from django.db import models
from django.db.models import Q
from django.utils import timezone


class StripeEvent(models.Model):
    """An event of Stripe, stored before it is acknowledged: the primary key makes a repeated delivery nothing.

    Only its ids are kept: whoever processes it fetches the object. `next_try_at` is queue and lease at once. For operators.
    """

    event_id = models.CharField(max_length=255, primary_key=True)
    type = models.CharField(max_length=100)
    object_kind = models.CharField(max_length=100, blank=True)
    object_id = models.CharField(max_length=255, blank=True)
    customer = models.CharField(max_length=255, blank=True)
    is_thin = models.BooleanField(default=False)
    created_at = models.DateTimeField(null=True, help_text="By Stripe's clock, in whole seconds: it orders nothing.")
    received_at = models.DateTimeField(default=timezone.now)
    next_try_at = models.DateTimeField(default=timezone.now)
    attempts = models.PositiveIntegerField(default=0)
    processed_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True)

    class Meta:
        db_table = "stripe_event_inbox"
        indexes = [models.Index(fields=["next_try_at"], condition=Q(processed_at=None), name="stripe_event_waiting")]

    def __str__(self) -> str:
        return f"{self.event_id} {self.type}"


class StripeAttempt(models.Model):
    """The number of the key under which an object is asked for: one more for each 500 that Stripe has answered."""

    key = models.CharField(max_length=255, primary_key=True)
    attempt = models.PositiveIntegerField()
    at = models.DateTimeField()

    class Meta:
        db_table = "stripe_attempt"

    def __str__(self) -> str:
        return f"{self.key} {self.attempt}"
