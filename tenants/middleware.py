"""What every management request passes: a request id, a look at whether a view could read it at all, the operators' database
role in the admin, and answers for AppErrors.
"""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse

from saas.lib import ids, jsontext
from saas.lib.errors import AppError, InvalidRequest, MethodNotAllowed, PayloadTooLarge, UnsupportedMediaType
from tenants.access import Access
from tenants.bodies import JSONBodyParser, refuse_encoding
from tenants.databases import as_operator
from tenants.problems import OUTAGES, as_app_error, problem_response

Handler = Callable[[HttpRequest], HttpResponse]


def request_ids(handler: Handler) -> Handler:
    """Take X-Request-Id and traceparent, or make them; return them. Found later as `request.request_id`, `request.trace_id`."""

    def handle(request: HttpRequest) -> HttpResponse:
        request.request_id = ids.request_id(_bytes(request, "X-Request-Id"))  # type: ignore[attr-defined]  # ours
        request.trace_id, trace = ids.trace(_bytes(request, "traceparent"))  # type: ignore[attr-defined]  # ours
        response = handler(request)
        response.headers["traceparent"] = trace
        response.headers.setdefault("X-Request-Id", request.request_id)  # type: ignore[attr-defined]  # ours
        return response

    return handle


def _bytes(request: HttpRequest, header: str) -> bytes:
    return request.headers.get(header, "").encode("latin-1", "replace")


def accepted_callers(handler: Handler) -> Handler:
    """In a gateway process: say whose key or session was accepted, so that their next requests have turns of their own."""

    def handle(request: HttpRequest) -> HttpResponse:
        response = handler(request)
        if accept := request.META.get("asgi.scope", {}).get("accepted"):  # saas/callers.py
            access, user = getattr(request, "auth", None), getattr(request, "_cached_user", None)
            if isinstance(access, Access):
                accept(access.owner)
            elif user is not None and user.is_authenticated:  # on pages, where no view of ours asks
                accept(f"user {user.id}")
        return response

    return handle


def operators_in_admin(handler: Handler) -> Handler:
    """Under /admin/ everything, the session included, uses the `ops` role. Nowhere else."""

    def handle(request: HttpRequest) -> HttpResponse:
        with as_operator(request.path_info.startswith("/admin/")):
            return handler(request)

    return handle


class Refusals:
    """Refuses what no view could read, and methods that the route does not take: whoever asks, and before the check for CSRF,
    which reads the body.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def __call__(self, request: HttpRequest) -> HttpResponse:
        try:
            check_head(request)
        except AppError as error:
            return problem_response(error, request)
        return self._handler(request)

    def process_view(self, request: HttpRequest, view: Any, *_: Any) -> HttpResponse | None:  # Any: as Django calls it
        methods = methods_of(view)
        if methods and request.method not in methods:
            refused = problem_response(MethodNotAllowed(f"This route takes {', '.join(methods)}"), request)
            refused["Allow"] = ", ".join(methods)
            return refused
        try:
            if request.path_info.startswith("/_allauth/") and request.method != "GET":
                check_account_body(request)
        except AppError as error:
            return problem_response(error, request)
        return None


def check_head(request: HttpRequest) -> None:
    """Raise UnsupportedMediaType for a charset that is not UTF-8 (Django would decode the query by it, too), and InvalidRequest
    for NUL in the query, which PostgreSQL takes in no text.
    """
    if (request.content_params or {}).get("charset", "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType("The charset must be UTF-8")
    if "%00" in request.META.get("QUERY_STRING", ""):
        raise InvalidRequest("The query has a NUL character (%00)")


def methods_of(view: Any) -> list[str]:  # Any: a view function
    """The methods that a class-based view has, HEAD with GET; of another view nothing is known."""
    found = getattr(view, "cls", None) or getattr(view, "view_class", None)
    names = [name for name in found.http_method_names if hasattr(found, name)] if found else []
    return [name.upper() for name in names] + (["HEAD"] if "get" in names and "head" not in names else [])


def check_account_body(request: HttpRequest) -> None:
    """allauth's views take JSON objects, whatever their content type.

    Raises UnsupportedMediaType, PayloadTooLarge, InvalidRequest.
    """
    refuse_encoding(request)
    limit = JSONBodyParser.max_bytes
    if int(request.META.get("CONTENT_LENGTH") or 0) > limit:
        raise PayloadTooLarge(f"The body may have {limit} bytes at most")
    if request.body and not isinstance(jsontext.read(request.body), dict):
        raise InvalidRequest("The body must be a JSON object.")


class AppErrors:
    """Turns an AppError or an outage outside of DRF, for example in sign-in or after the commit, into problem+json."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._handler(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        return problem_response(as_app_error(error), request) if isinstance(error, (AppError, *OUTAGES)) else None
