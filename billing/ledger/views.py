"""Usage and limits over HTTP."""

import csv
import io
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from billing.caps import limits
from billing.caps.limits_out import LimitsLeftOut
from billing.ledger import calls, usage
from saas.lib import clock
from tenants.views import TenantView


class CsvRenderer(BaseRenderer):
    """`results` as lines, with a head. What a spreadsheet would take for a formula is made text."""

    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:  # Any: DRF's signature
        out = io.StringIO()
        writer = csv.DictWriter(out, data["columns"], lineterminator="\r\n")
        writer.writeheader()
        writer.writerows({name: _plain(value) for name, value in row.items()} for row in data["results"])
        return out.getvalue().encode()


class UsageRenderer(JSONRenderer):
    """JSON without the list of columns, which only CSV needs."""

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:  # Any: DRF's signature
        if isinstance(data, dict):
            data = {name: value for name, value in data.items() if name != "columns"}
        return super().render(data, accepted_media_type, renderer_context)


class ByQuery(DefaultContentNegotiation):
    """`?format=` goes before `Accept`. One that there is not is refused once it is known who asks (ManagementView)."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        wanted = request.query_params.get("format")
        for renderer in (renderers := list(renderers)):
            if renderer.format == wanted:
                return renderer, renderer.media_type
        return super().select_renderer(request, renderers, format_suffix)  # type: ignore[no-any-return]  # DRF is not typed here


def _plain(value: Any) -> Any:  # Any: text, number or None
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _query(name: str, description: str, **more: Any) -> OpenApiParameter:  # Any: drf-spectacular's arguments
    return OpenApiParameter(name, OpenApiTypes.STR, description=description, **more)


class UsageView(TenantView):
    required_scope = "usage:read"
    query_names = frozenset({"from", "granularity", "group_by", "to"})
    renderer_classes = [UsageRenderer, CsvRenderer]
    content_negotiation_class = ByQuery

    @extend_schema(
        summary="What was used, by period",
        description="Answered calls and what they took, from hourly roll-ups. `as_of` says up to when it is complete: every "
        "call that had ended by then is counted. `reversed` counts calls that were taken back because a gateway died.",
        parameters=[
            _query("group_by", "Any of model, version, key, mode, with commas."),
            _query("granularity", "hour, day (default) or month.", enum=["hour", "day", "month"]),
            _query("from", "Date or time, included. Default: 30 days before `to`."),
            _query("to", "Date (its whole day is included) or time (not included). Default: now."),
            _query("format", "csv for CSV, as is `Accept: text/csv`.", enum=["json", "csv"]),
        ],
        responses={(200, "application/json"): OpenApiTypes.OBJECT, (200, "text/csv"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> Response:
        now = clock.now()
        question = usage.Question.parse(request.query_params, now=now)
        as_of = usage.complete_until(now)
        rows = usage.answer(self.organization, question)
        body = {
            "results": rows,
            "as_of": _time(as_of),
            "from": _time(question.start),
            "to": _time(question.end),
            "columns": usage.columns(question),
        }
        return Response(body, headers={"X-As-Of": _time(as_of) or ""})


class CallsView(TenantView):
    required_scope = "usage:read"
    query_names = frozenset({"day", "key", "model", "request_id"})

    @extend_schema(
        summary="Single calls, newest first",
        parameters=[
            _query("day", "Date on which the calls were opened. Default: today."),
            _query("model", "Model's name as organization/name."),
            _query("key", "Public id of an API key."),
            _query("request_id", "The X-Request-Id of the call."),
            _query("cursor", "As in `next` of the page before."),
            OpenApiParameter("limit", OpenApiTypes.INT, description="1 to 100, default 50."),
        ],
        responses=OpenApiTypes.OBJECT,
    )
    def get(self, request: Request) -> Response:
        filters = calls.Filters.parse(request.query_params, self.organization, today=clock.now().date())
        rows, last = calls.page(self.organization, filters)
        return Response({"results": rows, "next": _next(request, last) if last else None})


class LimitsView(TenantView):
    required_scope = "limits:read"

    @extend_schema(
        summary="The limits of organization and key, and what is left",
        description="A person sees the organization's; a key also its own. Operators set the organization's.",
        responses=LimitsLeftOut,
    )
    def get(self, request: Request) -> Response:
        return Response(limits.limits_of(self.organization, self.access.key, now=clock.now()))


def _next(request: Request, last: UUID) -> str:
    query = request.query_params.copy()
    query["cursor"] = last.hex
    return request.build_absolute_uri(f"{request.path}?{query.urlencode()}")


def _time(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else None
