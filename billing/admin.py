"""Plain pages for operators. The ledger can be read here and changed nowhere."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from billing.caps import admin as cap_admin  # noqa: F401  # their pages are registered by the import
from billing.caps.limits import limits_of
from billing.invoicing import admin as push_admin  # noqa: F401  # their pages are registered by the import
from billing.models import (
    JournalPosition,
    JournalQuarantine,
    QuotaChange,
    UsageEvent,
    UsageHour,
    UsageMonth,
    UsageRollup,
)
from billing.sale import admin as sale_admin  # noqa: F401  # their pages are registered by the import
from billing.stripe import admin as stripe_admin  # noqa: F401  # their pages are registered by the import
from saas.lib import clock
from saas.lib.errors import Unavailable
from tenants.admin import OrganizationAdmin
from tenants.models import Organization


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


@admin.register(UsageMonth)
class UsageMonthAdmin(ReadOnlyAdmin):
    list_display = ["tenant_id", "api_key_id", "period", "calls", "amount_nano"]
    list_filter = ["period"]
    search_fields = ["=tenant_id", "=api_key_id"]
    ordering = ["tenant_id", "api_key_id", "period"]


@admin.register(JournalPosition)
class JournalPositionAdmin(ReadOnlyAdmin):
    list_display = ["stream", "position", "batch", "updated_at"]


@admin.register(UsageRollup)
class UsageRollupAdmin(ReadOnlyAdmin):
    list_display = ["stream", "position", "batch"]


@admin.register(JournalQuarantine)
class JournalQuarantineAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "stream", "stream_id", "number", "error", "resolved_at"]


@admin.register(QuotaChange)
class QuotaChangeAdmin(ReadOnlyAdmin):
    list_display = ["tenant_id", "version", "projected_version"]


admin.site.unregister(Organization)


@admin.register(Organization)
class OrganizationWithLimitsAdmin(OrganizationAdmin):
    """The organization's page of the tenants app, and on it what GET /limits says."""

    readonly_fields = (*OrganizationAdmin.readonly_fields, "limits_and_what_is_left")
    fieldsets = (*OrganizationAdmin.fieldsets, ("What is left", {"fields": ("limits_and_what_is_left",)}))

    def limits_and_what_is_left(self, organization: Organization) -> SafeString | str:
        try:
            limits = limits_of(organization, None, now=clock.now())["organization"]
        except Unavailable as error:
            return error.detail
        rows = [
            (name, *(_shown(values.get(column)) for column in ("limit", "used", "left"))) for name, values in limits.items()
        ]
        head = SafeString("<tr><th>limit of</th><th>limit</th><th>used</th><th>left</th></tr>")
        body = format_html_join("", "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td></tr>", rows)
        return format_html("<table>{}{}</table>", head, body)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:,}"
