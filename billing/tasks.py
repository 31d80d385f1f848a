"""Periodic work on the `ops` queue (CELERY_BEAT_SCHEDULE)."""

import logging

from celery import shared_task

from billing import alerts, idempotent
from billing.verify import differences
from tenants.databases import as_operator

log = logging.getLogger(__name__)


@shared_task(time_limit=300)
def mail_alerts() -> int:
    """Mail the alerts that were not mailed yet; how many."""
    return alerts.mail_due()


@shared_task(time_limit=3600)
def verify_books() -> int:
    """Compare the books, log each difference as an error, and return how many there were."""
    lines = list(differences())
    for line in lines:
        log.error("the books differ: %s", line)
    return len(lines)


@shared_task(time_limit=600)
def forget_posts() -> None:
    """Remove the answers of old POSTs with an Idempotency-Key."""
    with as_operator():
        idempotent.forget()
