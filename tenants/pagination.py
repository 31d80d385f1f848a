"""Lists, newest first, a page at a time: `?limit=` (1 to 100) and the opaque `?cursor=` that `next` carries."""

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import Model, QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from saas.lib.errors import ValidationFailed

DEFAULT_LIMIT, MAX_LIMIT = 50, 100
M = TypeVar("M", bound=Model)


class Pages:
    """How the API reference describes `page`: as drf-spectacular asks a view's `pagination_class`."""

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:  # Any: OpenAPI
        properties = {"results": schema, "next": {"type": "string", "format": "uri", "nullable": True}}
        return {"type": "object", "required": ["results", "next"], "properties": properties}

    def get_schema_operation_parameters(self, view: object) -> list[dict[str, Any]]:  # Any: OpenAPI
        limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
        cursor = {"name": "cursor", "description": "As in `next` of the page before.", "schema": {"type": "string"}}
        return [{"name": "limit", "in": "query", "schema": limit}, {"in": "query", **cursor}]


def page(request: Request, rows: "QuerySet[M]", render: Callable[[M], Any]) -> Response:  # Any: JSON
    """One page of `rows`, whose ids are UUIDv7: `{"results": […], "next": URL or null}`.

    Rows that appear while somebody pages do not shift the later pages. Raises ValidationFailed for a wrong limit or cursor.
    """
    limit, after = _limit(request), _cursor(request)
    if after is not None:
        rows = rows.filter(id__lt=after)
    found = list(rows.order_by("-id")[: limit + 1])
    has_more, found = len(found) > limit, found[:limit]
    return Response({"results": [render(row) for row in found], "next": _next(request, found[-1].pk) if has_more else None})


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MAX_LIMIT):
        raise ValidationFailed(errors=[{"field": "limit", "detail": f"A number from 1 to {MAX_LIMIT}."}])
    return int(text)


def _cursor(request: Request) -> UUID | None:
    text = request.query_params.get("cursor")
    try:
        return UUID(hex=text) if text is not None else None
    except ValueError:
        raise ValidationFailed(errors=[{"field": "cursor", "detail": "Not a cursor that this list gave."}]) from None


def _next(request: Request, last: UUID) -> str:
    query = request.query_params.copy()
    query["cursor"] = last.hex
    return request.build_absolute_uri(f"{request.path}?{query.urlencode()}")
