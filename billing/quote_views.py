"""POST /quote: what a call, or a file of calls, will cost."""

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import quoting, terms
from billing.quoting import Ask
from inference.predictions.api import route_for
from inference.registry import load_route
from inference.routes import ModelRoute
from saas.lib import jsontext
from saas.lib.errors import InvalidRequest, NotFound, ValidationFailed
from saas.lib.names import is_model_name
from tenants.bodies import Body, JSONBodyParser
from tenants.views import SteppedView

MOST_ROWS = 1_000_000
Out = serializers.Serializer[Any]  # Any: answers are bound to no model


class LinesParser(JSONBodyParser):
    """A file of calls: a JSON object a line (application/x-ndjson)."""

    media_type = "application/x-ndjson"

    def decode(self, body: bytes) -> list[Any]:  # Any: JSON
        lines = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
        if len(lines) > quoting.MOST_CALLS:
            raise InvalidRequest(f"The file has more than {quoting.MOST_CALLS} calls; ask in parts")
        return [jsontext.read(line, what=f"Line {number}") for number, line in lines]


class QuoteBody(Body):
    model = serializers.CharField(max_length=127, help_text="`name` or `organization/name`.")
    rows = serializers.IntegerField(
        min_value=1, max_value=MOST_ROWS, required=False, help_text="That the call brings; default 1."
    )
    inputs = serializers.ListField(
        required=False, allow_empty=False, help_text="The call's, instead of `rows`: they are counted."
    )
    timeout = serializers.FloatField(
        min_value=0.001, required=False, help_text="The call's X-Request-Timeout, if it has one: seconds."
    )


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
        try:
            body = QuoteBody.parse(data)
            if "rows" in body and "inputs" in body:
                raise ValidationFailed(errors=[{"field": "rows", "detail": "Either rows or inputs."}])
            timeout = body.get("timeout", settings.CONFIG.timeout_default)
            if timeout > settings.CONFIG.timeout_max:
                detail = f"At most {settings.CONFIG.timeout_max:g} seconds."
                raise ValidationFailed(errors=[{"field": "timeout", "detail": detail}])
            name = body["model"]
            if name not in routes:
                routes[name] = self._route(name)
        except (InvalidRequest, ValidationFailed, NotFound, serializers.ValidationError) as error:
            if number is None:
                raise
            raise _in_line(number, error) from None
        return Ask(routes[name], body.get("rows") or len(body.get("inputs", [None])), timeout)

    def _route(self, name: str) -> ModelRoute:
        if self.access.key is not None:
            return route_for(self.access.key, self.organization.id, name)
        route = load_route(self.organization.id, self.organization.slug, name) if is_model_name(name) else None
        if route is None:
            raise NotFound(f"There is no model {name}")
        return route


def _in_line(number: int, error: Exception) -> ValidationFailed:
    """What is wrong with a line of a file, with its number in front."""
    if isinstance(error, serializers.ValidationError):
        said: Mapping[str, Any] = error.detail if isinstance(error.detail, dict) else {"": error.detail}  # Any: DRF's lists
        found = [{"field": f"{number}.{name}", "detail": " ".join(map(str, texts))} for name, texts in said.items()]
    elif errors := getattr(error, "errors", None):
        found = [{**each, "field": f"{number}.{each['field']}"} for each in errors]
    else:
        found = [{"field": str(number), "detail": str(error)}]
    return ValidationFailed(f"Line {number} of the file cannot be taken.", errors=found)
