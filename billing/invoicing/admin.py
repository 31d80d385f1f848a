"""Operators' pages of what goes to Stripe and what comes back, with the decisions that only a person can take."""

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest

from billing.invoicing import push, settling
from billing.invoicing.models import PushState, Settlement
from billing.models import Invoice, ReconRun, StripePush
from saas.lib import clock
from tenants import audit
from tenants.admin import ReadOnlyAdmin, operator

LEFT = (
    "one that Stripe has accepted is told anew with a reason, if it is what Stripe's sum of its hour lacks a "
    "day later; others when they wait for a person."
)


class ReasonForm(ActionForm):
    reason = forms.CharField(required=False, max_length=200, label="Reason")


@admin.register(StripePush)
class StripePushAdmin(ReadOnlyAdmin):
    list_display = ("identifier", "organization", "state", "value", "first_sent_at", "accepted_at", "attempts", "error")
    list_filter = ("state", "meter")
    search_fields = ("=identifier", "=organization__id", "=stripe_customer")
    ordering = ("-id",)
    actions = ("it_arrived", "tell_it_anew")
    action_form = ReasonForm

    @admin.action(description="Stripe has it: count it as accepted", permissions=["decide"])
    def it_arrived(self, request: HttpRequest, queryset: "QuerySet[StripePush]") -> None:
        self._decide(request, queryset, PushState.ACCEPTED)

    @admin.action(description="Stripe has not got it: tell the same usage anew", permissions=["decide"])
    def tell_it_anew(self, request: HttpRequest, queryset: "QuerySet[StripePush]") -> None:
        self._decide(request, queryset, PushState.REPLACED)

    def has_decide_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_stripepush")

    def _decide(self, request: HttpRequest, queryset: "QuerySet[StripePush]", to: PushState) -> None:
        """Only what is with a person; an accepted row only if the reconciliation misses it for a day, and with a reason."""
        reason, left = request.POST.get("reason", "").strip(), 0
        for row in queryset:
            with transaction.atomic(using="ops"):
                if (row.state == PushState.ACCEPTED and not reason) or not push.decide(row, to):
                    left += 1
                    continue
                details = {"state": to.value, **({"reason": reason} if reason else {})}
                audit.note(row.organization_id, operator(request), "usage_push.decided", row.identifier, **details)
        if left:
            self.message_user(request, f"{left} rows stay as they are: {LEFT}", messages.WARNING)


@admin.register(ReconRun)
class ReconRunAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "organization", "period_start", "verdict", "ledger", "pushed", "stripe", "draft")
    list_filter = ("verdict", "meter")
    search_fields = ("=organization__id", "=stripe_subscription")
    ordering = ("-id",)


@admin.register(Invoice)
class InvoiceAdmin(ReadOnlyAdmin):
    list_display = (
        "stripe_invoice",
        "number",
        "organization",
        "status",
        "settlement",
        "total_minor",
        "currency",
        "invoiced_at",
    )
    list_filter = ("settlement", "status", "currency")
    search_fields = ("=stripe_invoice", "=number", "=organization__id", "=stripe_customer")
    ordering = ("-id",)
    actions = ("check_now", "put_right")

    @admin.action(description="Compare again now", permissions=["check"])
    def check_now(self, request: HttpRequest, queryset: "QuerySet[Invoice]") -> None:
        queryset.filter(settlement__in=[Settlement.WAITING, Settlement.MISMATCH]).update(next_check_at=clock.now())

    @admin.action(description="Put its usage right: bill, or have a draft count, what is missing", permissions=["check"])
    def put_right(self, request: HttpRequest, queryset: "QuerySet[Invoice]") -> None:
        """Only asked for here: a task does it (billing.invoicing.settling)."""
        for row in queryset:
            with transaction.atomic(using="ops"):
                if settling.ask_for_correction(row):
                    audit.note(row.organization_id, operator(request), "invoice.correction_asked", row.stripe_invoice)

    def has_check_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_invoice")
