"""Periodic work on the `ops` queue (CELERY_BEAT_SCHEDULE)."""

from celery import shared_task

from tenants import records


@shared_task
def relay_records() -> None:
    """Project the records whose first projection failed, and repeat those that came through (tenants/records.py)."""
    while records.relay() == records.BATCH:
        pass
