"""Invoices as customers see them: Stripe's, as we have read them last."""

from datetime import datetime
from typing import Any

from django.db import transaction

from billing.invoicing import usage_charge
from billing.models import Invoice, Subscription
from billing.stripe import meters
from billing.stripe.objects import Invoice as StripeInvoice
from billing.stripe.objects import InvoiceLine
from saas.lib import clock
from tenants.databases import as_operator


def write(found: StripeInvoice) -> Invoice | None:
    """Write down what was read just now. None: the customer is none of ours, and nothing is written."""
    lines = [_line(line) for line in found.lines]  # asks Stripe what it has not told yet: not inside the transaction
    with as_operator(), transaction.atomic(using="ops"):
        owner = Subscription.objects.filter(stripe_customer=found.customer).exclude(stripe_customer="").first()
        if owner is None:
            return None
        row, _ = Invoice.objects.update_or_create(
            stripe_invoice=found.id,
            defaults={
                "organization_id": owner.organization_id,
                "stripe_customer": found.customer,
                "stripe_subscription": found.subscription,
                "number": found.number,
                "status": found.status,
                "reason": found.reason,
                "currency": found.currency,
                "total_minor": found.total_minor,
                "due_minor": found.due_minor,
                "paid_minor": found.paid_minor,
                "period_start": found.period_start,
                "period_end": found.period_end,
                "invoiced_at": found.created_at,
                "next_attempt_at": found.next_attempt_at,
                "hosted_url": found.hosted_url,
                "lines": lines,
                "read_at": clock.now(),
            },
        )
    return row


def _line(line: InvoiceLine) -> dict[str, Any]:  # Any: JSON
    return {
        "description": line.description,
        "amount_minor": line.amount_minor,
        "units": line.units,
        "is_usage": bool(meters.meter_of_price(line.price)),
        "is_adjustment": usage_charge.MARK in line.metadata,
        "starts_at": _text(line.period_start),
        "ends_at": _text(line.period_end),
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"
