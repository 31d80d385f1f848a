"""POST /quote: what a call, or a file of calls, will cost."""

import re
from typing import Annotated, Any

import msgspec
from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.sale import quoting, terms
from billing.sale.quoting import Ask
from inference.predictions.api import route_for
from inference.registry import load_route
from inference.routes import ModelRoute
from saas.lib import jsontext
from saas.lib.errors import InvalidRequest, NotFound, ValidationFailed
from saas.lib.names import is_model_name
from tenants.bodies import JSONBodyParser
from tenants.views import SteppedView

MOST_ROWS = 1_000_000
UNNAMED = re.compile(r"Object .* field `(.+)`").fullmatch  # msgspec's words for a field too many or too few
Out = serializers.Serializer[Any]  # Any: answers are bound to no model


class LinesParser(JSONBodyParser):
    """A file of calls: a JSON object a line (application/x-ndjson)."""

    media_type = "application/x-ndjson"

    def decode(self, body: bytes) -> list[Any]:  # Any: JSON
        lines = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
        if len(lines) > quoting.MOST_CALLS:
            raise InvalidRequest(f"The file has more than {quoting.MOST_CALLS} calls; ask in parts")
        return [jsontext.read(line, what=f"Line {number}") for number, line in lines]


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """One call. A file has thousands, for which a serializer would take a hundred times as long."""

    model: Annotated[str, msgspec.Meta(max_length=127)]
    rows: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROWS)] | None = None
    inputs: Annotated[list[Any], msgspec.Meta(min_length=1)] | None = None  # Any: JSON; only counted
    timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None


class QuoteBody(Out):
    """The same for the API reference."""

    model = serializers.CharField(help_text="`name` or `organization/name`.")
    rows = serializers.IntegerField(required=False, help_text=f"Of the call, at most {MOST_ROWS:,}; default 1.")
    inputs = serializers.ListField(required=False, help_text="Of the call, to be counted; or `rows`.")
    timeout = serializers.FloatField(required=False, help_text="The call's X-Request-Timeout, if it has one: seconds.")


class UnitPricesOut(Out):
    call = serializers.CharField()
    row = serializers.CharField()
    second = serializers.CharField(help_text="Per second of computing.")


class ModelQuoteOut(Out):
    id = serializers.CharField()
    model = serializers.CharField()
    calls = serializers.IntegerField()
    rows = serializers.IntegerField()
    min = serializers.CharField()
    max = serializers.CharField()
    is_exact = serializers.BooleanField()
    price_version = serializers.IntegerField()
    price = UnitPricesOut()
    quote = serializers.CharField(help_text="For `X-Maas-Quote`: calls that name it are charged by this price.")


class QuoteOut(Out):
    """Sums of all calls, and a quote for each model."""

    currency = serializers.CharField()
    calls = serializers.IntegerField()
    min = serializers.CharField()
    max = serializers.CharField(help_text="Where seconds are charged: if each call computes until its deadline.")
    is_exact = serializers.BooleanField()
    expires_at = serializers.DateTimeField()
    models = ModelQuoteOut(many=True)


class QuoteView(SteppedView):
    required_scope = "predictions:write"
    parser_classes = [JSONBodyParser, LinesParser]

    @extend_schema(
        request={"application/json": QuoteBody, "application/x-ndjson": QuoteBody},
        responses=QuoteOut,
        summary="What calls will cost",
        description="One call as JSON, or many as NDJSON, a call a line. It changes nothing and costs nothing.",
    )
    def post(self, request: Request) -> Response:
        bodies = request.data if isinstance(request.data, list) else [request.data]
        is_file = request.content_type.partition(";")[0].strip().lower() == LinesParser.media_type
        if not bodies or (isinstance(request.data, list) and not is_file):
            raise InvalidRequest("Send one call as a JSON object, or a file with a call a line as application/x-ndjson")
        routes: dict[str, ModelRoute] = {}
        asks = [self._ask(body, number if is_file else None, routes) for number, body in enumerate(bodies, 1)]
        return Response(quoting.quote(self.organization.id.hex, terms.read(self.organization), asks))

    def _ask(self, data: Any, number: int | None, routes: dict[str, ModelRoute]) -> Ask:  # Any: JSON
        """One call; `number` is its place in a file. Models are looked up once each, in `routes`."""
        asked = _asked(data, number)
        if asked.model not in routes:
            try:
                routes[asked.model] = self._route(asked.model)
            except NotFound as error:
                if number is None:
                    raise
                raise _wrong(number, "model", error.detail) from None
        rows = asked.rows or len(asked.inputs or [None])
        return Ask(routes[asked.model], rows, asked.timeout or settings.CONFIG.timeout_default)

    def _route(self, name: str) -> ModelRoute:
        if self.access.key is not None:
            return route_for(self.access.key, self.organization.id, name)
        route = load_route(self.organization.id, self.organization.slug, name) if is_model_name(name) else None
        if route is None:
            raise NotFound(f"There is no model {name}")
        return route


def _asked(data: Any, number: int | None) -> Asked:  # Any: JSON
    """The checked call. Raises ValidationFailed."""
    try:
        asked = msgspec.convert(data, Asked)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        named = UNNAMED(reason)
        raise _wrong(number, place.rstrip("`") or (named[1] if named else ""), f"{reason}.") from None
    if asked.rows is not None and asked.inputs is not None:
        raise _wrong(number, "rows", "Either rows or inputs.")
    if asked.timeout is not None and asked.timeout > settings.CONFIG.timeout_max:
        raise _wrong(number, "timeout", f"At most {settings.CONFIG.timeout_max:g} seconds.")
    return asked


def _wrong(number: int | None, field: str, detail: str) -> ValidationFailed:
    """What is wrong with a call; of a file, with the number of its line in front."""
    if number is None:
        return ValidationFailed("Some fields are not acceptable.", errors=[{"field": field, "detail": detail}])
    errors = [{"field": f"{number}.{field}".rstrip("."), "detail": detail}]
    return ValidationFailed(f"Line {number} of the file cannot be taken.", errors=errors)
