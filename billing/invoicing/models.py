"""What was told to Stripe of the usage, how that compares, and Stripe's invoices as we have read them.

Written as the operator only (push, reconcile and invoices of this package). A unit is a millionth of the currency unit,
what the money meter counts (billing.sale.rating.METER).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone

from tenants.models import TenantModel, TenantQuerySet


class PushState(models.TextChoices):
    DUE = "due"  # to be sent, or sent with an unknown outcome
    ACCEPTED = "accepted"  # Stripe has it; or there was nothing to tell
    REJECTED = "rejected"  # Stripe does not take it: a person looks
    UNCLEAR = "unclear"  # whether Stripe has it cannot be told any more: a person looks
    REPLACED = "replaced"  # a person has seen that Stripe has not got it: another row covers the same usage


_WITH_A_PERSON = (PushState.REJECTED, PushState.UNCLEAR)
TURNS: Mapping[PushState, tuple[PushState, ...]] = {
    PushState.ACCEPTED: (PushState.DUE,),
    PushState.REJECTED: (PushState.DUE, PushState.ACCEPTED, PushState.UNCLEAR),
    PushState.UNCLEAR: (PushState.DUE,),
}
"""From which states a row may come into another by what Stripe says. What it says late never overrides a refusal."""
DECISIONS: Mapping[PushState, tuple[PushState, ...]] = {
    PushState.ACCEPTED: _WITH_A_PERSON,
    PushState.REPLACED: _WITH_A_PERSON,
}
"""The same by what a person says."""


class StripePushQuerySet(TenantQuerySet):
    def turn(self, to: PushState, **fields: object) -> int:
        """Put into state `to` those of the rows that may come there now; how many."""
        return self.filter(state__in=TURNS[to]).update(state=to, **fields)

    def decide(self, to: PushState, **fields: object) -> int:
        """The same on the word of a person."""
        return self.filter(state__in=DECISIONS[to]).update(state=to, **fields)


class StripePush(TenantModel):
    """One meter event, as it is sent as often as needed: usage of one sealed hour that no earlier row tells.

    `nano` is the sealed usage that this row covers, `value` the whole units that it adds: over the rows of a period the sum of
    `value` is the sum of `nano` in whole units, so what remains is carried on. All but the fields of the sending is immutable.
    """

    meter = models.CharField(max_length=40, help_text="The meter's event name.")
    hour = models.DateTimeField()
    seq = models.PositiveIntegerField()
    period_start = models.DateTimeField()
    told_at = models.DateTimeField(help_text="The event's timestamp: in its hour, and in its period.")
    nano = models.BigIntegerField()
    value = models.BigIntegerField()
    stripe_customer = models.CharField(max_length=255)
    stripe_subscription = models.CharField(max_length=255)
    identifier = models.CharField(max_length=100, unique=True)
    state = models.CharField(max_length=10, choices=PushState.choices, default=PushState.DUE)
    first_sent_at = models.DateTimeField(null=True, blank=True)
    last_sent_at = models.DateTimeField(null=True, blank=True)
    accepted_at = models.DateTimeField(null=True, blank=True)
    next_try_at = models.DateTimeField(default=timezone.now)
    attempts = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=500, blank=True)

    objects: ClassVar[Any] = StripePushQuerySet.as_manager()  # Any: the base class has a manager of another type

    class Meta:
        db_table = "stripe_push"
        verbose_name_plural = "stripe pushes"
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["next_try_at"], condition=Q(state="due"), name="stripe_push_due"),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["organization", "meter", "hour", "seq"], name="stripe_push_once"),
            models.CheckConstraint(
                condition=Q(state__in=["due", "accepted", "rejected", "unclear", "replaced"]), name="stripe_push_state"
            ),
            models.CheckConstraint(
                condition=Q(attempts=0) | Q(first_sent_at__isnull=False), name="stripe_push_written_before_sent"
            ),
            # Stripe refuses more than 15 digits.
            models.CheckConstraint(condition=Q(value__gt=-(10**15), value__lt=10**15), name="stripe_push_value_in_range"),
        ]

    def __str__(self) -> str:
        return self.identifier


class StripePushed(TenantModel):
    """Up to which of its seals an organization's usage is in `stripe_push`, and when it was compared with Stripe's last: only
    for finding who has something new, and whose turn it is.
    """

    number = models.BigIntegerField()
    compared_at = models.DateTimeField(null=True)
    compared_whole_at = models.DateTimeField(null=True, help_text="The same, with each hour of the periods.")

    class Meta:
        db_table = "stripe_pushed"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["organization"], name="stripe_pushed_once"),
        ]

    def __str__(self) -> str:
        return f"{self.organization_id} {self.number}"


class Verdict(models.TextChoices):
    MATCH = "match"
    LAG = "lag"  # they differ, as they do while things are under way
    MISSING = "missing"  # less at Stripe
    EXCESS = "excess"  # more at Stripe
    REJECTED = "rejected"  # Stripe has refused some of it


class ReconRun(TenantModel):
    """A comparison of a billing period: `ledger`, `pushed`, `stripe` and the invoice's `draft`, in units (None: not asked)."""

    meter = models.CharField(max_length=40)
    stripe_subscription = models.CharField(max_length=255)
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    ledger = models.BigIntegerField()
    pushed = models.BigIntegerField()
    stripe = models.BigIntegerField()
    draft = models.BigIntegerField(null=True)
    verdict = models.CharField(max_length=10, choices=Verdict.choices)
    hours = models.JSONField(default=list, help_text="The hours that differ, each with what is where.")

    class Meta:
        db_table = "recon_run"
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["organization", "-created_at"], name="recon_run_newest"),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=Q(verdict__in=["match", "lag", "missing", "excess", "rejected"]), name="recon_run_verdict"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.organization_id} {self.period_start:%Y-%m} {self.verdict}"


