"""Celery tasks of intake and of what deleted versions leave behind. The row is the job; a message is only a hint."""

import logging
from datetime import timedelta
from uuid import UUID

from celery import shared_task
from django.utils import timezone
from kombu.exceptions import OperationalError

from inference import artifacts
from inference.intake.rules import rejection
from inference.intake.run import give_up, run
from inference.models import INTAKE_ATTEMPTS, ModelVersion
from tenants.databases import as_operator

log = logging.getLogger(__name__)

BATCH = 100
WAIT = timedelta(seconds=15)  # that a message may take before it counts as lost
QUARANTINE_SECONDS = 86_400  # an upload that is older was left by a process that died


def send(organization_id: UUID, version_id: UUID) -> None:
    """Ask for intake. Without a broker the sweeper does, soon after."""
    try:
        examine_version.apply_async([str(organization_id), str(version_id)], queue="ops", retry=False)
    except OperationalError as error:
        log.warning("intake waits for the broker: %s", error)


@shared_task(name="inference.intake.examine_version")
def examine_version(organization_id: str, version_id: str) -> None:
    run(UUID(organization_id), UUID(version_id))


@shared_task(name="inference.intake.sweep")
def sweep() -> None:
    """Send again what was lost, give up what killed its worker each time, remove what deleted versions and uploads left."""
    with as_operator():
        due = list(ModelVersion.objects.due(timezone.now() - WAIT).order_by("next_try_at")[:BATCH])
        deleted = list(ModelVersion.objects.filter(deleted_at__isnull=False, removed_at__isnull=True)[:BATCH])
    for version in due:
        if version.attempts >= INTAKE_ATTEMPTS:
            give_up(version, rejection("intake_failed", f"{INTAKE_ATTEMPTS} attempts ended without a word"))
        else:
            send(version.organization_id, version.id)
    for version in deleted:
        artifacts.delete(version.artifact_key)
        with as_operator():
            ModelVersion.objects.filter(id=version.id).update(removed_at=timezone.now())
    artifacts.sweep_quarantine(QUARANTINE_SECONDS)
