"""/api/v1/predictions: asynchronous calls. The object and its statuses are named as in Replicate's API (`canceled`)."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from django.conf import settings
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from inference import registry
from inference.gateway import headers, pricing, quotes
from inference.predictions.actions import cancel_prediction, create_prediction, find_keyed
from inference.predictions.admission import check_caps, check_waiting, take_token
from inference.predictions.bodies import PredictionBody, PredictionParser
from inference.predictions.models import TERMINAL, Prediction, PredictionQuerySet, Status
from inference.predictions.showing import TextRenderer, listed, read, shown, without_data
from inference.predictions.waiting import wait_until_finished
from inference.routes import ModelRoute
from saas.lib import clock
from saas.lib.errors import ApiKeyMissing, InvalidRequest, ModelNotAllowed, NotFound, ValidationFailed
from saas.lib.ids import parse_id
from saas.lib.ids import shown as shown_id
from saas.lib.names import is_model_name
from tenants.pagination import page
from tenants.principal import KeyRecord
from tenants.scope import tenant_scope
from tenants.views import SteppedView

MAX_WAIT = 60  # seconds that `Prefer: wait` may ask for
CANCEL_WAIT = 2.0  # seconds that a cancel waits to see whether the worker stopped
WAIT = re.compile(r"(?:^|,)\s*wait\s*(?:=\s*([^,]*?)\s*)?(?:[,;]|$)", re.ASCII | re.IGNORECASE)


Out = serializers.Serializer[Any]  # Any: answers are bound to no model
FILTERS = [
    OpenApiParameter("status", OpenApiTypes.STR, enum=Status.values),
    OpenApiParameter("model", OpenApiTypes.STR, description="`name` or `organization/name`."),
    OpenApiParameter("created_after", OpenApiTypes.DATETIME),
    OpenApiParameter("created_before", OpenApiTypes.DATETIME),
]


class ErrorOut(Out):
    code = serializers.CharField()
    detail = serializers.CharField()


class SecondsOut(Out):
    predict_time = serializers.FloatField()
    queue_time = serializers.FloatField()
    total_time = serializers.FloatField(allow_null=True)


class UrlsOut(Out):
    get = serializers.URLField()
    cancel = serializers.URLField()


class ListedOut(Out):
    """What `listed` makes, for the API reference."""

    id = serializers.CharField()
    model = serializers.CharField()
    version = serializers.CharField()
    endpoint = serializers.CharField()
    status = serializers.ChoiceField(Status.choices)
    error = ErrorOut(allow_null=True)
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    completed_at = serializers.DateTimeField(allow_null=True)
    expires_at = serializers.DateTimeField()
    data_removed = serializers.BooleanField()
    attempts = serializers.IntegerField()
    cost = serializers.CharField(allow_null=True, help_text="Like `0.00012 USD`, once it has succeeded.")
    metrics = SecondsOut()
    urls = UrlsOut()


class PredictionOut(ListedOut):
    """What `shown` makes, for the API reference."""

    input = serializers.JSONField(allow_null=True)
    output = serializers.JSONField(allow_null=True)


class PredictionView(SteppedView):
    """Base of the views here: a result is waited for between their transactions."""

    renderer_classes = (TextRenderer,)

    def seen(self) -> PredictionQuerySet:
        """The organization's predictions that the caller sees; there are no others to them."""
        rows: PredictionQuerySet = Prediction.objects.of(self.organization).seen_by(self.access.key)
        return rows

    def find(self, shown_id: str) -> Prediction:
        """The prediction of that id, without its data. Raises NotFound, also of one that the caller does not see."""
        pk = parse_id("pred", shown_id)
        rows = without_data(self.seen())
        found: Prediction | None = rows.filter(pk=pk).first() if pk else None
        if found is None:
            raise NotFound(f"There is no prediction {shown_id}")
        return found

    def waited(self, pk: UUID, seconds: float) -> dict[str, Any]:  # Any: JSON
        """The prediction once it is finished or `seconds` have passed; at once if too many wait already. Raises NotFound."""
        if seconds:
            wait_until_finished(self.organization.id, pk, seconds, has_left(self.request))
        with tenant_scope(self.organization.id):
            found = self.find(shown_id("pred", pk))
        return read(found)


