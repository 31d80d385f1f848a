"""Invoices with usage become final only when the ledger, what was pushed, Stripe's sums and the invoice agree.

A draft is held as soon as we hear of it. Then, as often as needed: see that its period is sealed, push what is left of it,
compare. If all agree, its usage is charged as the ledger rates it, credit that was used is taken off, and it is made final. If
not it stays a draft, and an operator is called: at once if it cannot heal by itself, at the deadline if it does not. Each step
may be repeated; whoever runs it and dies leaves it to the next one. Those that become final otherwise: see correcting.
"""

import logging
from datetime import timedelta
from uuid import UUID

from billing.invoicing import correcting, invoice_credit, invoice_periods, invoices, push, usage_charge
from billing.invoicing.models import Settlement, Verdict
from billing.invoicing.periods import Period
from billing.invoicing.reconcile import reconcile
from billing.models import Invoice, ReconRun
from billing.proof import billed
from billing.sale.rating import METER
from billing.stripe import invoices as stripe_invoices
from billing.stripe.following import alone
from billing.stripe.invoices import CYCLE
from billing.stripe.objects import Invoice as StripeInvoice
from saas.lib import clock
from tenants.databases import as_operator

log = logging.getLogger(__name__)

AGAIN, AGAIN_AFTER_MISMATCH = timedelta(seconds=30), timedelta(minutes=10)
LEASE = timedelta(minutes=5)
DEADLINE = timedelta(hours=12)


def heard_of(stripe_invoice: str) -> Invoice | None:
    """Read an invoice of Stripe's, write down what it says, and have one with usage looked at. None: not ours.

    A draft is held. One that is final although nobody has found its usage right is looked at too.
    """
    found = stripe_invoices.retrieve_invoice(stripe_invoice)
    row = invoices.write(found)
    if row is None or found.reason != CYCLE:
        return row
    if found.status == "draft" and found.finalizes_by_itself:
        stripe_invoices.hold_invoice(stripe_invoice)
    if found.status == "void":
        return _void(row)
    with as_operator():
        now = clock.now()
        waiting = Invoice.objects.of(row.organization_id).filter(id=row.id, settlement=Settlement.NONE)
        waiting.update(settlement=Settlement.WAITING, next_check_at=now, deadline_at=now + DEADLINE)
        row.refresh_from_db()
    return row


def ask_for_correction(row: Invoice) -> bool:
    """Have an invoice that an operator was called for put right; False if it needs that no more. As the operator."""
    wrong = Invoice.objects.of(row.organization_id).filter(id=row.id, settlement__in=[Settlement.UNBILLED, Settlement.MISMATCH])
    return bool(wrong.update(settlement=Settlement.CORRECTING, next_check_at=clock.now()))


def due() -> list[UUID]:
    """The invoices to be looked at now."""
    with as_operator():
        rows = Invoice.objects.filter(next_check_at__lte=clock.now()).order_by("next_check_at")
        return list(rows.values_list("id", flat=True)[:1000])


def settle(invoice: UUID) -> bool:
    """Make a held draft final if all agrees; whether it needs no more looking at. Raises PaymentsUnavailable: call again.

    One at a time for each invoice, also when the lease of a slow one has ended; an event about it waits meanwhile.
    """
    with as_operator():
        name = Invoice.objects.filter(id=invoice).values_list("stripe_invoice", flat=True).first()
    if name is None:
        return False
    with alone(name):
        return _settle_alone(invoice)


def _settle_alone(invoice: UUID) -> bool:
    now = clock.now()
    with as_operator():
        if not Invoice.objects.filter(id=invoice, next_check_at__lte=now).update(next_check_at=now + LEASE):
            return False  # it is not due, or another one has just been at it
        row = Invoice.objects.get(id=invoice)
    found = stripe_invoices.retrieve_invoice(row.stripe_invoice)
    if found.status != "draft":  # made final by who was killed then, by hand, or by Stripe
        return _settle_final(row, found)
    if found.finalizes_by_itself:
        stripe_invoices.hold_invoice(found.id)
    verdict = _compare(row, found)
    if verdict == Verdict.MATCH:
        verdict = _charge(row, found)
    if verdict == Verdict.MATCH:
        return _settle_final(row, stripe_invoices.finalize_invoice(found.id))
    is_lag = verdict in (Verdict.LAG, None)
    _later(row, settlement=row.settlement if is_lag else Settlement.MISMATCH, after=AGAIN if is_lag else AGAIN_AFTER_MISMATCH)
    if not is_lag or (row.deadline_at is not None and now >= row.deadline_at):
        log.error("the invoice %s of organization %s stays a draft: %s", found.id, row.organization_id, verdict or "unsealed")
    return False


