"""Periodic work on the `ops` queue (CELERY_BEAT_SCHEDULE)."""

import logging
from datetime import timedelta
from uuid import UUID

from celery import shared_task

from billing import alarms, idempotent
from billing.caps import alerts
from billing.invoicing import closing, push, reconcile, reconcile_turns, settling
from billing.ledger.verify import differences
from billing.stripe import attempts, events, following, given, state_mails
from billing.stripe_gateway import is_set_up
from saas.lib import clock
from saas.lib.errors import AppError
from tenants.databases import as_operator

log = logging.getLogger(__name__)

VERIFIED = timedelta(days=8)  # a whole week and the day on which a night may have failed


@shared_task(time_limit=300)
def mail_alerts() -> int:
    """Mail the alerts that were not mailed yet; how many."""
    return alerts.mail_due()


@shared_task(time_limit=3600)
def verify_books() -> int:
    """Compare the books, log each difference as an error, and return how many there were.

    The last week's rows each night, all of them on Sundays.
    """
    today = clock.now().date()
    is_whole = today.isoweekday() == 7
    lines = list(differences() if is_whole else differences(today - VERIFIED))
    for line in lines:
        log.error("the books differ: %s", line)
    return len(lines)


@shared_task(time_limit=600)
def forget_posts() -> None:
    """Remove the answers of old POSTs with an Idempotency-Key."""
    with as_operator():
        idempotent.forget()


@shared_task
def push_usage() -> None:
    """See who has usage that Stripe has not been told of."""
    if is_set_up():
        for tenant in push.waiting():
            push_organization.delay(str(tenant))


@shared_task(time_limit=600)
def push_organization(tenant: str) -> int:
    """What Stripe does not take now it is told later: the rows say when."""
    try:
        return push.push(UUID(tenant))
    except AppError as error:  # Stripe is away, or refuses: the next round tries again
        log.warning("usage waits for Stripe: organization %s: %s", tenant, error.detail)
        return 0


@shared_task
def reconcile_usage() -> None:
    """Have the usage of those compared with Stripe's whose turn it is."""
    if is_set_up():
        for tenant in reconcile_turns.take():
            reconcile_organization.delay(str(tenant))


@shared_task(time_limit=600, rate_limit="4/s")  # of each worker; Stripe's limits: billing.invoicing.reconcile_turns
def reconcile_organization(tenant: str) -> None:
    is_whole = reconcile_turns.is_whole_due(UUID(tenant))
    try:
        reconcile.reconcile_all(UUID(tenant), is_whole=is_whole)
    except AppError as error:  # Stripe is away, or refuses: it is tried again soon
        reconcile_turns.failed(UUID(tenant))
        log.warning("the reconciliation waits for Stripe: organization %s: %s", tenant, error.detail)
    else:
        reconcile_turns.done(UUID(tenant), is_whole=is_whole)


@shared_task(time_limit=600)
def forget_comparisons() -> int:
    """Remove old comparisons with Stripe; how many."""
    return reconcile.forget()


@shared_task
def settle_invoices() -> None:
    """See which held invoices are to be looked at, and tell /metrics what waits for an operator."""
    if is_set_up():
        for invoice in settling.due():
            settle_invoice.delay(str(invoice))
        for subscription in closing.due():
            close_subscription.delay(str(subscription))
    alarms.report()


@shared_task(time_limit=600)
def settle_invoice(invoice: str) -> None:
    try:
        settling.settle(UUID(invoice))
    except AppError as error:  # Stripe is away, or refuses: the next round tries again
        log.warning("an invoice waits for Stripe: %s: %s", invoice, error.detail)


@shared_task
def put_given_plans() -> None:
    """See which plans that operators have given Stripe does not know yet."""
    if is_set_up():
        for subscription in given.due():
            put_given_plan.delay(str(subscription))


@shared_task(time_limit=600)
def put_given_plan(subscription: str) -> bool:
    return given.put(UUID(subscription))


@shared_task(time_limit=600)
def close_subscription(subscription: str) -> None:
    """Invoice what is left of an ended subscription's usage."""
    try:
        closing.close(UUID(subscription))
    except AppError as error:  # Stripe is away, or refuses: the next round tries again
        log.warning("the end of a subscription waits for Stripe: %s: %s", subscription, error.detail)


@shared_task(time_limit=300)
def mail_states() -> int:
    """Mail the states of accounts that were not mailed yet; how many."""
    return state_mails.mail_due()


@shared_task(time_limit=600)
def process_stripe_event(event_id: str) -> None:
    """What the webhook asks for, beside the schedule."""
    events.process(event_id)


@shared_task(time_limit=600)
def sweep_stripe_events() -> int:
    """Events whose task was lost or failed; accounts that have been unpaid for long. How many there were."""
    return (events.process_due() if is_set_up() else 0) + following.let_time_pass()


@shared_task(time_limit=1800)
def catch_up_with_stripe(hours: int) -> int:
    """Events that were never delivered, from `hours` before the last one on. How many there were."""
    return events.catch_up(timedelta(hours=hours)) if is_set_up() else 0


@shared_task(time_limit=600)
def forget_stripe_events() -> int:
    """Remove events that were worked through long ago, and what no key of Stripe's needs any more; how many."""
    return events.forget() + attempts.forget()
