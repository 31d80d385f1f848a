"""Celery tasks of asynchronous predictions. A message carries ids only; the row says what is to be done."""

import logging
from concurrent.futures import Future
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID

from celery import shared_task
from celery.signals import celeryd_after_setup, worker_shutting_down
from django.conf import settings
from django.db.models import BigIntegerField, F, Func
from django.utils import timezone

from inference import caps, disk
from inference.gateway import headers
from inference.gateway.call import Call, Rendered
from inference.predictions.actions import send, send_ids
from inference.predictions.attempts import build_call
from inference.predictions.models import KEY_LIFE, MAX_ATTEMPTS, Prediction, Status, StoredAnswer
from inference.predictions.runner import GatewayThread
from inference.predictions.shares import Shares
from saas.lib.errors import AppError, IdempotencyInProgress, LimitReached, Unavailable
from tenants.crypto import seal_for, unseal_for
from tenants.databases import as_operator
from tenants.models import CATALOG_SLUG
from tenants.scope import tenant_scope

log = logging.getLogger(__name__)

LOOK_EVERY = 0.5  # seconds between looks whether a running prediction is to be canceled
AGAIN_AFTER = timedelta(seconds=2)
IN_PROGRESS_AFTER = timedelta(seconds=10)  # above the reaper's 3 s: by then a dead attempt's claim is gone
FULL_AFTER = timedelta(seconds=disk.RETRY_AFTER)
BATCH = 1000
THREADS = 16  # as workers are started; `_count_threads` is told what it is
SHARES = Shares(THREADS, lambda organization, pk: send_ids(organization, pk, settings.CONFIG.engine_hardware))


@celeryd_after_setup.connect
def _count_threads(instance: Any, **_: object) -> None:  # Any: Celery's worker
    SHARES.threads = instance.concurrency


@cache
def gateway() -> GatewayThread:
    """This worker's gateway, started by the first prediction."""
    return GatewayThread(settings.CONFIG)


@worker_shutting_down.connect
def _stop_gateway(**_: object) -> None:
    """Running calls get a few seconds; those that fail by then are tried again by another worker."""
    if gateway.cache_info().currsize:
        gateway().stop_soon()


@shared_task(name="inference.run_prediction")
def run(organization_id: str, prediction_id: str) -> None:
    """One attempt at a prediction. Nothing happens if it is finished or another worker holds it; if its organization has its
    share of this worker's threads, it is sent again later.
    """
    organization, pk = UUID(organization_id), UUID(prediction_id)
    size, is_own = _weight(organization, pk)
    with SHARES.take(organization, pk, size, is_own=is_own) as may_run:
        if may_run:
            _attempt(organization, pk)


def _weight(organization: UUID, pk: UUID) -> tuple[int, bool]:
    """Bytes of its input, which is not read for it; whether its model is the organization's own."""
    length = Func(F("input"), function="octet_length", output_field=BigIntegerField())
    with tenant_scope(organization):
        row = Prediction.objects.of(organization).filter(pk=pk).values_list(length, "model_name").first()
    size, model_name = row or (0, "")
    return size or 0, not model_name.startswith(f"{CATALOG_SLUG}/")


def _attempt(organization: UUID, pk: UUID) -> None:
    prediction = _take(organization, pk)
    if prediction is None:
        return
    try:
        call = build_call(prediction, _input(prediction))
    except AppError as error:
        with tenant_scope(prediction.organization_id):
            _fail(prediction, error.code, error.detail)
        return
    _finish(prediction, call, _outcome(prediction, call))


def _take(organization: UUID, pk: UUID) -> Prediction | None:
    """The claimed prediction; None if it is not to be run, now or ever."""
    with tenant_scope(organization):
        prediction = Prediction.objects.of(organization).claim(pk)
        if prediction is None:
            return None
        if prediction.is_cancel_requested:
            prediction.finish(Status.CANCELED)
        elif prediction.attempts > MAX_ATTEMPTS:
            _fail(prediction, "quarantined", f"{MAX_ATTEMPTS} attempts ended without an answer; it is not tried again")
        elif prediction.input is None:
            _fail(prediction, "expired", "It was not run before its data expired")
        elif isinstance(refusal := _no_room(prediction), LimitReached):
            _fail(prediction, refusal.code, refusal.detail)
        elif refusal is not None:
            prediction.give_back(after=FULL_AFTER)
        else:
            return prediction
    return None


