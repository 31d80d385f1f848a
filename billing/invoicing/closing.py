"""The last usage of a subscription that has ended in the middle of a month, on a last invoice.

Stripe invoices at the end what it was told until then; the running hour is not sealed by then. So once the hour of the end is
sealed, and ledger, what was pushed and Stripe's sums agree (else an operator is called), what is due by the ledger for the
subscription's last period is compared with what its invoices charge for it. What is left becomes an invoice of its own: one for
each subscription, made under its name. Credit that was used is taken off there, also for usage that Stripe's own invoice of the
end has charged: what is less than nothing goes to the customer's balance. A subscription that ended with its month has all on
the month's invoice, and nothing is left. Any step may be repeated; whoever dies leaves it to the next one.
"""

import logging
from datetime import datetime, timedelta
from uuid import UUID

from billing.invoicing import invoice_credit, invoice_periods, invoices, periods, push, usage_charge
from billing.invoicing.models import Settlement, Verdict
from billing.invoicing.periods import Period
from billing.invoicing.reconcile import reconcile
from billing.models import Invoice, Subscription
from billing.stripe import customers
from billing.stripe import invoices as stripe_invoices
from billing.stripe.following import alone
from billing.stripe.objects import Invoice as StripeInvoice
from saas.lib import clock
from tenants.databases import as_operator

log = logging.getLogger(__name__)

AGAIN, AGAIN_AFTER_MISMATCH = timedelta(minutes=1), timedelta(minutes=10)
LEASE, DEADLINE = timedelta(minutes=5), timedelta(hours=12)
MARK = invoice_periods.LAST


def due() -> list[UUID]:
    """The subscriptions (rows of ours) that have ended and are to be looked at now."""
    with as_operator():
        rows = Subscription.objects.filter(closing_at__lte=clock.now()).order_by("closing_at")
        return list(rows.values_list("id", flat=True)[:1000])


def close(subscription: UUID) -> bool:
    """Invoice what is left of its usage; whether all of it is invoiced now. Raises PaymentsUnavailable: call again."""
    now = clock.now()
    with as_operator():
        if not Subscription.objects.filter(id=subscription, closing_at__lte=now).update(closing_at=now + LEASE):
            return False  # it is not due, or another one is at it
        row = Subscription.objects.select_related("plan_version").get(id=subscription)
    with alone(f"close {row.stripe_subscription}"):  # whoever took the lease before may be at it still
        found = customers.retrieve_subscription(row.stripe_subscription)
        ended_at = found.ended_at
        again = AGAIN if ended_at is None else _close(row, _last(row, ended_at), found.days_until_due)
    with as_operator():
        rows = Subscription.objects.of(row.organization_id).filter(id=row.id)
        rows.update(closing_at=None if again is None else clock.now() + again)
    if again is not None and ended_at is not None and now - ended_at > DEADLINE:
        log.error("the last usage of subscription %s is not invoiced yet", row.stripe_subscription)
    return again is None


def _last(row: Subscription, ended_at: datetime) -> Period | None:
    """The period in which it ended; None if usage was never charged in it."""
    found = periods.periods_of(row, since=ended_at - timedelta(seconds=1), until=ended_at)
    return found[-1] if found else None


def _close(row: Subscription, period: Period | None, days_until_due: int | None) -> timedelta | None:
    """How long until it is looked at again; None: all is invoiced."""
    if period is None:
        return None
    if not push.tell_rest(period):
        return AGAIN
    others, last = _invoices(period)
    if any(each.status == "draft" for each in others):
        return AGAIN  # what it will charge is not final
    if last is not None and last.status != "draft":
        _write(last, period)
        return None
    verdict = reconcile(period).verdict
    if verdict != Verdict.MATCH:
        return AGAIN if verdict == Verdict.LAG else AGAIN_AFTER_MISMATCH
    parts, currency = usage_charge.parts_of(period), row.plan_version.currency
    due = usage_charge.total(parts)
    left = due - sum(invoice_periods.charged(each, period) for each in others)
    if left == 0 and last is None and invoice_credit.left(period, currency, due=due) == 0:
        return None
    last = last or stripe_invoices.create_invoice(
        customer=period.customer,
        currency=currency,
        metadata={MARK: period.subscription},
        key=f"last:{period.subscription}",
        days_until_due=days_until_due,
    )
    usage_charge.put_item(last, period, parts, left)
    invoice_credit.take_off(stripe_invoices.retrieve_invoice(last.id), period, due=due)
    _write(stripe_invoices.finalize_invoice(last.id), period)
    log.info("the last usage of subscription %s is on the invoice %s", period.subscription, last.id)
    return None


def _invoices(period: Period) -> tuple[list[StripeInvoice], StripeInvoice | None]:
    """The subscription's invoices since the period began, and the last one that is made here, if it is there."""
    found = invoice_periods.that_bill(period)
    own = [each for each in found if MARK in each.metadata]
    return [each for each in found if each not in own], own[0] if own else None


def _write(last: StripeInvoice, period: Period) -> None:
    row = invoices.write(last)
    if row is not None:
        with as_operator():
            rows = Invoice.objects.of(row.organization_id).filter(id=row.id)
            parts = [part.shown() for part in usage_charge.parts_of(period)]
            rows.update(settlement=Settlement.SETTLED, usage_parts=parts)
