"""What can be done with an asynchronous prediction: create, send, cancel."""

import logging
from datetime import timedelta
from functools import partial
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from kombu.exceptions import OperationalError

from inference import caps
from inference.predictions.attempts import read_ask
from inference.predictions.models import Prediction, Status
from inference.routes import ModelRoute, VersionRoute
from saas.lib.errors import IdempotencyKeyReused, StateConflict, Unavailable
from saas.lib.ids import shown, uuid7
from saas.lib.inserts import insert_once
from tenants.crypto import seal_for
from tenants.models import Organization
from tenants.principal import KeyRecord

log = logging.getLogger(__name__)


def create_prediction(
    *,
    organization: Organization,
    key: KeyRecord,
    route: ModelRoute,
    version: VersionRoute,
    endpoint: str,
    body: bytes,
    timeout: float,
    retention: timedelta,
    request_id: str,
    idempotency_key: str | None = None,
    fingerprint: bytes = b"",
    quote: str = "",
) -> tuple[Prediction, bool]:
    """Accept a prediction: it is stored, its input sealed, and sent to a worker once the transaction is committed.

    `body` is the JSON that the endpoint takes; it is checked here, so that bad input is refused at once. Returns whether it
    is new: of requests with one idempotency key the first to be stored wins, the others get its prediction. Raises
    IdempotencyKeyReused if that one's fingerprint is another, LimitReached if the organization keeps too much already,
    Unavailable if the platform does.
    """
    if version.state != "ready":
        raise StateConflict(f"Version {version.number} of {route.full_name} is {version.state}, not ready")
    read_ask(endpoint, body, route, version)
    identity = uuid7()
    sealed = seal_for(organization.id, body, context=("prediction", "input", identity.hex))
    caps.lock_for_data(organization.id, len(sealed))
    prediction = Prediction(
        id=identity,
        organization=organization,
        key_public_id=key.public_id,
        key_id=UUID(hex=key.id),
        mode=key.mode,
        model_name=route.full_name,
        model_id=UUID(hex=route.id),
        version_id=UUID(hex=version.id),
        version_number=version.number,
        hardware=version.hardware,
        endpoint=endpoint,
        input=sealed,
        timeout=timeout,
        request_id=request_id,
        expires_at=timezone.now() + retention,
        quote=quote,
        cost="",
        idempotency_key=idempotency_key,
        fingerprint=fingerprint if idempotency_key is not None else None,
    )
    if not insert_once(prediction):
        winner = find_keyed(organization, key.mode, idempotency_key, fingerprint)
        if winner is None:  # its key's life ended just now
            raise Unavailable("The Idempotency-Key was being given up; try again", retry_after=1)
        return winner, False
    transaction.on_commit(partial(send, prediction))
    return prediction, True


def find_keyed(organization: Organization, mode: str, idempotency_key: str | None, fingerprint: bytes) -> Prediction | None:
    """The prediction that an earlier request with this key made: a test's never meets a live one. Raises IdempotencyKeyReused
    if it was another request.
    """
    if idempotency_key is None:
        return None
    rows = Prediction.objects.of(organization)
    found: Prediction | None = rows.filter(mode=mode, idempotency_key=idempotency_key).first()
    if found is not None and bytes(found.fingerprint or b"") != fingerprint:
        raise IdempotencyKeyReused()
    return found


def send(prediction: Prediction) -> None:
    """Tell a worker of its hardware about it. A broker that is away delays it until the sweeper's next round."""
    send_ids(prediction.organization_id, prediction.pk, prediction.hardware)


def send_ids(organization_id: UUID, pk: UUID, hardware: str) -> None:
    """`send`, without its row."""
    from inference.predictions.tasks import run  # tasks start a gateway; only workers need that module otherwise

    try:
        run.apply_async([str(organization_id), str(pk)], queue=f"infer.{hardware}", retry=False)
    except OperationalError as error:
        log.warning("prediction %s waits for the broker: %s", shown("pred", pk), error)


def cancel_prediction(prediction: Prediction) -> None:
    """Cancel what waits, ask the worker to stop what runs. Raises StateConflict if it is finished."""
    mine = Prediction.objects.of(prediction.organization_id).filter(pk=prediction.pk)
    if mine.filter(status=Status.STARTING).update(status=Status.CANCELED, completed_at=timezone.now()):
        return
    if not mine.filter(status=Status.PROCESSING).update(is_cancel_requested=True):
        raise StateConflict("The prediction is finished; there is nothing to cancel")
