"""Operators' pages of what is for sale, and of who is on what. Everything is added; nothing is changed or removed."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AdminSplitDateTime
from django.db import models
from django.forms import ModelForm
from django.http import HttpRequest

from billing.models import Plan, PlanVersion, PriceVersion, Subscription
from billing.sale import plan_versions, plans, prices
from billing.sale.models import LIMITS, current_subscription
from inference.models import MLModel
from saas.lib import clock
from saas.lib.errors import AppError
from tenants.admin import operator
from tenants.models import CATALOG_ID, CATALOG_SLUG, Organization

REASON = forms.CharField(max_length=500, help_text="Why; it is kept with your name.")


class AddOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # it takes no argument at run time
    """Rows can be added and looked at."""

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # Any: a row
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # Any: a row
        return False


class CheckedForm(ModelForm):  # type: ignore[type-arg]  # not generic at run time
    """A form whose row is checked by the functions that the rest of the service uses."""

    reason = REASON

    def say(self, error: AppError) -> None:
        """Put each complaint beside its field, those about none above the form."""
        for said in error.errors or [{"field": None, "detail": error.detail}]:
            name = said["field"] if said["field"] in self.fields else None
            if name is None or name not in self.errors:
                self.add_error(name, said["detail"])


class PriceForm(CheckedForm):
    model = forms.CharField(
        max_length=127, required=False, help_text="organization/name; empty: all private models of the organization below."
    )
    organization = forms.CharField(max_length=63, required=False, help_text="Its slug; empty: the price is everybody's.")
    starts_at = forms.SplitDateTimeField(
        required=False,
        widget=AdminSplitDateTime,
        help_text="In the future; empty: as soon as every gateway knows it.",
    )

    class Meta:
        model = PriceVersion
        fields = ("currency", "call_price", "row_price", "second_price", "starts_at", "reason")

    def clean(self) -> None:
        super().clean()
        price, organization, model = self.instance, self._organization(), self._model()
        if self.errors:
            return
        if model is not None and not model.is_public and organization is None:
            organization = model.organization
        price.model_id = model.id if model else None
        price.organization_id = organization.id if organization else None
        price.name = prices.name_of(model, organization)
        for column in ("currency", *prices.COLUMNS):
            setattr(price, column, self.cleaned_data[column])
        price.starts_at = self.cleaned_data["starts_at"] = self.cleaned_data.get("starts_at") or prices.earliest_start(price)
        try:
            prices.check(price)
        except AppError as error:
            self.say(error)

    def _organization(self) -> Organization | None:
        slug = self.cleaned_data.get("organization")
        found = Organization.objects.filter(slug=slug).first() if slug else None
        if slug and found is None:
            self.add_error("organization", "There is no such organization.")
        return found

    def _model(self) -> MLModel | None:
        name = self.cleaned_data.get("model")
        if not name:
            return None
        owner, _, short = name.rpartition("/")
        models = MLModel.objects.live().filter(name=short).select_related("organization")
        owned = models.of(CATALOG_ID) if owner in ("", CATALOG_SLUG) else models.filter(organization__slug=owner)
        found: MLModel | None = owned.first()
        if found is None:
            self.add_error("model", "There is no such model.")
        return found


@admin.register(PriceVersion)
class PriceVersionAdmin(AddOnlyAdmin):
    form = PriceForm
    list_display = ["version", "name", "currency", "call_price", "row_price", "second_price", "starts_at", "actor", "reason"]
    list_filter = ["currency"]
    search_fields = ["name", "=model_id", "=organization_id"]
    ordering = ["-version"]

    def get_fields(self, request: HttpRequest, obj: PriceVersion | None = None) -> Any:  # Any: Django's
        columns = ["currency", *prices.COLUMNS, "starts_at", "reason"]
        return ["model", "organization", *columns] if obj is None else ["version", "name", *columns, "created_at", "actor"]

    def save_model(self, request: HttpRequest, obj: PriceVersion, form: Any, change: bool) -> None:  # Any: the admin's form
        obj.actor = str(operator(request))
        prices.add(obj, operator(request))


class PlanVersionForm(CheckedForm):
    class Meta:
        model = PlanVersion
        fields = (
            *("plan", "currency", "monthly_fee", "included_calls", "included_amount", "overage", "is_prepaid"),
            *(*LIMITS, "starts_at", "reason"),
        )

    def clean(self) -> None:
        super().clean()
        if self.errors:
            return
        for name, value in self.cleaned_data.items():
            setattr(self.instance, name, value)
        try:
            plan_versions.check(self.instance)
        except AppError as error:
            self.say(error)


@admin.register(Plan)
class PlanAdmin(AddOnlyAdmin):
    list_display = ["slug", "name", "is_public", "created_at"]
    ordering = ["slug"]


@admin.register(PlanVersion)
class PlanVersionAdmin(AddOnlyAdmin):
    form = PlanVersionForm
    list_display = ["plan", "version", "currency", "monthly_fee", "included_calls", "starts_at", "actor", "reason"]
    list_filter = ["plan"]
    ordering = ["plan", "-version"]

    def get_fields(self, request: HttpRequest, obj: PlanVersion | None = None) -> Any:  # Any: Django's
        return PlanVersionForm.Meta.fields if obj is None else ("version", *PlanVersionForm.Meta.fields, "created_at", "actor")

    def get_changeform_initial_data(self, request: HttpRequest) -> Any:  # Any: Django's
        """As the plan's last version (`?plan=pro`), since most new ones differ in one number."""
        given = super().get_changeform_initial_data(request)
        last = PlanVersion.objects.filter(plan__slug=given.get("plan", "")).order_by("-version").first()
        same = forms.model_to_dict(last, exclude=["version", "starts_at", "reason"]) if last else {"currency": "USD"}
        return {**same, "starts_at": clock.now(), **given}

    def save_model(self, request: HttpRequest, obj: PlanVersion, form: Any, change: bool) -> None:  # Any: the admin's form
        obj.actor = str(operator(request))
        plan_versions.add(obj)


