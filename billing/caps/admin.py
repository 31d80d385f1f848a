"""Operators' pages of budgets, credit and alerts. Credit is given here; it is never changed or taken back."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AdminSplitDateTime
from django.http import HttpRequest

from billing.caps import credit
from billing.caps.models import AlertFired, Budget, Category, CreditGrant, CreditMonth
from billing.sale.admin import AddOnlyAdmin, CheckedForm
from saas.lib import money
from saas.lib.errors import AppError
from tenants.admin import ReadOnlyAdmin, operator
from tenants.models import Organization


class GrantForm(CheckedForm):
    slug = forms.CharField(max_length=63, label="Organization", help_text="Its slug.")
    amount = forms.DecimalField(
        max_digits=18, decimal_places=9, help_text="In the organization's currency; less than nothing cannot be given."
    )
    category = forms.ChoiceField(choices=[(Category.PROMOTIONAL, "Promotional"), (Category.PAID, "Paid")])
    expires_at = forms.SplitDateTimeField(required=False, widget=AdminSplitDateTime, help_text="In the future; empty: never.")

    class Meta:
        model = CreditGrant
        fields = ("category", "expires_at", "priority", "reason")

    def clean(self) -> None:
        super().clean()
        organization = Organization.objects.filter(slug=self.cleaned_data.get("slug")).first()
        if organization is None:
            self.add_error("slug", "There is no such organization.")
        if self.errors:
            return
        self.instance.organization = organization
        self.instance.amount_nano = money.nano_of_decimal(self.cleaned_data["amount"])
        self.instance.expires_at = self.cleaned_data["expires_at"]
        try:
            credit.check(self.instance)
        except AppError as error:
            self.say(error)


@admin.register(CreditGrant)
class CreditGrantAdmin(AddOnlyAdmin):
    """Adding one gives the credit at once. It refuses calls only where the plan is prepaid, but is used up on any."""

    form = GrantForm
    list_display = [
        "organization",
        "amount",
        "remaining",
        "category",
        "expires_at",
        "priority",
        "created_at",
        "actor",
        "reason",
    ]
    list_filter = ["category"]
    list_select_related = ["organization"]
    search_fields = ["organization__slug", "=organization__id", "=payment_intent"]
    ordering = ["-id"]

    def get_fields(self, request: HttpRequest, obj: CreditGrant | None = None) -> Any:  # Any: Django's
        if obj is None:
            return ["slug", "amount", "category", "expires_at", "priority", "reason"]
        shown = ["organization", "amount", "remaining", "category", "expires_at", "priority", "payment_intent"]
        return [*shown, "created_at", "actor", "reason"]

    def amount(self, row: CreditGrant) -> str:
        return money.text_of(row.amount_nano)

    def remaining(self, row: CreditGrant) -> str:
        return money.text_of(row.remaining_nano)

    def save_model(self, request: HttpRequest, obj: CreditGrant, form: Any, change: bool) -> None:  # Any: the admin's form
        credit.give(obj, actor=operator(request))


@admin.register(Budget)
class BudgetAdmin(ReadOnlyAdmin):
    list_display = ["organization", "api_key", "amount_nano", "created_at"]
    search_fields = ["organization__slug", "=organization__id"]


@admin.register(CreditMonth)
class CreditMonthAdmin(ReadOnlyAdmin):
    list_display = ["organization", "period", "spent_nano", "burnt_nano", "overrun_nano"]
    list_filter = ["period"]
    search_fields = ["organization__slug", "=organization__id"]


@admin.register(AlertFired)
class AlertFiredAdmin(ReadOnlyAdmin):
    list_display = [
        "organization",
        "about",
        "api_key_id",
        "period",
        "percent",
        "amount_nano",
        "spent_nano",
        "created_at",
        "mailed_at",
    ]
    list_filter = ["about", "percent", "period"]
    search_fields = ["organization__slug", "=organization__id"]
