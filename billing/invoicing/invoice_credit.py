"""Credit on an invoice: what grants have paid of a month's usage is taken off its charge, once, while it is a draft."""

from django.db import connections, transaction
from django.db.models.functions import Coalesce

from billing.caps import credit
from billing.caps.models import CreditMonth
from billing.invoicing.periods import Period
from billing.models import Invoice
from billing.sale.rating import to_coins
from billing.stripe import invoices
from billing.stripe.objects import Invoice as StripeInvoice
from tenants.databases import as_operator

DESCRIPTION = "Credit used"
"""Of the line; also how a draft shows that it has it already."""


def take_off(found: StripeInvoice, period: Period, *, due: int) -> int:
    """Put the line on a draft; how much it takes off, at most what is `due` for usage (smallest coins). Asks Stripe."""
    if any(line.description == DESCRIPTION for line in found.lines):
        return 0
    amount = left(period, found.currency, due=due, but=found.id)
    if amount == 0:
        return 0
    invoices.add_invoice_item(
        customer=found.customer,
        invoice=found.id,
        amount_minor=-amount,
        currency=found.currency,
        description=DESCRIPTION,
        metadata={"credit_month": f"{period.start:%Y-%m}"},
        key=f"credit:{found.id}",
        period=(period.start, period.end),
    )
    return amount


def left(period: Period, currency: str, *, due: int, but: str = "") -> int:
    """What of the used credit no invoice takes off yet (`but` one at Stripe), at most what is `due` for usage."""
    return max(0, min(due, to_coins(_used(period), currency) - _taken(period, but)))


def _used(period: Period) -> int:
    """What grants have paid of the period's month, in nano, for plans that are billed afterwards."""
    with as_operator(), transaction.atomic(using="ops"), connections["ops"].cursor() as cursor:
        credit.settle(cursor, period.tenant)
        months = CreditMonth.objects.of(period.tenant).filter(period=f"{period.start:%Y-%m}")
        found: int | None = months.values_list(Coalesce("off_nano", "burnt_nano"), flat=True).first()
        return int(found or 0)


def _taken(period: Period, but: str) -> int:
    """What invoices of the month have taken off: also of a subscription that ended in it, or of one that followed."""
    month, taken = f"{period.start:%Y-%m}", 0
    with as_operator():
        others = Invoice.objects.of(period.tenant).exclude(stripe_invoice=but).exclude(status="void")
        for row in others.filter(invoiced_at__gte=period.start):
            for line in row.lines:
                if line["description"] == DESCRIPTION and (line["starts_at"] or "").startswith(month):
                    taken -= int(line["amount_minor"])
    return taken
