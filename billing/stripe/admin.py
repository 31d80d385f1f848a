"""Operators' page of what Stripe has told us."""

from django.contrib import admin

from billing.models import StripeEvent
from tenants.admin import ReadOnlyAdmin


@admin.register(StripeEvent)
class StripeEventAdmin(ReadOnlyAdmin):
    list_display = ("event_id", "type", "object_id", "customer", "received_at", "processed_at", "attempts", "error")
    list_filter = (("processed_at", admin.EmptyFieldListFilter), "type")
    search_fields = ("=event_id", "=object_id", "=customer")
    ordering = ("-received_at",)
