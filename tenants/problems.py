"""Errors of the management API as problem details (RFC 9457): always `code` and `request_id`, `errors` for single fields."""

import logging
import math
from collections.abc import Iterator
from typing import Any

import redis
from django.core.exceptions import BadRequest, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from rest_framework import exceptions as drf
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.views import set_rollback

from saas.lib import errors

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"

OUTAGES = (redis.RedisError, OperationalError, InterfaceError)
"""PostgreSQL or a Valkey cannot be reached: nobody's mistake, and worth another try."""

_SAME: dict[type[Exception], type[errors.AppError]] = {
    drf.NotAuthenticated: errors.ApiKeyMissing,
    drf.AuthenticationFailed: errors.ApiKeyInvalid,
    drf.PermissionDenied: errors.ScopeMissing,
    PermissionDenied: errors.ScopeMissing,
    drf.NotFound: errors.NotFound,
    Http404: errors.NotFound,
    drf.ParseError: errors.InvalidRequest,
    drf.MethodNotAllowed: errors.MethodNotAllowed,
    drf.UnsupportedMediaType: errors.UnsupportedMediaType,
    drf.NotAcceptable: errors.InvalidRequest,
    drf.Throttled: errors.RateLimited,
    RequestDataTooBig: errors.PayloadTooLarge,
    SuspiciousOperation: errors.InvalidRequest,
    BadRequest: errors.InvalidRequest,
    MultiPartParserError: errors.InvalidRequest,
    UnreadablePostError: errors.InvalidRequest,
}


def exception_handler(error: Exception, context: dict[str, Any]) -> HttpResponse:  # Any: DRF's context
    """DRF's EXCEPTION_HANDLER. What nobody expected is logged and answered as our fault, without a detail."""
    set_rollback()
    return problem_response(as_app_error(error), context["request"])


def as_app_error(error: Exception) -> errors.AppError:
    """The AppError that says the same as `error`."""
    if isinstance(error, errors.AppError):
        return error
    if isinstance(error, drf.ValidationError):
        return errors.ValidationFailed("Some fields are not acceptable.", errors=list(_fields(error.detail)))
    for kind, same in _SAME.items():
        if isinstance(error, kind):
            return same(str(error) if isinstance(error, drf.APIException) else "")
    if isinstance(error, OUTAGES):
        log.error("a server that this request needs is away: %s", error)
        return errors.Unavailable("Something that this needs cannot be reached right now; try again soon", retry_after=2)
    log.error("a request failed unexpectedly", exc_info=error)
    return errors.InternalError()


def problem(error: errors.AppError, request_id: str) -> dict[str, Any]:  # Any: JSON
    """The body of a refusal or failure."""
    body = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
    }
    if error.errors is not None:
        body["errors"] = error.errors
    if error.source is not None:
        body["limit_source"] = error.source
    if error.cap is not None:
        body["cap"] = error.cap
    return body


def problem_response(error: errors.AppError, request: HttpRequest | Request) -> HttpResponse:
    """The answer to a management request that failed with `error`."""
    body = JSONRenderer().render(problem(error, getattr(request, "request_id", "")))
    response = HttpResponse(body, status=error.status, content_type=CONTENT_TYPE)
    response.code = error.code  # type: ignore[attr-defined]  # ours: for the log and the counters
    if error.status == 401:
        response["WWW-Authenticate"] = 'Bearer realm="api"'
    if error.retry_after is not None:
        response["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return response


def _fields(detail: Any, field: str = "") -> Iterator[dict[str, str]]:  # Any: DRF's nested lists and dicts of messages
    """Each message with the dotted name of its field."""
    if isinstance(detail, dict):
        for name, inner in detail.items():
            yield from _fields(
                inner, f"{field}.{name}".lstrip(".").removesuffix(".non_field_errors").removeprefix("non_field_errors")
            )
    elif isinstance(detail, list):
        for inner in detail:
            yield from _fields(inner, field)
    else:
        yield {"field": field, "detail": str(detail)}
