"""Invoices that have become final although nobody found their usage right: an operator is called, and has it put right.

It happens where a draft was held by nobody, or finalized by hand. What the ledger says is due for the period, less what all
invoices of the subscription charge for it, is what is missing (below 0: too much). Once an operator has asked for it, that
becomes an invoice of its own, made under the wrong one's name, so that there is one whoever dies at whatever step.
"""

import logging

from billing.invoicing import invoice_credit, invoice_periods, invoices, push, usage_charge
from billing.invoicing.models import Settlement
from billing.invoicing.periods import Period
from billing.models import Invoice
from billing.sale.rating import METER
from billing.stripe import customers
from billing.stripe import invoices as stripe_invoices
from billing.stripe.following import alone
from billing.stripe.objects import Invoice as StripeInvoice
from tenants.databases import as_operator

log = logging.getLogger(__name__)

MARK = "corrects"
"""The metadata key by which a correction names the invoice whose usage it puts right."""


def look(row: Invoice, found: StripeInvoice) -> Settlement | None:
    """What a final invoice is now; None if that cannot be said before its period is sealed, or another invoice final.

    If an operator has asked for it (CORRECTING), what is missing is billed first. Raises PaymentsUnavailable: call again.
    """
    its_periods = invoice_periods.periods_of(row, found)
    if not its_periods:
        return Settlement.SETTLED if invoice_periods.may_bill_nothing(row, found) else _call(row, found, None)
    [period] = its_periods
    if not push.tell_rest(period):
        return None
    with alone(f"close {period.subscription}"):  # which bills what is left of the same usage where it has ended
        return _look_alone(row, found, period)


def _look_alone(row: Invoice, found: StripeInvoice, period: Period) -> Settlement | None:
    billing = invoice_periods.that_bill(period)
    own = [each for each in billing if each.metadata.get(MARK) == found.id]
    if any(each.status == "draft" for each in billing if each not in own and each.created_at and each.created_at <= period.end):
        return None
    parts = usage_charge.parts_of(period)
    left = usage_charge.total(parts) - sum(invoice_periods.charged(each, period) for each in billing if each not in own)
    if own and own[0].status != "draft":
        return _corrected(row, [own[0]], period)
    credit = invoice_credit.left(period, found.currency, due=usage_charge.total(parts))
    if left == 0 and credit == 0 and not own:
        ours = [each for each in billing if invoice_periods.LAST in each.metadata]
        return _corrected(row, ours, period) if ours else Settlement.SETTLED
    if row.settlement != Settlement.CORRECTING:
        return _call(row, found, left - credit)
    if not usage_charge.is_known(parts):
        log.error("the invoice %s bills usage of a plan that charges none: nothing was corrected", found.id)
        return Settlement.UNBILLED
    correction = own[0] if own else _draft(found, period)
    usage_charge.put_item(correction, period, parts, left)
    invoice_credit.take_off(stripe_invoices.retrieve_invoice(correction.id), period, due=usage_charge.total(parts))
    final = stripe_invoices.finalize_invoice(correction.id)
    log.info("what the invoice %s lacked is on the invoice %s", found.id, final.id)
    return _corrected(row, [final], period)


def _draft(found: StripeInvoice, period: Period) -> StripeInvoice:
    return stripe_invoices.create_invoice(
        customer=period.customer,
        currency=found.currency,
        metadata={MARK: found.id, invoice_periods.CORRECTION: period.subscription},
        key=f"correct:{found.id}",
        days_until_due=customers.retrieve_subscription(period.subscription).days_until_due,
    )


def _call(row: Invoice, found: StripeInvoice, lacks: int | None) -> Settlement:
    """An operator, who sees how much it is in the smallest coin."""
    how = "with usage of no period that is known" if lacks is None else f"without {lacks} ({found.currency}) that is due"
    log.error("the invoice %s of organization %s has become final %s", found.id, row.organization_id, how)
    return Settlement.UNBILLED


def _corrected(row: Invoice, corrections: list[StripeInvoice], period: Period) -> Settlement:
    """Write down all: the corrections as found right, and of the other how many units they bill together."""
    parts = usage_charge.parts_of(period)
    shown = [part.shown() for part in parts]
    written = [invoices.write(each) for each in corrections]
    with as_operator():
        own = Invoice.objects.of(row.organization_id)
        own.filter(id__in=[each.id for each in written if each]).update(settlement=Settlement.SETTLED, usage_parts=shown)
        own.filter(id=row.id).update(usage_parts=shown, usage_units=sum(part.usage for part in parts) // METER)
    return Settlement.CORRECTED
