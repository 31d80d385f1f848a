"""Budgets, credit, alerts given, and what gateways are yet to be told.

Amounts are billionths ("nano") of the organization's currency.
"""

from typing import ClassVar

from django.db import models
from django.db.models import F, Q

from inference.books.accounts import LIMIT_MAX
from saas.lib.ids import shown
from tenants.models import ApiKey, TenantModel


class Budget(TenantModel):
    """What an organization, or one of its keys, may cost a month: no call opens that can cost more than is left of it."""

    api_key = models.ForeignKey(ApiKey, null=True, editable=False, on_delete=models.CASCADE, related_name="+")
    amount_nano = models.BigIntegerField()

    class Meta:
        db_table = "budget"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["organization", "api_key"], nulls_distinct=False, name="budget_once"),
            models.CheckConstraint(condition=Q(amount_nano__range=(0, LIMIT_MAX)), name="budget_in_range"),
        ]

    def __str__(self) -> str:
        return f"{self.api_key_id or self.organization_id}: {self.amount_nano}"


class Category(models.TextChoices):
    PROMOTIONAL = "promotional"
    PAID = "paid"


BURN_ORDER = (F("expires_at").asc(nulls_last=True), F("category").desc(), "priority", "created_at", "id")
"""Which grant is used up first: that which expires first, promotional before paid, the lower priority, the older."""


class CreditGrant(TenantModel):
    """Credit. What the ledger has charged to it is gone from `remaining_nano`; `expired_nano` was never used.

    The role of the metering writes the three last columns, nobody deletes a row.
    """

    amount_nano = models.BigIntegerField()
    category = models.CharField(max_length=12, choices=Category.choices)
    priority = models.IntegerField(default=100, help_text="Of two that expire together the lower one is used first.")
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: never.")
    payment_intent = models.CharField(
        max_length=255, null=True, blank=True, unique=True, help_text="Stripe's id of the payment."
    )
    actor = models.CharField(max_length=60, editable=False)
    reason = models.CharField(max_length=500)
    remaining_nano = models.BigIntegerField(editable=False)
    expired_nano = models.BigIntegerField(default=0, db_default=0, editable=False)
    balance_nano = models.BigIntegerField(
        null=True, editable=False, help_text="What was left of all grants when this one was added."
    )

    class Meta:
        db_table = "credit_grant"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(condition=Q(amount_nano__range=(1, LIMIT_MAX)), name="credit_grant_in_range"),
            models.CheckConstraint(
                condition=Q(remaining_nano__gte=0, expired_nano__gte=0)
                & Q(amount_nano__gte=F("remaining_nano") + F("expired_nano")),
                name="credit_grant_parts",
            ),
            models.CheckConstraint(condition=Q(category__in=Category.values), name="credit_grant_category"),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["expires_at"], condition=Q(remaining_nano__gt=0), name="credit_grant_to_expire")
        ]

    def __str__(self) -> str:
        return self.shown_id

    @property
    def shown_id(self) -> str:
        return shown("crd", self.id)


class CreditMonth(TenantModel):
    """How much of a month's ledger was charged to the credit: `spent_nano` was looked at, `burnt_nano` grants have paid.

    Of that, the month's invoices take `off_nano`: what was charged on plans that are billed afterwards. `overrun_nano` no
    credit was there for although the plan is prepaid: always 0, unless something is broken. `ahead_nano`, over all months: what
    grants have paid for calls that the ledger has yet to hold, when a prepaid plan was left. The others are those of
    billing.caps.charging.Looked.
    """

    period = models.CharField(max_length=7)
    spent_nano = models.BigIntegerField(default=0, db_default=0)
    burnt_nano = models.BigIntegerField(default=0, db_default=0)
    overrun_nano = models.BigIntegerField(default=0, db_default=0)
    off_nano = models.BigIntegerField(null=True, help_text="Empty: as `burnt_nano`, of a time before there was this.")
    ahead_nano = models.BigIntegerField(default=0, db_default=0)
    part_since = models.DateTimeField(null=True)
    part_nano = models.BigIntegerField(default=0, db_default=0)
    ended_nano = models.BigIntegerField(default=0, db_default=0)
    asked_nano = models.BigIntegerField(default=0, db_default=0)

    class Meta:
        db_table = "credit_month"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["organization", "period"], name="credit_month_once"),
            models.CheckConstraint(
                condition=Q(spent_nano__gte=0, burnt_nano__gte=0, overrun_nano__gte=0), name="credit_month_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.organization_id} {self.period}"


class About(models.TextChoices):
    BUDGET = "budget"
    INCLUDED_CALLS = "included_calls"
    INCLUDED_AMOUNT = "included_amount"
    CREDIT = "credit"


class AlertFired(TenantModel):
    """That a share of something was used up. The row decides that the alert is given once; it outlives what it is about."""

    about = models.CharField(max_length=16, choices=About.choices, default=About.BUDGET, db_default=About.BUDGET)
    budget_id = models.UUIDField(help_text="Of the budget, the subscription with what its plan includes, or the newest grant.")
    api_key_id = models.UUIDField(null=True, help_text="Empty: the organization's budget.")
    period = models.CharField(max_length=7)
    percent = models.PositiveSmallIntegerField()
    amount_nano = models.BigIntegerField(help_text="Of how much, as it was then; of included calls their number.")
    spent_nano = models.BigIntegerField()
    claimed_until = models.DateTimeField(null=True, help_text="Somebody is mailing it, as long.")
    mailed_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "alert_fired"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["budget_id", "period", "percent", "amount_nano"], name="alert_fired_once")
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["organization", "-id"], name="alert_fired_newest"),
            models.Index(fields=["created_at"], condition=Q(mailed_at=None), name="alert_fired_to_mail"),
        ]

    def __str__(self) -> str:
        return f"{self.about} {self.budget_id} {self.period} {self.percent} %"


class QuotaChange(models.Model):
    """Outbox of limits of the books: `version` rises with every change, in the changing transaction (by trigger).

    While `projected_version` is behind, the bookkeeper sends the organization's limits to its account again.
    """

    tenant_id = models.UUIDField(primary_key=True)
    version = models.BigIntegerField()
    projected_version = models.BigIntegerField(default=0)

    class Meta:
        db_table = "quota_change"

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.projected_version}/{self.version}"
