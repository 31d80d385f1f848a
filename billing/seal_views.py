"""What a bill is checked by, over HTTP."""

import base64

from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from billing import bill
from billing.views import ByQuery
from saas.lib.signing import signing_keys
from tenants.permissions import SIGNED_IN
from tenants.views import ManagementView, TenantView


class NdjsonRenderer(JSONRenderer):
    """Names the format: the whole bill is streamed past it."""

    media_type = "application/x-ndjson"
    format = "ndjson"


class BillView(TenantView):
    required_scope = "billing:read"
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
