"""Invoices over HTTP, with the way from each line down to the calls."""

from typing import Any
from urllib.parse import urlencode

from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.invoicing.models import Settlement
from billing.models import Invoice, ReconRun
from billing.sale.rating import coins
from saas.lib.errors import NotFound
from saas.lib.ids import parse_id, shown
from tenants.models import Organization
from tenants.pagination import page
from tenants.views import TenantView

Out = serializers.Serializer[Any]  # Any: answers are bound to no model


class InvoiceOut(Out):
    """Amounts are decimal texts in the currency."""

    id = serializers.CharField()
    number = serializers.CharField(help_text="Empty while it is a draft.")
    status = serializers.CharField(help_text="draft, open, paid, uncollectible or void.")
    currency = serializers.CharField()
    total = serializers.CharField()
    due = serializers.CharField()
    paid = serializers.CharField()
    period_start = serializers.DateTimeField(allow_null=True)
    period_end = serializers.DateTimeField(allow_null=True)
    invoiced_at = serializers.DateTimeField(allow_null=True)
    next_attempt_at = serializers.DateTimeField(allow_null=True, help_text="When a refused payment is tried again.")
    url = serializers.CharField(help_text="Where it can be seen and paid; empty while it is a draft.")
    usage_checked = serializers.BooleanField(help_text="It became final when the ledger and Stripe agreed on its usage.")


class LineOut(Out):
    description = serializers.CharField()
    amount = serializers.CharField()
    quantity = serializers.IntegerField(help_text="For usage: millionths of the currency unit at list prices.")
    starts_at = serializers.DateTimeField(allow_null=True)
    ends_at = serializers.DateTimeField(allow_null=True)
    is_usage = serializers.BooleanField()
    is_adjustment = serializers.BooleanField(
        help_text="What `usage_by_plan` charges more or less than the lines of usage, which know nothing of changes of plan."
    )
    by_day = serializers.CharField(
        allow_null=True, help_text="The days behind it; then hours and calls, from GET /billing/usage."
    )


class ReconciliationOut(Out):
    """The numbers of the newest comparison of the invoice's usage, in the units of its lines."""

    verdict = serializers.CharField(help_text="match, lag, missing, excess or rejected.")
    ledger = serializers.IntegerField()
    pushed = serializers.IntegerField()
    stripe = serializers.IntegerField()
    draft = serializers.IntegerField(allow_null=True)
    compared_at = serializers.DateTimeField()


UsagePartOut = inline_serializer(
    "InvoiceUsagePartOut",
    {
        "plan": serializers.CharField(),
        "version": serializers.IntegerField(),
        "from": serializers.DateTimeField(),
        "to": serializers.DateTimeField(),
        "usage": serializers.CharField(help_text="At list prices."),
        "included": serializers.CharField(help_text="What the plan includes, in proportion to the time on it."),
        "amount": serializers.CharField(help_text="What is charged for it, before credit."),
    },
    many=True,
)


class InvoiceWithLinesOut(InvoiceOut):
    lines = LineOut(many=True)
    usage_by_plan = UsagePartOut
    reconciliation = ReconciliationOut(allow_null=True)


class InvoicesView(TenantView):
    required_scope = "billing:read"

    @extend_schema(responses=InvoiceOut(many=True), summary="The organization's invoices")
    def get(self, request: Request) -> Response:
        return page(request, Invoice.objects.of(self.organization), shown_invoice)


class InvoiceView(TenantView):
    required_scope = "billing:read"

    @extend_schema(
        responses=InvoiceWithLinesOut,
        summary="One invoice with its lines",
        description="Each line of usage names the days behind it. `usage_by_plan` is how usage was charged in the parts of the "
        "month: as the lines of usage and the adjustment together. `reconciliation`: how ledger and Stripe compared last.",
    )
    def get(self, request: Request, invoice: str) -> Response:
        return Response(shown_with_lines(resolve(self.organization, invoice)))


def resolve(organization: Organization, shown_id: str) -> Invoice:
    """The organization's invoice `inv_…`. Raises NotFound."""
    identity = parse_id("inv", shown_id)
    invoice: Invoice | None = Invoice.objects.of(organization).filter(id=identity).first() if identity else None
    if invoice is None:
        raise NotFound
    return invoice


def shown_invoice(invoice: Invoice) -> dict[str, Any]:  # Any: JSON
    amounts = {"total": invoice.total_minor, "due": invoice.due_minor, "paid": invoice.paid_minor}
    return {
        "id": shown("inv", invoice.id),
        "number": invoice.number,
        "status": invoice.status,
        "currency": invoice.currency,
        **{name: coins(amount, invoice.currency) for name, amount in amounts.items()},
        "period_start": invoice.period_start,
        "period_end": invoice.period_end,
        "invoiced_at": invoice.invoiced_at,
        "next_attempt_at": invoice.next_attempt_at,
        "url": invoice.hosted_url,
        "usage_checked": invoice.settlement == Settlement.SETTLED,
    }


def shown_with_lines(invoice: Invoice) -> dict[str, Any]:  # Any: JSON
    run: ReconRun | None = (
        ReconRun.objects.of(invoice.organization_id)
        .filter(stripe_subscription=invoice.stripe_subscription, period_end=invoice.period_end, draft__isnull=False)
        .order_by("-created_at", "-id")
        .first()
    )
    return {
        **shown_invoice(invoice),
        "lines": [_shown_line(line, invoice.currency) for line in invoice.lines],
        "usage_by_plan": invoice.usage_parts or [],
        "reconciliation": run and _shown_run(run),
    }


def _shown_line(line: dict[str, Any], currency: str) -> dict[str, Any]:  # Any: JSON
    days = {"granularity": "day", "from": line["starts_at"], "to": line["ends_at"]}
    return {
        "description": line["description"],
        "amount": coins(line["amount_minor"], currency),
        "quantity": line["units"],
        "starts_at": line["starts_at"],
        "ends_at": line["ends_at"],
        "is_usage": line["is_usage"],
        "is_adjustment": line.get("is_adjustment", False),  # lines that were read before there were any
        "by_day": f"/api/v1/billing/usage?{urlencode(days)}" if line["is_usage"] else None,
    }


def _shown_run(run: ReconRun) -> dict[str, Any]:  # Any: JSON
    numbers = {"ledger": run.ledger, "pushed": run.pushed, "stripe": run.stripe, "draft": run.draft}
    return {"verdict": run.verdict, **numbers, "compared_at": run.created_at}
