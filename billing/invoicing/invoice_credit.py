"""Credit on an invoice: what grants have paid of a month's usage is taken off its charge, once, while it is a draft."""

from django.db import connections, transaction

from billing.caps import credit
from billing.caps.models import CreditMonth
from billing.invoicing.periods import Period
from billing.sale.rating import to_coins
from billing.stripe import invoices, meters
from billing.stripe.objects import Invoice as StripeInvoice
from tenants.databases import as_operator

DESCRIPTION = "Credit used"
"""Of the line; also how a draft shows that it has it already."""


def take_off(found: StripeInvoice, period: Period) -> int:
    """Put the line on a draft; how much (smallest coins) it takes off, at most what the usage on it is charged. Asks Stripe."""
    if any(line.description == DESCRIPTION for line in found.lines):
        return 0
    charged = sum(
        line.amount_minor for line in found.lines if meters.meter_of_price(line.price) == meters.meter_id(period.meter)
    )
    amount = min(charged, to_coins(_used(period), found.currency))
    if amount <= 0:
        return 0
    invoices.add_invoice_item(
        customer=found.customer,
        invoice=found.id,
        amount_minor=-amount,
        currency=found.currency,
        description=DESCRIPTION,
        metadata={"credit_month": f"{period.start:%Y-%m}"},
        key=f"credit:{found.id}",
    )
    return amount


def _used(period: Period) -> int:
    """What grants have paid in the period's month, in nano, once all that the ledger holds is settled."""
    with as_operator(), transaction.atomic(using="ops"), connections["ops"].cursor() as cursor:
        credit.settle(cursor, period.tenant)
        months = CreditMonth.objects.of(period.tenant).filter(period=f"{period.start:%Y-%m}")
        found: int | None = months.values_list("burnt_nano", flat=True).first()
        return found or 0
