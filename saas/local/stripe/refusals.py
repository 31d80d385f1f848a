"""How the stand-in says no: as Stripe does."""

from typing import Any


class Refusal(Exception):
    """An answer that is an error. `kind` is Stripe's type: invalid_request_error, card_error, api_error, …"""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", code: str = "", param: str = "", **more: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        error = {"message": message, "type": kind, "code": code, "param": param}
        self.body = {"error": {key: value for key, value in error.items() if value} | more}


def missing(kind: str, name: str) -> Refusal:
    return Refusal(404, f"No such {kind}: '{name}'", code="resource_missing", param="id")


def invalid(param: str, reason: str) -> Refusal:
    return Refusal(400, reason, code="parameter_invalid", param=param)


def required(param: str) -> Refusal:
    return Refusal(400, f"Missing required param: {param}.", code="parameter_missing", param=param)


def declined(code: str = "card_declined") -> Refusal:
    return Refusal(402, "Your card was declined.", kind="card_error", code=code, decline_code="generic_decline")
