"""Errors as facts: each class carries its HTTP status and its machine-readable code.

One handler per dialect turns an `AppError` into a body: problem+json under /api/, `{"error": …}` under /v2/.
Codes are those of docs/errors.md.
"""

from typing import Any, ClassVar


class AppError(Exception):
    """A refusal or failure that the caller is told about.

    `detail` says the reason and what to do. `retry_after` is in seconds. `source` names whose limit it is
    (`key`, `organization` or `platform`) where that matters. `errors` lists single fields: `{"field", "detail"}`.
    `cap` is the limit on money or included calls that refuses: `{"name", "limit", "left", "resets_at"}`.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str = "",
        *,
        retry_after: float | None = None,
        source: str | None = None,
        errors: list[dict[str, Any]] | None = None,
        cap: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.retry_after = retry_after
        self.source = source
        self.errors = errors
        self.cap = cap


class InvalidRequest(AppError):
    status, code, title = 400, "invalid_request", "The request cannot be read"


class InvalidTensor(AppError):
    status, code, title = 400, "invalid_tensor", "An input is not what the model expects"


class ApiKeyMissing(AppError):
    status, code, title = 401, "api_key_missing", "An API key is needed: Authorization: Bearer maas_…"


class ApiKeyInvalid(AppError):
    status, code, title = 401, "api_key_invalid", "The API key is unknown, expired or revoked"


class BudgetExceeded(AppError):
    status, code, title = 402, "budget_exceeded", "The month's budget does not pay for this call"


class CreditExhausted(AppError):
    status, code, title = 402, "credit_exhausted", "The credit does not pay for this call"


class IncludedUsedUp(AppError):
    status, code, title = 402, "included_used_up", "The calls that the plan includes are used up for this month"


class PaymentRefused(AppError):
    status, code, title = 402, "payment_refused", "The payment was refused"


class AccountSuspended(AppError):
    status, code, title = 402, "account_suspended", "The account is suspended"


class AccountClosed(AccountSuspended):
    status, code, title = 402, "account_closed", "The account is closed"


class PriceMissing(AppError):
    status, code, title = 402, "price_missing", "The model has no price in the organization's currency"


class ScopeMissing(AppError):
    status, code, title = 403, "scope_missing", "The key or role does not allow this"


class ModelNotAllowed(AppError):
    status, code, title = 403, "model_not_allowed", "The key is limited to other models"


class NotFound(AppError):
    status, code, title = 404, "not_found", "There is no such object"


class MethodNotAllowed(AppError):
    status, code, title = 405, "method_not_allowed", "The method is not allowed here"


class RequestTimeout(AppError):
    status, code, title = 408, "request_timeout", "The request did not arrive in time"


class StateConflict(AppError):
    status, code, title = 409, "state_conflict", "The object is in a state that does not allow this"


class IdempotencyInProgress(AppError):
    status, code, title = 409, "idempotency_in_progress", "The first request with this Idempotency-Key is still running"


class QuoteExpired(AppError):
    status, code, title = 409, "quote_expired", "The quote has expired"


class LimitReached(AppError):
    status, code, title = 409, "limit_reached", "The organization has as many as it may have"


class ArtifactTooLarge(LimitReached):
    status, title = 413, "The artifact is larger than the organization may store"


class PayloadTooLarge(AppError):
    status, code, title = 413, "payload_too_large", "The body is too large"


class UnsupportedMediaType(AppError):
    status, code, title = 415, "unsupported_media_type", "The content type is not supported"


class ValidationFailed(AppError):
    status, code, title = 422, "validation_failed", "A value is not acceptable"


class IdempotencyKeyReused(AppError):
    status, code, title = 422, "idempotency_key_reused", "This Idempotency-Key was used with another request"


class QuoteInvalid(AppError):
    status, code, title = 422, "quote_invalid", "The quote is not one for this call"


class OutputNotFinite(AppError):
    status, code, title = 422, "output_not_finite", "The model's output is not finite; ask for it as a binary tensor"


class OutputTooLarge(AppError):
    status, code, title = 422, "output_too_large", "The model's output for this call is too large"


class HeadersTooLarge(AppError):
    status, code, title = 431, "headers_too_large", "The head of the request is too large"


class RateLimited(AppError):
    status, code, title = 429, "rate_limited", "Too many requests per second"


class ConcurrencyLimited(AppError):
    status, code, title = 429, "concurrency_limited", "Too many requests at once"


class QuotaExceeded(AppError):
    status, code, title = 429, "quota_exceeded", "The number of calls for this month is used up"


class ModelFailed(AppError):
    status, code, title = 500, "model_failed", "The model failed on this input; nothing was charged"


class OutOfMemory(AppError):
    status, code, title = 500, "out_of_memory", "The model took more memory than it may have; nothing was charged"


class InternalError(AppError):
    pass


class NotImplementedHere(AppError):
    status, code, title = 501, "not_implemented", "The request needs what is not implemented here"


class CapacityExhausted(AppError):
    status, code, title = 503, "capacity_exhausted", "The platform is at capacity"


class ModelLoading(AppError):
    status, code, title = 503, "model_loading", "The model is being loaded"


class ModelUnavailable(AppError):
    status, code, title = 503, "model_unavailable", "The model cannot be served now"


class MemoryExhausted(AppError):
    status, code, title = 503, "memory_exhausted", "No memory is free for the model now"


class PaymentsUnavailable(AppError):
    status, code, title = 503, "payments_unavailable", "Payments cannot be made right now"


class Unavailable(AppError):
    status, code, title = 503, "unavailable", "The platform cannot answer right now"


class DeadlineExceeded(AppError):
    status, code, title = 504, "deadline_exceeded", "The deadline passed before the answer was ready"


class HttpVersionNotSupported(AppError):
    status, code, title = 505, "http_version_not_supported", "This version of HTTP is not spoken here"
