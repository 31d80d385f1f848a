"""Celery tasks of intake and of what deleted versions leave behind. The row is the job; a message is only a hint."""

import logging
import threading
from datetime import timedelta

from celery import shared_task
from django.utils import timezone
from kombu.exceptions import OperationalError

from inference import artifacts
from inference.intake.rules import rejection
from inference.intake.run import give_up, run_next
from inference.models import INTAKE_ATTEMPTS, ModelVersion
from tenants.databases import as_operator

log = logging.getLogger(__name__)

BATCH = 100
WAIT = timedelta(seconds=15)  # that a message may take before it counts as lost
QUARANTINE_SECONDS = 86_400  # an upload that is older was left by a process that died
PLACES = 3  # examinations at once in a process: one of the 4 threads of an ops worker is always free for other tasks
places = threading.BoundedSemaphore(PLACES)
long_places = threading.BoundedSemaphore(PLACES - 1)  # of those: a short examination waits for short ones only


def send() -> None:
    """Ask for an examination, of whichever version's turn it is. Without a broker the sweeper does, soon after."""
    try:
        examine_next.apply_async(queue="ops", retry=False)
    except OperationalError as error:
        log.warning("intake waits for the broker: %s", error)


@shared_task(name="inference.intake.examine_next")
def examine_next() -> None:
    """One examination, if there is a place for it and somebody's turn. Who ends one asks for the next, so nobody waits here."""
    if not places.acquire(blocking=False):
        return
    try:
        has_run = run_next(is_long=False) or _run_long()
    finally:
        places.release()
    if has_run:
        send()


def _run_long() -> bool:
    if not long_places.acquire(blocking=False):
        return False
    try:
        return run_next(is_long=True)
    finally:
        long_places.release()


@shared_task(name="inference.intake.sweep")
def sweep() -> None:
    """Ask again where a message was lost, give up what killed its worker each time, remove what deletions and uploads left."""
    with as_operator():
        due = ModelVersion.objects.due(timezone.now() - WAIT)
        hopeless = list(due.filter(attempts__gte=INTAKE_ATTEMPTS)[:BATCH])
        waiting = due.filter(attempts__lt=INTAKE_ATTEMPTS).order_by().values("organization").distinct()[:BATCH].count()
        deleted = list(ModelVersion.objects.filter(deleted_at__isnull=False, removed_at__isnull=True)[:BATCH])
    for version in hopeless:
        give_up(version, rejection("intake_failed", f"{INTAKE_ATTEMPTS} attempts ended without a word"))
    for _ in range(waiting):  # organizations: of each, one can be examined now
        send()
    for version in deleted:
        artifacts.delete(version.artifact_key)
        with as_operator():
            ModelVersion.objects.filter(id=version.id).update(removed_at=timezone.now())
    artifacts.sweep_quarantine(QUARANTINE_SECONDS)
