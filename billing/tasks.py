"""Periodic work on the `ops` queue (CELERY_BEAT_SCHEDULE)."""

import logging

from celery import shared_task

from billing import alerts
from billing.verify import differences

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
