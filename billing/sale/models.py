"""The price book, the plans, and which plan an organization is on. What is for sale is never changed, only followed.

Amounts are units of the currency with at most 9 decimals, so that each is a whole number of billionths.
"""

from decimal import Decimal
from typing import Any, ClassVar, Self
from uuid import UUID

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from saas.lib.money import MAX_UNITS
from tenants.models import Organization, TenantModel, TenantQuerySet

IN_RANGE = [MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(MAX_UNITS))]


def _amount(help_text: str) -> "models.DecimalField[Any, Any]":  # Any: what Django takes for a Decimal
    return models.DecimalField(
        max_digits=18, decimal_places=9, default=Decimal(0), db_default=Decimal(0), validators=IN_RANGE, help_text=help_text
    )


class PriceVersion(models.Model):
    """One price of one model, from its start until a later one starts. Version 0 is built in: a call costs nothing.

    A model's price is everybody's, or, with an organization, that one's own; an organization's without a model is that of all
    its private models. The ledger's rows name the version by which they were charged.
    """

    version = models.AutoField(primary_key=True)
    name = models.CharField(max_length=130, help_text="Whose price it is, for people.")
    organization_id = models.UUIDField(null=True, blank=True, db_column="tenant_id", help_text="Empty: for everybody.")
    model_id = models.UUIDField(null=True, blank=True, help_text="Empty: all private models of the organization.")
    currency = models.CharField(max_length=3)
    call_price = _amount("Per call.")
    row_price = _amount("Per row.")
    second_price = _amount("Per second of computing.")
    starts_at = models.DateTimeField(default=timezone.now)
    created_at = models.DateTimeField(auto_now_add=True)
    actor = models.CharField(max_length=60, blank=True)
    reason = models.CharField(max_length=500, blank=True)

    class Meta:
        db_table = "price_version"
        constraints = [
            models.UniqueConstraint(
                fields=["model_id", "organization_id", "currency", "starts_at"],
                nulls_distinct=False,
                name="price_version_one_at_a_time",
            ),
            models.CheckConstraint(
                condition=Q(
                    call_price__gte=0,
                    call_price__lte=MAX_UNITS,
                    row_price__gte=0,
                    row_price__lte=MAX_UNITS,
                    second_price__gte=0,
                    second_price__lte=MAX_UNITS,
                ),
                name="price_version_in_range",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.version} ({self.name})"


class Plan(models.Model):
    """What organizations can be on. `is_public`: they can choose it themselves."""

    slug = models.SlugField(primary_key=True, max_length=40)
    name = models.CharField(max_length=100)
    is_public = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "plan"

    def __str__(self) -> str:
        return self.slug


class PlanVersion(models.Model):
    """What a plan costs, includes and limits, from its start until a later version starts. Never changed.

    Who is on it stays on it, until they change. The month's bill is the fee and, of what was used beyond `included_amount` at
    list prices, the parts that `overage` says: [{"up_to": "100.00", "rate": "0.90"}, {"up_to": null, "rate": "0.80"}].
    """

    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, db_column="plan", related_name="versions")
    version = models.PositiveIntegerField()
    currency = models.CharField(max_length=3)
    monthly_fee = _amount("Per month.")
    included_calls = models.BigIntegerField(
        null=True, blank=True, validators=[MinValueValidator(0)], help_text="Calls a month, then a hard stop; empty: no stop."
    )
    included_amount = _amount("Used at list prices each month without extra charge.")
    overage = models.JSONField(default=list, help_text="Factors on list prices beyond it, graduated.")
    is_prepaid = models.BooleanField(default=False, help_text="Calls only from credit.")
    # Limits of organizations on it; empty: they keep what they have.
    rate = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0.001)], help_text="Requests per second.")
    burst = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    concurrency = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    max_models = models.PositiveBigIntegerField(null=True, blank=True)
    max_artifact_bytes = models.PositiveBigIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    max_stored_bytes = models.PositiveBigIntegerField(null=True, blank=True)
    retention_hours = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    starts_at = models.DateTimeField(default=timezone.now)
    created_at = models.DateTimeField(auto_now_add=True)
    actor = models.CharField(max_length=60, blank=True)
    reason = models.CharField(max_length=500, blank=True)

    class Meta:
        db_table = "plan_version"
        constraints = [
            models.UniqueConstraint(fields=["plan", "version"], name="plan_version_once"),
            models.CheckConstraint(
                condition=Q(
                    monthly_fee__gte=0,
                    monthly_fee__lte=MAX_UNITS,
                    included_amount__gte=0,
                    included_amount__lte=MAX_UNITS,
                ),
                name="plan_version_in_range",
            ),
            models.CheckConstraint(condition=Q(included_calls__gte=0), name="plan_version_calls_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.plan_id} {self.version}"


LIMITS = ("rate", "burst", "concurrency", "max_models", "max_artifact_bytes", "max_stored_bytes", "retention_hours")
"""Columns that a plan's version and an organization have alike."""


class State(models.TextChoices):
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    GRACE = "grace"
    SUSPENDED = "suspended"
    CLOSED = "closed"


class SubscriptionQuerySet(TenantQuerySet):
    def current(self) -> Self:
        """Those that have not ended: one per organization."""
        return self.filter(ended_at=None)


class Subscription(TenantModel):
    """An organization on a version of a plan, since `since`. With the next change it ends and another begins.

    Written as the operator (billing.sale.plans); each organization is born with one, on Free, by a trigger.
    """

    plan_version = models.ForeignKey(PlanVersion, on_delete=models.PROTECT, related_name="+")
    state = models.CharField(max_length=12, choices=State.choices, default=State.ACTIVE)
    since = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)
    anchor = models.DateTimeField(default=timezone.now, help_text="Where its months of billing begin.")
    credit_base = models.BigIntegerField(
        null=True, blank=True, help_text="Billionths used ever when it became prepaid; empty: it is not."
    )
    used_before_nano = models.BigIntegerField(
        default=0, db_default=0, help_text="Of the month in which it began, what the ledger held until then."
    )
    stripe_customer = models.CharField(max_length=255, blank=True)
    stripe_subscription = models.CharField(max_length=255, blank=True)
    stripe_status = models.CharField(max_length=30, blank=True, default="", db_default="", help_text="What Stripe says of it.")
    ends_at = models.DateTimeField(null=True, blank=True, help_text="When Stripe ends it, if that is so planned.")
    next_plan = models.CharField(max_length=40, blank=True, default="", db_default="", help_text="The plan then; empty: Free.")
    stripe_due_at = models.DateTimeField(
        null=True, blank=True, help_text="When it is to be put into force at Stripe; empty: there is nothing to do."
    )
    stripe_tries = models.PositiveIntegerField(default=0, db_default=0)
    stripe_error = models.CharField(max_length=500, blank=True, default="", db_default="")
    unpaid_since = models.DateTimeField(
        null=True, blank=True, help_text="Since when an invoice is open whose payment was refused."
    )
    told_state = models.CharField(
        max_length=12, blank=True, default="", db_default="", help_text="Of which its owners were told last."
    )
    telling_until = models.DateTimeField(null=True, blank=True, help_text="Somebody is mailing its state, as long.")
    told_count = models.PositiveIntegerField(default=0, db_default=0, help_text="Mails about its states until now.")
    closing_at = models.DateTimeField(
        null=True, blank=True, help_text="When to look whether all its usage is invoiced, after it has ended at Stripe."
    )
    actor = models.CharField(max_length=60, blank=True)
    reason = models.CharField(max_length=500, blank=True)

    objects: ClassVar[Any] = SubscriptionQuerySet.as_manager()  # Any: the base class has a manager of another type

    class Meta:
        db_table = "subscription"
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["stripe_due_at"], condition=Q(stripe_due_at__isnull=False), name="subscription_to_stripe"),
            models.Index(fields=["closing_at"], condition=Q(closing_at__isnull=False), name="subscription_closing"),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["organization"], condition=Q(ended_at__isnull=True), name="subscription_one_current"
            ),
            models.CheckConstraint(condition=Q(state__in=State.values), name="subscription_state"),
        ]

    def __str__(self) -> str:
        return f"{self.organization_id} on {self.plan_version_id}"


def current_subscription(organization: Organization | UUID) -> Subscription:
    """What the organization is on just now. Inside a transaction of that tenant, or as the operator."""
    found: Subscription = Subscription.objects.of(organization).current().select_related("plan_version__plan").get()
    return found
