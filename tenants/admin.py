"""The operators' pages of tenants' tables. They run as `ops` (tenants/middleware.py); what is immutable is read only, and no
hash, token or key is shown."""

from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from tenants import actions, keys
from tenants.access import Actor
from tenants.limit_columns import CapColumns
from tenants.models import ApiKey, AuditEvent, DataKey, Invitation, Membership, Organization, RecordChange, User


def operator(request: HttpRequest) -> Actor:
    return Actor("operator", Actor.of(request.user).id)  # type: ignore[arg-type]  # the admin's pages need a signed-in User


class AddUserForm(AdminUserCreationForm):  # type: ignore[type-arg]  # not generic at run time
    class Meta:
        model = User
        fields = ("email", "name")


@admin.register(User)
class UserAdmin(DjangoUserAdmin):  # type: ignore[type-arg]  # not generic at run time
    add_form = AddUserForm
    ordering = ("email",)
    list_display = ("email", "name", "is_active", "is_staff", "created_at", "last_login")
    list_filter = ("is_staff", "is_superuser", "is_active")
    search_fields = ("email", "name")
    fieldsets = (
        (None, {"fields": ("email", "name", "password")}),
        ("Permissions", {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        ("Times", {"fields": ("last_login", "created_at")}),
    )
    add_fieldsets = ((None, {"fields": ("email", "name", "usable_password", "password1", "password2")}),)
    readonly_fields = ("last_login", "created_at")


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    """A page to look at."""

    ordering: ClassVar[tuple[str, ...]] = ("-id",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(Organization)
class OrganizationAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    """Limits and state are the operators'; a change reaches the gateways at once."""

    list_display = ("slug", "name", "is_active", "rate", "burst", "concurrency", "monthly_calls", "created_at")
    list_filter = ("is_active",)
    search_fields = ("slug", "name", "id")
    readonly_fields: ClassVar[tuple[str, ...]] = ("id", "slug", "created_at")
    ordering = ("-id",)
    fieldsets: ClassVar[tuple[Any, ...]] = (  # Any: Django's pairs of a heading and what is under it
        (None, {"fields": ("id", "slug", "name", "is_active", "created_at")}),
        ("Limits of calls", {"fields": ("rate", "burst", "concurrency", "monthly_calls")}),
        ("What it may have", {"fields": [*(field.name for field in CapColumns._meta.fields), "retention_hours"]}),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Organization, form: Any, change: bool) -> None:  # Any: the admin's form
        super().save_model(request, obj, form, change)
        actions.organization_changed(obj, actor=operator(request), fields=sorted(form.changed_data))


@admin.register(Membership)
class MembershipAdmin(ReadOnlyAdmin):
    list_display = ("user", "organization", "role", "created_at")
    list_filter = ("role",)
    list_select_related = ("user", "organization")
    search_fields = ("user__email", "organization__slug")


@admin.register(Invitation)
class InvitationAdmin(ReadOnlyAdmin):
    list_display = ("email", "organization", "role", "status", "expires_at")
    list_select_related = ("organization",)
    search_fields = ("email", "organization__slug")
    exclude = ("token_hash",)


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin):
    list_display = ("prefix", "organization", "name", "status", "created_at", "expires_at", "last_used_at")
    list_filter = ("mode",)
    list_select_related = ("organization",)
    search_fields = ("public_id", "name", "organization__slug")
    exclude = ("hash",)
    actions = ("revoke",)

    @admin.action(description="Revoke the selected keys", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: "QuerySet[ApiKey]") -> None:
        for key in queryset:
            keys.revoke(key, actor=operator(request))
        self.message_user(request, "The selected keys are refused from now on.")

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tenants.change_apikey")


@admin.register(DataKey)
class DataKeyAdmin(ReadOnlyAdmin):
    list_display = ("id", "organization", "purpose", "kek_version", "created_at", "retired_at")
    list_select_related = ("organization",)
    exclude = ("wrapped",)


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "organization", "actor_kind", "actor", "action", "target")
    list_filter = ("action", "actor_kind")
    list_select_related = ("organization",)
    search_fields = ("organization__slug", "actor", "target")


@admin.register(RecordChange)
class RecordChangeAdmin(ReadOnlyAdmin):
    list_display = ("name", "attempts", "next_try_at")
