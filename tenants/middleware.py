"""What every management request passes: a request id, the operators' database role in the admin, and answers for AppErrors."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from saas.lib import ids
from saas.lib.errors import AppError
from tenants.databases import as_operator
from tenants.problems import OUTAGES, as_app_error, problem_response

Handler = Callable[[HttpRequest], HttpResponse]


def request_id(handler: Handler) -> Handler:
    """Take X-Request-Id, or make one; return it. Views find it as `request.request_id`."""

    def handle(request: HttpRequest) -> HttpResponse:
        given = request.headers.get("X-Request-Id", "").encode("latin-1", "replace")
        request.request_id = ids.request_id(given)  # type: ignore[attr-defined]  # ours
        response = handler(request)
        response.headers.setdefault("X-Request-Id", request.request_id)  # type: ignore[attr-defined]  # ours
        return response

    return handle


def operators_in_admin(handler: Handler) -> Handler:
    """Under /admin/ everything, the session included, uses the `ops` role. Nowhere else."""

    def handle(request: HttpRequest) -> HttpResponse:
        with as_operator(request.path_info.startswith("/admin/")):
            return handler(request)

    return handle


class AppErrors:
    """Turns an AppError or an outage outside of DRF, for example in sign-in or after the commit, into problem+json."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._handler(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        return problem_response(as_app_error(error), request) if isinstance(error, (AppError, *OUTAGES)) else None
