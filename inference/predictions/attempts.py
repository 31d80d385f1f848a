"""From a stored prediction back to a call: the same key check, routing and decoding as over HTTP."""

import time
from uuid import UUID

import msgspec

from inference import registry
from inference.gateway import friendly, quotes, v2
from inference.gateway.call import Call, Rendered
from inference.gateway.quotes import Quote
from inference.lanes import Reply
from inference.predictions.models import Prediction
from inference.routes import ModelRoute, VersionRoute
from saas.lib.errors import ApiKeyInvalid, InvalidRequest, NotFound
from tenants.keys import load_key
from tenants.principal import KeyRecord, unpack_key

Ask = v2.Infer | friendly.Predict
NEVER = 1 << 60  # milliseconds since the epoch


def read_ask(endpoint: str, body: bytes, route: ModelRoute, version: VersionRoute) -> Ask:
    """The checked request in `body`, JSON as that endpoint takes it. Raises what a dialect raises for bad input."""
    if endpoint == "infer":
        ask = v2.read_infer(body, None, version)
        if ask.is_binary or any(ask.binary.values()):
            raise InvalidRequest("A prediction's output is JSON; ask for binary outputs with POST /v2/models/…/infer")
        return ask
    return friendly.read_predict(body, "application/json", None, route, version)


def build_call(prediction: Prediction, body: bytes) -> Call:
    """The call of one attempt. Raises ApiKeyInvalid, NotFound, and what decoding raises. Opens its own transactions."""
    key = _key(prediction)
    route, version = _version(prediction)
    ask = read_ask(prediction.endpoint, body, route, version)

    def render(call: Call, reply: Reply) -> Rendered:
        if isinstance(ask, v2.Infer):
            return v2.render_infer(ask, prediction.model_name, call, reply)
        return friendly.render_predict(ask, prediction.model_name, call, reply)

    return Call(
        key=key,
        route=route,
        version=version,
        endpoint="prediction",
        rows=ask.rows,
        render=render,
        done=_not_submitted,
        inputs=ask.inputs,
        items=ask.items,
        prepare_us=ask.prepare_us if isinstance(ask, friendly.Predict) else 0.0,
        outputs=ask.outputs,
        top=(ask.top or 1) if isinstance(ask, friendly.Predict) else 0,
        is_ranked=bool(version.labels) or (isinstance(ask, v2.Infer) and bool(ask.classes)),
        bytes_in=len(body),
        timeout=prediction.timeout,
        request_id=prediction.request_id,
        idempotency_key=f"{prediction.shown_id}",
        fingerprint=prediction.id.bytes,
        is_low=True,
        quote=_quote(prediction),
    )


def _not_submitted(call: Call, outcome: object) -> None:
    """Replaced by GatewayThread.submit."""


def _quote(prediction: Prediction) -> Quote | None:
    """The quote that was good when the prediction was created: it is kept, however long the prediction has waited."""
    if not prediction.quote:
        return None
    return msgspec.structs.replace(quotes.read(prediction.quote.encode()), expires_ms=NEVER)


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
    for route in (registry.load_own_route(prediction.organization_id, name), registry.load_public_route(owner, name)):
        version = route.versions.get(prediction.version_number) if route else None
        if route is not None and version is not None and UUID(hex=version.id) == prediction.version_id:
            return route, version
    raise NotFound(f"{prediction.model_name} {prediction.version_number} was deleted")
