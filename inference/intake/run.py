"""One attempt at intake: claim the version, examine its artifact in subprocesses, write the verdict down."""

import logging
import time
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import F
from django.utils import timezone

from inference import artifacts
from inference.actions import accept, reject
from inference.intake import sandbox
from inference.intake.rules import Rejected, rejection
from inference.intake.turns import take_next
from inference.models import INTAKE_ATTEMPTS, ModelVersion
from saas.lib.errors import NotFound
from tenants.models import CATALOG_ID
from tenants.scope import tenant_scope

log = logging.getLogger(__name__)

RETRY = timedelta(seconds=10)


def run(organization_id: UUID, version_id: UUID) -> bool:
    """Judge this version if it waits for it and is in nobody's hands; False if it is not. Outside of any transaction."""
    with tenant_scope(organization_id):
        version = ModelVersion.objects.of(organization_id).claim(version_id)
    if version is not None:
        judge(version)
    return version is not None


def run_next(*, is_long: bool) -> bool:
    """Judge the version whose turn it is, of those that wait for a long or a short examination; False if there is none.

    Outside of any transaction.
    """
    version = take_next(is_long=is_long)
    if version is not None:
        judge(version, is_short=not is_long)
    return version is not None


def judge(version: ModelVersion, *, is_short: bool = False) -> None:
    """Examine a claimed version and write the verdict down; one whose short examination does not end waits for a long one.

    A process that dies in here leaves the claim to run out; after INTAKE_ATTEMPTS such attempts the version is rejected.
    """
    began = time.monotonic()
    try:
        _judge(version, is_short=is_short)
    except NotFound:
        log.info("the model was deleted during intake", extra={"version": version.shown_id})
    except Exception:  # nothing that a model brings may hold up the organization's other uploads
        log.exception("intake failed", extra={"version": version.shown_id, "attempt": version.attempts})
        _try_later(version, "an error of the platform's")
    finally:
        _change(version, examined_seconds=F("examined_seconds") + time.monotonic() - began)


def _judge(version: ModelVersion, *, is_short: bool) -> None:
    try:
        facts = examine(version, is_short=is_short)
    except sandbox.Overran:
        _change(version, needs_long=True, next_try_at=timezone.now(), attempts=0)
    except Rejected as rejected:
        give_up(version, rejected.verdict())
    except (sandbox.Unfinished, artifacts.ArtifactError) as error:
        log.warning("intake did not finish: %s", error, extra={"version": version.shown_id, "attempt": version.attempts})
        _try_later(version, str(error))
    else:
        _accept(version, facts)


def examine(version: ModelVersion, *, is_short: bool) -> dict[str, Any]:  # Any: JSON
    """What both subprocesses found. Raises Rejected, Unfinished, Overran, ArtifactError."""
    most = settings.CONFIG.engine_max_batch_rows
    with artifacts.opened(version.artifact_key, version.digest) as artifact:
        static = sandbox.examine("static", artifact, version.manifest, is_short=is_short)
        artifact.seek(0)
        try:
            probed = sandbox.examine("probe", artifact, version.manifest, max_rows=most, is_short=is_short)
        except Rejected as rejected:
            rejected.measured = {**static, **rejected.measured}
            raise
    probed["measured"] = {"artifact_bytes": version.size, **static, **probed["measured"]}
    crash = probed["measured"].get("crashes_on")
    if crash and version.organization_id == CATALOG_ID:  # it would run in a process that all share
        raise Rejected("crashed", f"The model ended the process that ran it: {crash}", **probed["measured"])
    return probed


def _accept(version: ModelVersion, facts: dict[str, Any]) -> None:  # Any: JSON
    batching, measured = facts["batching"], facts["measured"]
    named = {
        kind: [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in facts[kind]]
        for kind in ("inputs", "outputs")
    }
    verdict = {"result": "ready", "signature": named, "batching": batching, "measured": measured}
    with tenant_scope(version.organization_id):
        accept(
            version,
            verdict=verdict,
            inputs=facts["inputs"],
            outputs=facts["outputs"],
            has_batch=batching["has_batch"],
            is_batchable=batching["is_batchable"],
            max_batch_rows=batching["max_rows"],
            load_bytes=measured["load_bytes"],
            ms_per_row=measured["ms_per_row"],
        )


def _try_later(version: ModelVersion, reason: str) -> None:
    """Leave it to the sweeper, or give up after the last attempt."""
    if version.attempts >= INTAKE_ATTEMPTS:
        code = "deadline" if "too long" in reason else "intake_failed"
        give_up(version, rejection(code, f"{INTAKE_ATTEMPTS} attempts failed, the last with: {reason}"))
        return
    _change(version, next_try_at=timezone.now() + RETRY * version.attempts)


def _change(version: ModelVersion, **columns: Any) -> None:  # Any: columns of ModelVersion
    """Of what intake keeps for itself: nobody looks at it once there is a verdict, but for the time that was used."""
    with tenant_scope(version.organization_id):
        ModelVersion.objects.of(version.organization_id).filter(id=version.id).update(**columns)


def give_up(version: ModelVersion, verdict: dict[str, Any]) -> None:  # Any: JSON
    try:
        with tenant_scope(version.organization_id):
            reject(version, verdict=verdict)
    except NotFound:
        log.info("the model was deleted during intake", extra={"version": version.shown_id})
