"""Which period of usage an invoice bills, and what the invoices of a subscription charge for it."""

from dataclasses import replace
from datetime import datetime

from billing.invoicing import periods, usage_charge
from billing.invoicing.periods import Period
from billing.models import Invoice
from billing.stripe import invoices as stripe_invoices
from billing.stripe import meters
from billing.stripe.objects import Invoice as StripeInvoice

LAST, CORRECTION = "last_of", "correction_of"
"""The metadata keys by which an invoice of ours names the subscription whose usage it bills."""


def periods_of(row: Invoice, found: StripeInvoice) -> list[Period]:
    """The period that a cycle's invoice bills for usage: the last one of its subscription that had ended by then."""
    if found.period_start is None or found.period_end is None:
        return []
    candidates = [
        period
        for own in periods.subscriptions_of(row.organization_id)
        if own.stripe_subscription == found.subscription
        for period in periods.periods_of(own, since=found.period_start, until=found.period_end)
    ]
    ended = [period for period in candidates if period.end <= found.period_end][-1:]
    return [replace(period, told_from=max(period.told_from, last_price_from(found, period))) for period in ended]


def last_price_from(found: StripeInvoice, period: Period) -> datetime:
    """Since when the invoice counts usage for its last price: the period's start, or a change of plan in it."""
    begun = [line.period_start for line in found.lines if line.period_start and meters.meter_of_price(line.price)]
    return max((start for start in begun if period.start <= start < period.end), default=period.start)


def may_bill_nothing(row: Invoice, found: StripeInvoice) -> bool:
    """Whether an invoice without a period of usage is right: of a subscription that we follow, and without metered lines."""
    is_followed = found.subscription in {own.stripe_subscription for own in periods.subscriptions_of(row.organization_id)}
    return is_followed and not any(meters.meter_of_price(line.price) for line in found.lines)


def lost(found: StripeInvoice, period: Period, told_before: int) -> int:
    """Units that no line can ever hold: of what was `told_before` the last price, what the lines of prices before do not have.

    Stripe made those lines when the plan was changed, of what it had been told by then.
    """
    meter, since = meters.meter_id(period.meter), last_price_from(found, period)
    lines = [line for line in found.lines if meters.meter_of_price(line.price) == meter]
    return told_before - sum(line.units for line in lines if line.period_start is not None and line.period_start < since)


def units(found: StripeInvoice, period: Period) -> int:
    """The meter's units on an invoice, over all tiers."""
    meter = meters.meter_id(period.meter)
    return sum(line.units for line in found.lines if meters.meter_of_price(line.price) == meter)


def that_bill(period: Period) -> list[StripeInvoice]:
    """All invoices of the period's subscription since it began, whole: Stripe's, and ours of what those lack. Asks Stripe."""
    since = [
        each
        for each in stripe_invoices.invoices_of(period.customer)
        if each.created_at is None or each.created_at >= period.start
    ]
    own = [
        each
        for each in since
        if period.subscription in (each.subscription, each.metadata.get(LAST), each.metadata.get(CORRECTION))
    ]
    return [stripe_invoices.retrieve_invoice(each.id) for each in own]


def charged(found: StripeInvoice, period: Period) -> int:
    """What an invoice charges for usage of the period, in the smallest coin; 0 if it is void."""
    if found.status == "void":
        return 0
    meter = meters.meter_id(period.meter)
    return sum(
        line.amount_minor
        for line in found.lines
        if (meters.meter_of_price(line.price) == meter or usage_charge.MARK in line.metadata)
        and line.period_start is not None
        and line.period_end is not None
        and line.period_start < period.end
        and line.period_end > period.start
    )