class PredictionsView(PredictionView):
    """Create and list. Creating takes an API key: its limits and allow-list hold for the call."""

    required_scope: ClassVar[dict[str, str]] = {"GET": "predictions:read", "POST": "predictions:write"}
    query_names = frozenset(each.name for each in FILTERS)
    parser_classes = (PredictionParser,)
    fingerprint: bytes = b""

    @extend_schema(request=PredictionBody, responses={200: PredictionOut, 201: PredictionOut, 202: PredictionOut})
    def post(self, request: Request) -> Response:
        key = self.access.key
        if key is None:
            raise ApiKeyMissing("Create predictions with an API key: its limits and models hold for the call")
        body = PredictionBody.parse(request.data)
        idempotency_key = headers.idempotency_key(_header(request, "Idempotency-Key"))
        wait = wait_of(request.headers.get("Prefer", ""))
        timeout_max = settings.CONFIG.timeout_max
        timeout = headers.timeout(_header(request, "X-Request-Timeout"), timeout_max, timeout_max)
        take_token(key)
        route = route_for(key, self.organization.id, body["model"])
        with tenant_scope(self.organization.id):
            earlier = find_keyed(self.organization, key.mode, idempotency_key, self.fingerprint)
        if earlier is not None:
            return self.answer(earlier, wait, is_replay=True)
        named = _header(request, "X-Maas-Quote")
        price = pricing.price_of(key, route, quotes.read(named) if named is not None else None, clock.now_ms())
        check_caps(key, price)
        version = route.version(body.get("version"))
        if version is None:
            raise NotFound(f"{route.full_name} has no version or alias {body.get('version', 'production')}")
        with tenant_scope(self.organization.id):
            check_waiting(self.organization.id)
            prediction, is_new = create_prediction(
                organization=self.organization,
                key=key,
                route=route,
                version=version,
                endpoint=body["endpoint"],
                body=body["input"].take(),
                timeout=timeout,
                retention=timedelta(hours=self.organization.retention_hours or settings.CONFIG.prediction_retention_hours),
                request_id=request.request_id,  # type: ignore[attr-defined]  # of tenants.middleware
                idempotency_key=idempotency_key,
                fingerprint=self.fingerprint,
                quote=(named or b"").decode(),
            )
        return self.answer(prediction, wait, is_replay=not is_new)

    def answer(self, prediction: Prediction, wait: float, *, is_replay: bool) -> Response:
        """The prediction after at most `wait` seconds: 202 while it is not finished, then 201, or 200 for a replay."""
        if wait or is_replay:
            prediction.input = None
            done_with_body(self.request)  # nobody's next large one has to wait as long
            result = self.waited(prediction.pk, wait)
        else:
            with tenant_scope(self.organization.id):
                result = shown(prediction)
        done = 200 if is_replay else 201
        replayed = {"Idempotent-Replayed": "true"} if is_replay else {}
        status = done if result["status"] in TERMINAL else 202
        return Response(result, status=status, headers=cost_header(result) | replayed)

    @extend_schema(parameters=FILTERS, responses=ListedOut(many=True))
    def get(self, request: Request) -> Response:
        with tenant_scope(self.organization.id):
            rows = filtered(self.seen(), request)
            return page(request, rows.defer("input", "output"), listed)


class OnePredictionView(PredictionView):
    required_scope = "predictions:read"

    @extend_schema(responses=PredictionOut)
    def get(self, request: Request, prediction: str) -> Response:
        with tenant_scope(self.organization.id):
            pk = self.find(prediction).pk
        result = self.waited(pk, wait_of(request.headers.get("Prefer", "")))
        return Response(result, headers=cost_header(result))


class CancelPredictionView(PredictionView):
    required_scope = "predictions:write"

    @extend_schema(request=None, responses=PredictionOut)
    def post(self, request: Request, prediction: str) -> Response:
        """Cancel what waits or runs. What runs may end first; the answer says how it did, or that it still runs."""
        with tenant_scope(self.organization.id):
            found = self.find(prediction)
            cancel_prediction(found)
        return Response(self.waited(found.pk, CANCEL_WAIT))


def filtered(rows: PredictionQuerySet, request: Request) -> PredictionQuerySet:
    """`rows` narrowed by the query parameters status, model, created_after and created_before. Raises ValidationFailed."""
    query = request.query_params
    if status := query.get("status"):
        if status not in Status.values:
            raise ValidationFailed(errors=[{"field": "status", "detail": f"One of {', '.join(Status.values)}."}])
        rows = rows.filter(status=status)
    if model := query.get("model"):
        if not is_model_name(model):
            raise NotFound(f"There is no model {model}")
        rows = rows.filter(model_name=model) if "/" in model else rows.filter(model_name__endswith=f"/{model}")
    if after := query.get("created_after"):
        rows = rows.filter(created_at__gt=_moment("created_after", after))
    if before := query.get("created_before"):
        rows = rows.filter(created_at__lt=_moment("created_before", before))
    return rows


def _moment(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the latter: before the year 1 or after 9999 in UTC
        raise ValidationFailed(errors=[{"field": name, "detail": "A time as 2026-11-21T09:00:00Z."}]) from None


def wait_of(prefer: str) -> float:
    """Seconds that `Prefer: wait=N` asks for (RFC 7240, section 4.3), 0 if it does not; `wait` alone is the longest."""
    match = WAIT.search(prefer)
    if match is None:
        return 0.0
    text = str(MAX_WAIT) if match[1] is None else match[1].strip('"')
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MAX_WAIT):
        raise InvalidRequest(f"Prefer: wait=N takes 1 to {MAX_WAIT} seconds")
    return float(text)


def has_left(request: Request) -> Callable[[], bool]:
    """Tells whether the client of this request is gone, as far as that can be known: saas.asgi watches it, WSGI does not."""
    watch: Callable[[], Callable[[], bool]] | None = request.META.get("asgi.scope", {}).get("watch_client")
    return watch() if watch is not None else lambda: False


def done_with_body(request: Request) -> None:
    """Give back this request's place among those with a large body, if it has one (saas.management)."""
    request.META.get("asgi.scope", {}).get("done_with_body", lambda: None)()


def route_for(key: KeyRecord, organization_id: UUID, name: str) -> ModelRoute:
    """The model that the key calls `name`, as for gateways. Raises NotFound, ModelNotAllowed; has its own transactions."""
    route = registry.load_route(organization_id, key.slug, name) if is_model_name(name) else None
    if route is None:
        raise NotFound(f"There is no model {name}")
    if not key.may_call(route.full_name, route.name):
        raise ModelNotAllowed(f"The key may not call {route.full_name}; its allow-list names other models")
    return route


def cost_header(result: dict[str, Any]) -> dict[str, str]:  # Any: JSON
    """X-Maas-Cost, as a call's answer has it, once the prediction has succeeded."""
    return {"X-Maas-Cost": result["cost"]} if result["cost"] else {}


def _header(request: Request, name: str) -> bytes | None:
    value = request.headers.get(name)
    return None if value is None else value.encode("latin-1", "replace")
