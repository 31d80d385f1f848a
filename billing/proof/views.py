"""What a bill is checked by, over HTTP."""

import base64
from dataclasses import replace

from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from billing.ledger import usage
from billing.ledger.views import ByQuery, CsvRenderer, UsageRenderer
from billing.proof import archive, bill, sealed_usage
from billing.proof.sealer import sealed_until
from saas.lib import clock
from saas.lib.signing import signing_keys
from tenants.permissions import SIGNED_IN
from tenants.views import ManagementView, TenantView


class NdjsonRenderer(JSONRenderer):
    """Names the format: the whole bill is streamed past it."""

    media_type = "application/x-ndjson"
    format = "ndjson"


class BillView(TenantView):
    required_scope = "billing:read"
    query_names = frozenset({"month"})
    renderer_classes = [JSONRenderer, NdjsonRenderer]
    content_negotiation_class = ByQuery

    @extend_schema(
        summary="A month's bill that can be checked",
        description="Plan, prices, lines and total, signed. As NDJSON, each sealed hour and its calls follow, and "
        "`verify_bill.py` checks all of it offline. Hours that are not over yet are not on it.",
        parameters=[
            OpenApiParameter("month", OpenApiTypes.STR, description="As 2026-11. Default: this month."),
            OpenApiParameter("format", OpenApiTypes.STR, description="ndjson for all of it.", enum=["json", "ndjson"]),
        ],
        responses={(200, "application/json"): OpenApiTypes.OBJECT, (200, "application/x-ndjson"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> Response | StreamingHttpResponse:
        month = bill.Month.parse(request.query_params.get("month"))
        first_line = bill.header(self.organization, month)
        if request.accepted_renderer.format == "json":
            return Response(first_line)
        return StreamingHttpResponse(
            bill.lines(self.organization, month, first_line),
            content_type="application/x-ndjson",
            headers={"Content-Disposition": f'attachment; filename="bill-{month}.ndjson"'},
        )


class BilledUsageView(TenantView):
    required_scope = "billing:read"
    query_names = frozenset({"from", "granularity", "month", "to"})
    renderer_classes = [UsageRenderer, CsvRenderer]
    content_negotiation_class = ByQuery

    @extend_schema(
        summary="What bills are made of, by period, model and price",
        description="Sealed hours: those in which calls were closed, as on bills and invoices, whose usage these rows "
        "add up to, in `totals` for each currency. `sealed_until` says how far they go.",
        parameters=[
            OpenApiParameter("granularity", OpenApiTypes.STR, description="Default: day.", enum=["hour", "day", "month"]),
            OpenApiParameter("month", OpenApiTypes.STR, description="As 2026-11, instead of `from` and `to`."),
            OpenApiParameter("from", OpenApiTypes.STR, description="Date or time, included. Default: 30 days before `to`."),
            OpenApiParameter("to", OpenApiTypes.STR, description="Date (its whole day is included) or time."),
            OpenApiParameter("format", OpenApiTypes.STR, description="csv for CSV.", enum=["json", "csv"]),
        ],
        responses={(200, "application/json"): OpenApiTypes.OBJECT, (200, "text/csv"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> Response:
        query = request.query_params
        question = usage.Question.parse(query, now=clock.now())
        if "month" in query:
            month = bill.Month.parse(query["month"])
            question = replace(question, start=month.start, end=month.end)
        until = sealed_until()
        results = sealed_usage.answer(self.organization, question)
        return Response(
            {
                "results": results,
                "totals": sealed_usage.totals(results),
                "from": question.start,
                "to": question.end,
                "sealed_until": until,
                "columns": sealed_usage.COLUMNS,
            }
        )


class BilledCallsView(TenantView):
    required_scope = "billing:read"
    query_names = frozenset({"hour"})

    @extend_schema(
        summary="The calls of a sealed hour, as they are stated in receipts and bills",
        parameters=[
            OpenApiParameter("hour", OpenApiTypes.STR, description="As 2026-11-26T04:00:00Z. Default: the last one."),
            OpenApiParameter("cursor", OpenApiTypes.STR, description="As in `next` of the page before."),
            OpenApiParameter("limit", OpenApiTypes.INT, description="1 to 1000, default 100."),
        ],
        responses=OpenApiTypes.OBJECT,
    )
    def get(self, request: Request) -> Response:
        rows, cursor = sealed_usage.calls(self.organization, sealed_usage.Hour.parse(request.query_params))
        following = None
        if cursor is not None:
            query = request.query_params.copy()
            query["cursor"] = cursor
            following = request.build_absolute_uri(f"{request.path}?{query.urlencode()}")
        return Response({"results": rows, "next": following})


class ReceiptsView(TenantView):
    required_scope = "billing:read"
    query_names = frozenset({"call"})

    @extend_schema(
        summary="Receipts of calls, and the seals that they are in",
        description="For calls in the ledger, whether or not they asked for a receipt (only those that did have digests). "
        "What is not there is left out.",
        parameters=[
            OpenApiParameter("call", OpenApiTypes.STR, many=True, description="Id of a call; up to 100 times."),
        ],
        responses=OpenApiTypes.OBJECT,
    )
    def get(self, request: Request) -> Response:
        calls = archive.parse_calls(request.query_params.getlist("call"))
        found = [archive.receipt_of(self.organization, call) for call in calls]
        return Response({"results": [receipt for receipt in found if receipt is not None]})


class SigningKeysView(ManagementView):
    required_scope = SIGNED_IN

    @extend_schema(
        summary="The public keys of receipts and seals",
        description="All versions that ever signed; keep them: with them a receipt can be checked without us.",
        responses=OpenApiTypes.OBJECT,
    )
    def get(self, request: Request) -> Response:
        keys = signing_keys()
        shown = [
            {"version": version, "algorithm": "Ed25519", "public_key": base64.b64encode(key).decode()}
            for version, key in keys.public().items()
        ]
        return Response({"current": keys.current, "keys": shown})
