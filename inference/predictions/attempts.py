"""From a stored prediction back to a call: the same key check, routing and decoding as over HTTP."""

import time
from uuid import UUID

from inference import registry
from inference.gateway.call import Call
from inference.gateway.http import decode_call
from inference.predictions.models import Prediction
from inference.routes import ModelRoute, VersionRoute
from saas.lib.errors import ApiKeyInvalid, NotFound
from tenants.keys import load_key
from tenants.principal import KeyRecord, unpack_key


def build_call(prediction: Prediction, body: bytes) -> Call:
    """The call of one attempt, `done` still to be set. Raises ApiKeyInvalid, NotFound, and what decoding raises."""
    key = _key(prediction)
    route, version = _version(prediction)
    call = decode_call(
        key=key, route=route, version=version, endpoint=prediction.endpoint, body=body, timeout=prediction.timeout
    )
    call.endpoint = "prediction"
    call.request_id = prediction.request_id
    call.idempotency_key = prediction.id.hex
    call.fingerprint = prediction.id.bytes
    call.is_low = True
    return call


def _key(prediction: Prediction) -> KeyRecord:
    packed = load_key(prediction.key_public_id)
    if packed is None:
        raise ApiKeyInvalid("The API key that created this prediction is gone")
    key = unpack_key(packed)
    if not key.is_active or (key.expires_at is not None and key.expires_at <= time.time()):
        raise ApiKeyInvalid("The API key that created this prediction was revoked or has expired")
    return key


def _version(prediction: Prediction) -> tuple[ModelRoute, VersionRoute]:
    """The very version that was named at creation, wherever its aliases point now."""
    owner, _, name = prediction.model_name.partition("/")
    route = registry.load_own_route(prediction.organization_id, name) or registry.load_public_route(owner, name)
    version = route.versions.get(prediction.version_number) if route else None
    if route is None or version is None or UUID(hex=version.id) != prediction.version_id:
        raise NotFound(f"{prediction.model_name} {prediction.version_number} was deleted")
    return route, version