class SubscriptionForm(CheckedForm):
    slug = forms.CharField(max_length=63, label="Organization", help_text="Its slug.")

    class Meta:
        model = Subscription
        fields = ("plan_version", "reason")

    def clean(self) -> None:
        super().clean()
        organization = Organization.objects.filter(slug=self.cleaned_data.get("slug")).first()
        if organization is None:
            self.add_error("slug", "There is no such organization.")
            return
        self.cleaned_data["organization"] = organization
        if version := self.cleaned_data.get("plan_version"):
            try:
                plans.check_change(current_subscription(organization), version)
            except AppError as error:
                self.say(error)


@admin.register(Subscription)
class SubscriptionAdmin(AddOnlyAdmin):
    """Adding one puts the organization on that version at once, and at Stripe within a minute: `at_stripe` shows it."""

    form = SubscriptionForm
    list_display = ["organization", "plan_version", "state", "at_stripe", "since", "ended_at", "actor", "reason"]
    list_filter = [
        "state",
        ("ended_at", admin.EmptyFieldListFilter),
        ("stripe_due_at", admin.EmptyFieldListFilter),
        "plan_version__plan",
    ]
    list_select_related = ["organization", "plan_version"]
    search_fields = ["organization__slug", "=organization__id"]
    ordering = ["-since"]

    @admin.display(description="At Stripe")
    def at_stripe(self, row: Subscription) -> str:
        """What Stripe says of it, or how far it is on its way there."""
        if row.stripe_due_at is None or row.ended_at is not None:
            return row.stripe_status or "–"
        return f"waits after {row.stripe_tries} tries: {row.stripe_error}" if row.stripe_error else "on its way"

    def get_fields(self, request: HttpRequest, obj: Subscription | None = None) -> Any:  # Any: Django's
        if obj is None:
            return ["slug", "plan_version", "reason"]
        return [field.name for field in Subscription._meta.fields if isinstance(field, models.Field)]

    def save_model(self, request: HttpRequest, obj: Subscription, form: Any, change: bool) -> None:  # Any: the admin's form
        changed = plans.change(
            form.cleaned_data["organization"].id,
            obj.plan_version.plan_id,
            version=obj.plan_version,
            actor=operator(request),
            reason=obj.reason,
        )
        obj.pk, obj.organization_id = changed.pk, changed.organization_id
