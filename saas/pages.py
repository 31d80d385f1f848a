"""What belongs to no app: the API reference, health of a pure Django process, and answers to unknown addresses.

In a gateway process /livez, /readyz and /metrics are answered on the event loop (saas/asgi.py) and do not come here.
"""

import hashlib
from functools import cache
from threading import Lock
from typing import Any

from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.urls import path, re_path
from django.utils.cache import get_conditional_response
from django.views import View, defaults
from django.views.csrf import csrf_failure
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer2
from drf_spectacular.views import SpectacularSwaggerSplitView

import tenants.schema  # noqa: F401  # drf-spectacular finds its classes so
from saas.lib import csp
from saas.lib.errors import InternalError, NotFound, ScopeMissing
from tenants.problems import as_app_error, problem_response

SWAGGER_STYLE = "'sha256-MMpT0iDxyjALd9PdfepImGX3DBfJPXZ4IlDWdPAgtn0='"
"""Of the style block in drf-spectacular's swagger_ui.html."""
_making = Lock()


def livez(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"live": True})


def readyz(request: HttpRequest) -> HttpResponse:
    """Whether this process reaches its database."""
    try:
        connection.ensure_connection()
        is_ready = True
    except DatabaseError:
        is_ready = False
    return JsonResponse({"ready": is_ready}, status=200 if is_ready else 503)


@csrf_exempt
def unknown(request: HttpRequest) -> HttpResponse:
    """No such address under an API's base path, whoever asks and however."""
    return problem_response(NotFound("There is no such route"), request)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return unknown(request) if is_api(request) else defaults.page_not_found(request, exception)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return problem_response(as_app_error(exception), request) if is_api(request) else defaults.bad_request(request, exception)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return problem_response(ScopeMissing(), request) if is_api(request) else defaults.permission_denied(request, exception)


def csrf_failed(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Django's CSRF_FAILURE_VIEW."""
    if not is_api(request):
        return csrf_failure(request, reason)
    return problem_response(ScopeMissing("A session's cookie needs the header X-CSRFToken, with its cookie's value"), request)


def server_error(request: HttpRequest) -> HttpResponse:
    return problem_response(InternalError(), request) if is_api(request) else defaults.server_error(request)


def is_api(request: HttpRequest) -> bool:
    return request.path_info.lstrip("/").partition("/")[0] in ("api", "v2", "_allauth", "stripe")


class DocsView(SpectacularSwaggerSplitView):
    """The API reference as a page. Its script comes by itself, its few lines of style are allowed by their hash."""

    def finalize_response(self, *args: Any, **kwargs: Any) -> Any:  # Any: as DRF calls it
        response = super().finalize_response(*args, **kwargs)
        response.headers[csp.HEADER] = csp.policy(style_src=SWAGGER_STYLE)
        return response


class SchemaView(View):
    """The API reference as JSON."""

    def get(self, request: HttpRequest) -> HttpResponseBase:
        body, etag = api_schema()
        response = HttpResponse(body, content_type="application/json", headers={"ETag": etag, "Cache-Control": "no-cache"})
        return get_conditional_response(request, etag=etag, response=response) or response


def api_schema() -> tuple[bytes, str]:
    """The document and its ETag, made once in a process; by one thread, because drf-spectacular's generator is for one."""
    with _making:
        return _made_schema()


@cache
def _made_schema() -> tuple[bytes, str]:
    document = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]  # it is not typed
    body = OpenApiJsonRenderer2().render(document, renderer_context={})
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'


urlpatterns = [
    path("docs/", DocsView.as_view(url_name="schema"), name="docs"),
    path("docs/openapi.json", SchemaView.as_view(), name="schema"),
    path("livez", livez),
    path("readyz", readyz),
    re_path(r"^(?:api|v2)(?:/|$)", unknown),
]