def _no_room(prediction: Prediction) -> LimitReached | Unavailable | None:
    """Why its result could not be kept. A later attempt brings what an earlier one may have been charged for: it is kept."""
    if prediction.attempts == 1:
        try:
            caps.check_data(prediction.organization_id)
        except (LimitReached, Unavailable) as error:
            return error
    return None


def _input(prediction: Prediction) -> bytes:
    """The body of its call. It is the row's no more: nobody holds it while the call runs."""
    sealed, prediction.input = prediction.input, None
    assert sealed is not None
    with tenant_scope(prediction.organization_id):
        return unseal_for(prediction.organization_id, sealed, context=("prediction", "input", prediction.id.hex))


def _outcome(prediction: Prediction, call: Call) -> Rendered | AppError:
    """Wait for the answer, and look from time to time whether it is still wanted."""
    try:
        waiting: Future[Rendered | AppError] = gateway().submit(call)
    except AppError as error:
        return error
    while True:
        try:
            return waiting.result(LOOK_EVERY)
        except TimeoutError:
            with tenant_scope(prediction.organization_id):
                rows = Prediction.objects.of(prediction.organization_id)
                is_unwanted = rows.filter(pk=prediction.pk, is_cancel_requested=True).exists()
            if is_unwanted:
                gateway().cancel(call)


def _finish(prediction: Prediction, call: Call, outcome: Rendered | AppError) -> None:
    organization = prediction.organization_id
    with tenant_scope(organization):
        if isinstance(outcome, Rendered):
            sealed = seal_for(organization, outcome.body, context=("prediction", "output", prediction.id.hex))
            reply = call.reply
            measured = {"queue_us": reply.queue_us, "compute_us": reply.compute_us} if reply else {}
            cost = dict(outcome.headers).get(headers.COST, b"").decode()
            prediction.finish(Status.SUCCEEDED, output=sealed, cost=cost, **measured)
            if not call.is_replay:  # no attempt comes after this one, so nobody replays it
                StoredAnswer.objects.of(organization).filter(pk=UUID(hex=call.id)).delete()
        elif outcome.code == "state_conflict":  # what GatewayThread.cancel ends a call with
            prediction.finish(Status.CANCELED)
        elif isinstance(outcome, IdempotencyInProgress):
            prediction.give_back(after=IN_PROGRESS_AFTER)
        elif outcome.status == 503:
            prediction.give_back(after=AGAIN_AFTER)
        else:
            _fail(prediction, outcome.code, outcome.detail)


def _fail(prediction: Prediction, code: str, detail: str) -> None:
    prediction.finish(Status.FAILED, error_code=code, error_detail=detail[:500])


@shared_task(name="inference.sweep_predictions")
def sweep() -> None:
    """Send again what was lost, remove the data of what has expired, forget old idempotency keys."""
    now = timezone.now()
    with as_operator():
        lost = Prediction.objects.unsent(now).order_by(F("sent_at").asc(nulls_first=True))  # so that none waits for ever
        unsent = list(lost.only("id", "organization_id", "hardware")[:BATCH])
        Prediction.objects.filter(pk__in=[row.pk for row in unsent]).update(sent_at=now)
        for prediction in unsent:
            send(prediction)
        expired = Prediction.objects.filter(expires_at__lte=now, data_removed_at=None).values("pk")[:BATCH]
        Prediction.objects.filter(pk__in=expired).update(input=None, output=None, data_removed_at=now)
        keyed = Prediction.objects.filter(idempotency_key__isnull=False, created_at__lte=now - KEY_LIFE).values("pk")[:BATCH]
        Prediction.objects.filter(pk__in=keyed).update(idempotency_key=None, fingerprint=None)
        StoredAnswer.objects.filter(expires_at__lte=now).delete()