def _settle_final(row: Invoice, found: StripeInvoice) -> bool:
    """Whether nothing is to be done about a final invoice, but by an operator."""
    is_agreed = row.settlement != Settlement.CORRECTING and found.status != "void" and _agreed(found, row)
    invoices.write(found)  # not before: it is shown as final and found right in one moment
    if found.status == "void":
        _void(row)
        return True
    if is_agreed:
        _later(row, settlement=Settlement.SETTLED, after=None)
        log.info("the invoice %s agrees with the ledger and is final", found.id)
        return True
    now_it_is = correcting.look(row, found)
    if now_it_is is None:
        _later(row, settlement=row.settlement, after=AGAIN)
        return False
    _later(row, settlement=now_it_is, after=None)
    return True


def _void(row: Invoice) -> Invoice:
    """It charges nothing, so nothing of it can be wrong; who needs its usage billed makes another one."""
    _later(row, settlement=Settlement.NONE, after=None)
    return row


def _agreed(found: StripeInvoice, row: Invoice) -> bool:
    """Whether its usage was found right while it was a draft, and is charged as it is due."""
    with as_operator():
        runs = ReconRun.objects.of(row.organization_id).filter(stripe_subscription=found.subscription, draft__isnull=False)
        matched = runs.filter(period_end=found.period_end, verdict=Verdict.MATCH).exists()
    return bool(matched) and _is_charged_right(row, found)


def _is_charged_right(row: Invoice, found: StripeInvoice) -> bool:
    billed = invoice_periods.periods_of(row, found)
    return all(usage_charge.is_right(found, period, usage_charge.parts_of(period)) for period in billed)


def _charge(row: Invoice, found: StripeInvoice) -> Verdict:
    """Have the draft charge what the ledger rates, less credit; LAG while it does not say so."""
    for period in invoice_periods.periods_of(row, found):
        parts, draft = usage_charge.parts_of(period), stripe_invoices.retrieve_invoice(found.id)
        if usage_charge.charged(draft, period) and not usage_charge.is_known(parts):
            log.error("the invoice %s charges usage by prices of a plan that the organization is not on", found.id)
            return Verdict.EXCESS
        if not usage_charge.put_right(draft, period, parts):
            return Verdict.LAG
        invoice_credit.take_off(stripe_invoices.retrieve_invoice(found.id), period, due=usage_charge.total(parts))
        with as_operator():
            rows = Invoice.objects.of(row.organization_id).filter(id=row.id)
            rows.update(usage_parts=[part.shown() for part in parts])
    return Verdict.MATCH


def _compare(row: Invoice, found: StripeInvoice) -> Verdict | None:
    """What the four numbers say; None while the period's last hours are not sealed."""
    verdict: Verdict | None = Verdict.MATCH
    its_periods = invoice_periods.periods_of(row, found)
    if not its_periods and not invoice_periods.may_bill_nothing(row, found):
        log.error("the invoice %s bills usage of no period that is known", found.id)
        return Verdict.EXCESS
    for period in its_periods:
        if not push.tell_rest(period):
            return None
        draft = invoice_periods.units(stripe_invoices.retrieve_invoice(found.id), period) if period.has_price else None
        run = reconcile(period, draft=draft)
        verdict = Verdict(run.verdict)
        if verdict != Verdict.MATCH:
            return Verdict.LAG if row.settlement == Settlement.CORRECTING and _moved(row, found, period, run) else verdict
        with as_operator():  # it reads every row of the period, so only when all else agrees
            journaled = billed.journaled(period.tenant, period.start, period.end) // METER
        if journaled != run.ledger:
            log.error("the seals of %s hold %s units, the rows %s", period, run.ledger, journaled)
            return Verdict.MISSING
    return verdict


def _moved(row: Invoice, found: StripeInvoice, period: Period, run: ReconRun) -> bool:
    """Whether what no line could hold is told anew where the last price counts it: if that alone is why they differ."""
    since = invoice_periods.last_price_from(found, period)
    missing = run.ledger - (run.draft or 0)
    if not run.ledger == run.pushed == run.stripe or run.draft is None or missing <= 0:
        return False
    if invoice_periods.lost(found, period, push.told_before(period, since)) != missing:
        return False
    if not push.move(period, missing, to=since):
        return False
    row.settlement = Settlement.WAITING
    push.send_due(period.tenant)
    log.info("%s units of the invoice %s are told anew from %s on", missing, found.id, since)
    return True


def _later(row: Invoice, *, settlement: str, after: timedelta | None) -> None:
    with as_operator():
        next_check_at = None if after is None else clock.now() + after
        Invoice.objects.of(row.organization_id).filter(id=row.id).update(settlement=settlement, next_check_at=next_check_at)
        row.refresh_from_db()
