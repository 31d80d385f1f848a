"""Plain pages for operators. The ledger can be read here and changed nowhere."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from billing.models import JournalPosition, JournalQuarantine, PriceVersion, QuotaChange, UsageEvent, UsageHour, UsageSum


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # it takes no argument at run time
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # Any: a row
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # Any: a row
        return False


@admin.register(UsageEvent)
class UsageEventAdmin(ReadOnlyAdmin):
    list_display = ["call_id", "opened_at", "tenant_id", "model_name", "version_number", "mode", "kind", "rows", "amount_nano"]
    list_filter = ["day", "mode", "kind"]
    search_fields = ["=call_id", "=tenant_id", "=request_id"]
    date_hierarchy = "day"
    ordering = ["-day", "-call_id"]


@admin.register(UsageHour)
class UsageHourAdmin(ReadOnlyAdmin):
    list_display = ["hour", "tenant_id", "model_name", "version_number", "mode", "calls", "reversed", "rows", "amount_nano"]
    list_filter = ["mode"]
    search_fields = ["=tenant_id", "model_name"]
    ordering = ["-hour", "id"]


@admin.register(UsageSum)
class UsageSumAdmin(ReadOnlyAdmin):
    list_display = ["tenant_id", "scope", "period", "calls", "amount_nano"]
    list_filter = ["period"]
    search_fields = ["=tenant_id", "=scope"]


@admin.register(JournalPosition)
class JournalPositionAdmin(ReadOnlyAdmin):
    list_display = ["stream", "position", "updated_at"]


@admin.register(JournalQuarantine)
class JournalQuarantineAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "stream", "stream_id", "number", "error", "resolved_at"]


@admin.register(PriceVersion)
class PriceVersionAdmin(ReadOnlyAdmin):
    list_display = ["version", "name", "currency", "created_at"]


@admin.register(QuotaChange)
class QuotaChangeAdmin(ReadOnlyAdmin):
    list_display = ["tenant_id", "version", "projected_version"]
