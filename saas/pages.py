"""What belongs to no app: the API reference, health of a pure Django process, and answers to unknown addresses.

In a gateway process /livez, /readyz and /metrics are answered on the event loop (saas/asgi.py) and do not come here.
"""

from collections.abc import Iterable
from typing import Any

from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path, re_path
from django.views import defaults
from django.views.csrf import csrf_failure
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.renderers import OpenApiJsonRenderer2
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

import tenants.schema  # noqa: F401  # drf-spectacular finds its classes so
from saas.lib import csp
from saas.lib.errors import InternalError, NotFound, ScopeMissing
from tenants.problems import as_app_error, problem_response

JSON = "application/json"
SWAGGER_STYLE = "'sha256-MMpT0iDxyjALd9PdfepImGX3DBfJPXZ4IlDWdPAgtn0='"
"""Of the style block in drf-spectacular's swagger_ui.html."""
TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string", "example": "FP32"},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}, "description": "Flat, or nested as the shape."},
    },
}


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
    return request.path_info.lstrip("/").partition("/")[0] in ("api", "v2", "_allauth")


class OnlyForm(BaseContentNegotiation):
    """The view's one renderer, whatever is asked for."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        (renderer,) = renderers
        return renderer, renderer.media_type


class DocsView(SpectacularSwaggerSplitView):
    """The API reference as a page. Its script comes by itself, its few lines of style are allowed by their hash."""

    def finalize_response(self, *args: Any, **kwargs: Any) -> Any:  # Any: as DRF calls it
        response = super().finalize_response(*args, **kwargs)
        response.headers[csp.HEADER] = csp.policy(style_src=SWAGGER_STYLE)
        return response


class SchemaView(SpectacularAPIView):
    """The API reference as JSON."""

    renderer_classes = [OpenApiJsonRenderer2]
    content_negotiation_class = OnlyForm


urlpatterns = [
    path("docs/", DocsView.as_view(url_name="schema"), name="docs"),
    path("docs/openapi.json", SchemaView.as_view(), name="schema"),
    path("livez", livez),
    path("readyz", readyz),
    re_path(r"^(?:api|v2)(?:/|$)", unknown),
]


def with_gateway_routes(result: dict[str, Any], **_: Any) -> dict[str, Any]:  # Any: an OpenAPI document
    """drf-spectacular's hook: add the routes that the gateway answers, which Django does not know."""
    result["components"].setdefault("schemas", {})["Tensor"] = TENSOR
    for place, operations in gateway_paths().items():
        result["paths"].setdefault(place, {}).update(operations)
    return result


def gateway_paths() -> dict[str, Any]:  # Any: OpenAPI's path items
    """`{model}` is a name or organization/name; `/versions/{version or alias}` may follow it."""
    model = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    versioned = [*model, {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}]
    paths: dict[str, Any] = {
        "/v2": {"get": _operation("v2_server", "Server metadata", is_open=True)},
        "/v2/health/live": {"get": _operation("v2_live", "Whether the server lives", is_open=True)},
        "/v2/health/ready": {"get": _operation("v2_ready", "Whether an answer could be given", is_open=True)},
        "/v2/repository/index": {"post": _operation("v2_index", "Models that the key may see", body=INDEX)},
    }
    for suffix, parameters, ending in (("", model, ""), ("/versions/{version}", versioned, "_version")):
        base = f"/v2/models/{{model}}{suffix}"
        paths[base] = {"get": _operation(f"v2_model{ending}", "Model metadata", parameters)}
        paths[f"{base}/ready"] = {"get": _operation(f"v2_model_ready{ending}", "Whether the model can be called", parameters)}
        paths[f"{base}/infer"] = {
            "post": _operation(f"v2_infer{ending}", "Infer (Open Inference Protocol V2)", parameters, INFER)
        }
        place = f"/api/v1/models/{{model}}{suffix}/predict"
        paths[place] = {"post": _operation(f"predict{ending}", "Predict", parameters, PREDICT)}
    return paths


INDEX = {JSON: {"schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}}
INFER = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": "string"},
                "parameters": {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}},
                "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
                "outputs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
                    },
                },
            },
        }
    },
    "application/octet-stream": {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": "JSON and binary tensors; Inference-Header-Content-Length.",
        }
    },
}
PREDICT = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "inputs": {"description": "By the model's task: rows, objects by feature, images in base64, texts."},
                "top": {"type": "integer", "minimum": 1},
            },
        }
    },
    "multipart/form-data": {
        "schema": {"type": "object", "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}}}
    },
}


def _operation(
    name: str,
    summary: str,
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
    *,
    is_open: bool = False,
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "tags": ["inference"],
        "parameters": parameters or [],
        "responses": {
            "200": {"description": "The answer", "content": {JSON: {"schema": {}}}},
            "default": {"description": "A refusal or failure, with its code"},
        },
        "security": [] if is_open else [{"apiKey": []}],
    }
    if body:
        operation["requestBody"] = {"content": body}
    return operation
