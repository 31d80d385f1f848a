"""Logs: one line per record, JSON or text, without payloads and secrets; one line per management request.

The gateway's own requests are written by inference.gateway.requestlog, in the same form.
"""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import orjson
from django.http import HttpRequest, HttpResponse

requests = logging.getLogger("request")
EXTRA = "fields"  # name of the attribute with which a record carries more fields
Handler = Callable[[HttpRequest], HttpResponse]


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {  # Any: text and numbers
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if message := record.getMessage():
            line["message"] = message
        line.update(getattr(record, EXTRA, {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        fields = [f"{name}={value}" for name, value in getattr(record, EXTRA, {}).items() if value not in ("", None)]
        line = " ".join([stamp, record.levelname.lower(), record.name, record.getMessage(), *fields])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def logging_config(form: str) -> dict[str, Any]:  # Any: dictConfig's nested values
    """Django's LOGGING: everything to the standard output. `form`: json or text."""
    formatter = {"json": "saas.lib.logs.JsonFormatter", "text": "saas.lib.logs.TextFormatter"}[form]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "line"}},
        "root": {"handlers": ["out"], "level": "INFO"},
        "loggers": {
            "django": {"handlers": [], "level": "INFO", "propagate": True},
            "django.request": {"level": "ERROR"},  # below that, it repeats our line with the raw path
            "django.security.DisallowedHost": {"level": "CRITICAL"},  # our line says it, and anybody can send one
            "django.server": {"handlers": [], "level": "WARNING", "propagate": True},
        },
    }


def request_line(handler: Handler) -> Handler:
    """Write one line per request, after tenants.middleware.request_ids: the route's pattern, never the raw path or a body.

    In a gateway process it is counted there too (saas/management.py).
    """

    def handle(request: HttpRequest) -> HttpResponse:
        scope = request.META.get("asgi.scope", {})
        began = scope.get("began") or time.perf_counter()  # there, when the request arrived: the wait for a thread is in it
        response = handler(request)
        if "admit" in scope and response.status_code == HTTPStatus.NO_CONTENT:
            return response  # an upload may come; its answer is the one that counts
        fields = _fields(request, response, time.perf_counter() - began)
        requests.info("", extra={EXTRA: fields})
        if count := scope.get("count"):
            count(fields["method"], fields["route"], fields["status"], fields["code"])
        return response

    return handle


def _fields(request: HttpRequest, response: HttpResponse, seconds: float) -> dict[str, Any]:  # Any: text and numbers
    key = getattr(getattr(request, "auth", None), "key", None)
    return {
        "request_id": getattr(request, "request_id", ""),
        "trace_id": getattr(request, "trace_id", ""),
        "organization": getattr(key, "slug", ""),
        "key": getattr(key, "public_id", ""),
        "method": request.method,
        "route": request.resolver_match.route if request.resolver_match else "",
        "status": response.status_code,
        "code": getattr(response, "code", ""),
        "total_ms": round(seconds * 1000, 3),
    }
