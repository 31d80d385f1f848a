"""What can be done with an asynchronous prediction: create, cancel, expire."""

import json
import logging
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone
from kombu.exceptions import OperationalError

from inference.predictions.models import Prediction, Status
from inference.routes import ModelRoute, VersionRoute
from inference.sealing import seal_for
from saas.lib.errors import StateConflict
from tenants.models import ApiKey, Organization

log = logging.getLogger(__name__)


def create_prediction(
    *,
    organization: Organization,
    key: ApiKey,
    route: ModelRoute,
    version: VersionRoute,
    endpoint: str,
    body: dict[str, Any],  # Any: the JSON body of that endpoint, decoded
    timeout: float,
    retention: timedelta,
    request_id: str,
) -> Prediction:
    """Accept a prediction: it is stored, and started once the transaction is committed. Its input is sealed."""
    prediction = Prediction(
        organization=organization,
        key_public_id=key.public_id,
        key_id=key.id,
        model_name=route.full_name,
        model_id=route.id,
        version_id=version.id,
        version_number=version.number,
        hardware=version.hardware,
        endpoint=endpoint,
        timeout=timeout,
        request_id=request_id,
        expires_at=timezone.now() + retention,
    )
    prediction.input = seal_for(organization.id, json.dumps(body).encode(), context=("prediction", "input", prediction.id.hex))
    prediction.save(force_insert=True)
    transaction.on_commit(lambda: send(prediction))
    return prediction


def send(prediction: Prediction) -> None:
    """Tell a worker of its hardware about it. A broker that is away delays it until the sweeper's next round."""
    from inference.predictions.tasks import run  # tasks import the gateway, which a web process need not

    try:
        run.apply_async(
            [str(prediction.organization_id), str(prediction.id)], queue=f"infer.{prediction.hardware}", retry=False
        )
    except OperationalError as error:
        log.warning("a prediction waits for the broker: %s", error, extra={"prediction": prediction.shown_id})
        Prediction.objects.of(prediction.organization_id).filter(pk=prediction.pk).update(sent_at=None)


def cancel_prediction(prediction: Prediction) -> None:
    """Cancel what waits, ask the worker to stop what runs. Raises StateConflict if it is finished."""
    waiting = Prediction.objects.of(prediction.organization_id).filter(pk=prediction.pk, status=Status.STARTING)
    if waiting.update(status=Status.CANCELED, completed_at=timezone.now(), is_cancel_requested=True):
        return
    running = Prediction.objects.of(prediction.organization_id).filter(pk=prediction.pk, status=Status.PROCESSING)
    if not running.update(is_cancel_requested=True):
        raise StateConflict("The prediction is finished; there is nothing to cancel")