class Settlement(models.TextChoices):
    NONE = "none"  # no usage on it, or it is void
    WAITING = "waiting"  # a draft that is held until the numbers agree
    MISMATCH = "mismatch"  # they do not: an operator is called
    SETTLED = "settled"  # they did, and it is final
    UNBILLED = "unbilled"  # it is final and charges something else for usage: an operator is called
    CORRECTING = "correcting"  # an operator has asked to have it put right
    CORRECTED = "corrected"  # an invoice of its own makes up the difference


class Invoice(TenantModel):
    """Stripe's invoice as it was when last read, and whether its usage was found right before it became final.

    Amounts are in the currency's smallest coin. `lines` are as billing.invoicing.invoices makes them, `usage_parts` as
    billing.invoicing.usage_charge.
    """

    stripe_invoice = models.CharField(max_length=255, unique=True)
    stripe_customer = models.CharField(max_length=255)
    stripe_subscription = models.CharField(max_length=255, blank=True)
    number = models.CharField(max_length=100, blank=True)
    status = models.CharField(max_length=20)
    reason = models.CharField(max_length=60, blank=True)
    currency = models.CharField(max_length=3)
    total_minor = models.BigIntegerField()
    due_minor = models.BigIntegerField()
    paid_minor = models.BigIntegerField()
    period_start = models.DateTimeField(null=True, blank=True)
    period_end = models.DateTimeField(null=True, blank=True)
    invoiced_at = models.DateTimeField(null=True, blank=True)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    hosted_url = models.CharField(max_length=2000, blank=True)
    lines = models.JSONField(default=list)
    usage_parts = models.JSONField(null=True, help_text="How its usage was rated, by plan (usage_charge).")
    usage_units = models.BigIntegerField(null=True, help_text="What it bills together with its correction, if not its lines.")
    read_at = models.DateTimeField(default=timezone.now)
    settlement = models.CharField(max_length=10, choices=Settlement.choices, default=Settlement.NONE)
    next_check_at = models.DateTimeField(null=True, blank=True)
    deadline_at = models.DateTimeField(null=True, blank=True, help_text="When an operator is called if it is still held.")

    class Meta:
        db_table = "invoice"
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["organization", "-invoiced_at"], name="invoice_newest"),
            models.Index(fields=["next_check_at"], condition=Q(next_check_at__isnull=False), name="invoice_to_check"),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=Q(settlement__in=["none", "waiting", "mismatch", "settled", "unbilled", "correcting", "corrected"]),
                name="invoice_settlement",
            ),
        ]

    def __str__(self) -> str:
        return self.number or self.stripe_invoice
