"""What the API reference (/docs/) has beside what drf-spectacular finds: the gateway's routes, headers, refusals, sign-up.

Which statuses an operation may answer follows from what it is: whether it takes a key, a body, or changes something.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from saas.gateway_reference import JSON, TENSOR, Document, gateway_paths
from saas.lib import errors
from saas.lib.errors import AppError

PROBLEM_JSON = "application/problem+json"
ABOUT = """Refusals and failures have a `code`, by which to go; their texts may change. Every answer has an `X-Request-Id`.

Signing up and in, passwords and the confirmation of addresses are under `/_allauth/app/v1/…` (or `/_allauth/browser/v1/…` with
a cookie): `POST …/auth/signup` and `POST …/auth/login` with `{"email", "password"}` answer with `meta.session_token`, which is
then sent as `X-Session-Token`; `DELETE …/auth/session` ends it. These are the routes of django-allauth's headless API, which
the link below describes; docs/accounts.md in the source has the commands, from signing up to the first key."""
SIGN_UP = {
    "url": "https://docs.allauth.org/en/latest/headless/openapi-specification/",
    "description": "Sign-up and sign-in: django-allauth's headless API under /_allauth/",
}
PROBLEM = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "The reason, and what to do."},
        "code": {"type": "string", "description": "Go by this: texts may change."},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {"type": "object", "properties": {"field": {"type": "string"}, "detail": {"type": "string"}}},
        },
        "limit_source": {"type": "string", "enum": ["key", "organization", "platform"]},
    },
}
V2_ERROR = {
    "type": "object",
    "required": ["error", "code", "request_id"],
    "properties": {"error": {"type": "string"}, "code": {"type": "string"}, "request_id": {"type": "string"}},
}
HEADERS = {
    "X-Organization": "With a session: the slug of the organization to act in. Default: the person's first.",
    "Prefer": "`wait=N`: wait up to N seconds for the result (RFC 7240).",
    "Idempotency-Key": "1 to 255 printable characters. A retry with the same key and body gets the first answer, for 48 hours "
    "(7 days under /billing/).",
    "X-Maas-Quote": "A quote of `POST /api/v1/quote`: the call is charged by its price.",
    "X-Request-Timeout": "Seconds until 504; by default 30, at most 60, unless the service is set otherwise.",
    "X-Maas-Receipt": "`1`: the answer has a header of this name with a signed receipt.",
    "Inference-Header-Content-Length": "Bytes of the JSON before the binary tensors; without it, all of the body is JSON.",
}
RECEIPT = "X-Maas-Receipt"
CALL_HEADERS = ("Idempotency-Key", "X-Maas-Quote", "X-Request-Timeout")
CALL_STATUSES = (400, 402, 404, 408, 409, 413, 415, 422, 429, 431, 500, 503, 504)


def complete(result: Document, **_: Any) -> Document:  # Any: as drf-spectacular calls it
    """drf-spectacular's hook."""
    schemas = result["components"].setdefault("schemas", {})
    schemas |= {"Tensor": TENSOR, "Problem": PROBLEM, "V2Error": V2_ERROR}
    for place, operations in gateway_paths().items():
        result["paths"].setdefault(place, {}).update(operations)
    for place, operations in result["paths"].items():
        for method, operation in operations.items():
            headers = [_header(name) for name in headers_of(place, method, operation)]
            operation["parameters"] = [*operation.get("parameters", []), *headers]  # some operations share their list
            for status in statuses_of(place, method, operation):
                operation["responses"].setdefault(str(status), _refusal(status, is_v2=place.startswith("/v2")))
    result["info"]["description"] = ABOUT
    result["externalDocs"] = SIGN_UP
    return result


def headers_of(place: str, method: str, operation: Document) -> Iterator[str]:
    """Names of the request headers that decide something, beside those that authenticate."""
    if any("session" in way for way in operation["security"]):
        yield "X-Organization"
    if is_call(place):
        yield from (*CALL_HEADERS, RECEIPT)
    if place.endswith("/infer"):
        yield "Inference-Header-Content-Length"
    if place == "/api/v1/predictions" and method == "post":
        yield from ("Prefer", *CALL_HEADERS)
    if place == "/api/v1/predictions/{prediction}":
        yield "Prefer"
    if place.startswith("/api/v1/billing/") and method == "post":
        yield "Idempotency-Key"


def statuses_of(place: str, method: str, operation: Document) -> list[int]:
    """The statuses of refusals and failures, those left out that any server may give to what is no proper request."""
    takes_key = {401, 403} if operation["security"] else set()
    if is_call(place):
        return sorted(takes_key.union(CALL_STATUSES))
    statuses = takes_key | {500, 503}
    if takes_key:
        statuses.add(404)  # nothing of that name, or the caller is in no organization
    if "requestBody" in operation:
        statuses |= {400, 413, 415, 422}
    if any(parameter["in"] == "query" for parameter in operation["parameters"]):
        statuses |= {400, 422}
    if place.startswith("/api/") and method != "get":
        statuses.add(409)
    if place == "/api/v1/predictions/{prediction}":
        statuses.add(400)
    if place in ("/api/v1/predictions", "/api/v1/quote") and method == "post":
        statuses.add(402)
    if takes_key or not place.startswith("/v2"):
        statuses.add(429)
    return sorted(statuses)


def is_call(place: str) -> bool:
    """Whether it calls a model and answers at once."""
    return place.endswith(("/infer", "/predict"))


def codes() -> dict[int, list[str]]:
    """The codes of each status, as docs/errors.md has them."""
    found: dict[int, list[str]] = defaultdict(list)
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, AppError) and value.code not in found[value.status]:
            found[value.status].append(value.code)
    return found


def _header(name: str) -> Document:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": HEADERS[name]}


def _refusal(status: int, *, is_v2: bool) -> Document:
    schema, content_type = ("V2Error", JSON) if is_v2 else ("Problem", PROBLEM_JSON)
    refusal: Document = {
        "description": ", ".join(f"`{code}`" for code in codes()[status]),
        "content": {content_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }
    if status in (429, 503):
        refusal["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return refusal
