"""What a refusal by the books or by the lanes means for the caller, and what is left of its limits."""

import math
from datetime import UTC, datetime
from typing import Any

from saas.lib import errors, money
from saas.lib.errors import AppError
from tenants.principal import KeyRecord, Limits

FAILURES = {error.code: error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, AppError)}

CAPS: dict[str, tuple[str, type[AppError], str]] = {
    "included": ("included_calls", errors.IncludedUsedUp, "a larger plan includes more"),
    "budget": ("budget", errors.BudgetExceeded, "raise the budget with PUT /api/v1/billing/budgets"),
    "credit": ("credit", errors.CreditExhausted, "buy credit"),
}
"""By kind of verdict: the cap's name, its error, and the way out."""


def of_books(verdict: str, note: bytes | None, currency: str, now_ms: int) -> AppError:
    """`verdict` is one of inference.books.batch.OPEN_VERDICTS, or "lost"; `note` what books.lua said with it.

    `now_ms` is the platform's time, by which months pass.
    """
    kind, _, source = verdict.partition(":")
    if kind in CAPS:
        return _of_cap(kind, source, note or b"0 0", currency, now_ms)
    if verdict == "quota:stored":
        return errors.QuotaExceeded(
            "The answers kept for the organization's Idempotency-Keys take as much memory as they may now; each is kept for "
            "ten minutes or longer",
            retry_after=60,
            source="organization",
        )
    if verdict.startswith("quota:"):
        source = verdict.partition(":")[2]
        return errors.QuotaExceeded(
            f"The {source}'s calls for this month are used up; see GET /api/v1/limits",
            retry_after=until_next_month(now_ms),
            source=source,
        )
    if verdict == "in_progress":
        return errors.IdempotencyInProgress(retry_after=1)
    if verdict == "reused":
        return errors.IdempotencyKeyReused()
    if verdict == "unknown":
        return errors.Unavailable(
            "The organization's account is being rebuilt; try again soon", retry_after=1, source="platform"
        )
    if verdict == "full":
        return errors.CapacityExhausted("The books are full; try again later", retry_after=10, source="platform")
    return errors.Unavailable("The books did not take this call; nothing was charged", retry_after=1, source="platform")


def _of_cap(kind: str, source: str, note: bytes, currency: str, now_ms: int) -> AppError:
    """A limit on money or on included calls; `note` is `limit left`, in nano or calls."""
    limit, left = (int(number) for number in note.split())
    name, error, remedy = CAPS[kind]
    resets_at, wait, until = None, None, ""
    if kind != "credit":
        wait = until_next_month(now_ms)
        resets_at = next_month(datetime.fromtimestamp(now_ms / 1000, UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
        until = f" until {resets_at}"
    if kind == "included":
        reason = f"The plan includes {limit} calls a month, and {left} are left{until}"
        cap: dict[str, Any] = {"name": name, "limit": limit, "left": left, "resets_at": resets_at}  # Any: JSON
    else:
        of = f"{money.text_of(left)} {currency} is left of the {source}'s {name}"
        reason = f"{of} of {money.text_of(limit)}{until}" if kind == "budget" else of
        reason += "; this call can cost more"
        cap = {"name": name, "limit": money.text_of(limit), "left": money.text_of(left), "resets_at": resets_at}
        cap["currency"] = currency
    return error(f"{reason}: {remedy}", retry_after=wait, source=source, cap=cap)


def of_lanes(key: KeyRecord, reason: str, wait_ms: int) -> AppError:
    """`reason` is admit.lua's."""
    kind, _, source = reason.partition(":")
    if kind == "rate":
        return rate_limited(key, source, wait_ms)
    wait = max(1, math.ceil(wait_ms / 1000))
    if kind == "concurrency":
        whose, limits = _limits_of(key, source)
        return errors.ConcurrencyLimited(
            f"The limit of {whose} is {limits.concurrency} requests at once", retry_after=wait, source=source
        )
    if kind == "share":
        return errors.CapacityExhausted(
            "The organization has its share of places under way; others wait for theirs, or may come",
            retry_after=wait,
            source="organization",
        )
    return errors.CapacityExhausted(
        "More work waits for this model than can be done in time", retry_after=wait, source="platform"
    )


def rate_limited(key: KeyRecord, source: str, wait_ms: float) -> errors.RateLimited:
    """The bucket of `source` (key or organization) has its next token in `wait_ms`."""
    whose, limits = _limits_of(key, source)
    return errors.RateLimited(
        f"The limit of {whose} is {limits.rate:g} requests per second",
        retry_after=max(1, math.ceil(wait_ms / 1000)),
        source=source,
    )


def _limits_of(key: KeyRecord, source: str) -> tuple[str, Limits]:
    """Whose they are, in words, and which; `source` is key or organization."""
    if source == "key":
        return "the key", key.limits
    return "the organization's test keys together" if key.mode == "test" else "the organization", key.organization_limits


def too_large_a_share() -> errors.ConcurrencyLimited:
    """An organization's large bodies or answers fill its part of what a gateway works on."""
    return errors.ConcurrencyLimited(
        "Too many large requests of the organization are under way; wait for answers, or send smaller ones",
        retry_after=1,
        source="organization",
    )


def too_much() -> errors.CapacityExhausted:
    """All organizations' fill it."""
    return errors.CapacityExhausted("Too many large requests are under way", retry_after=1, source="platform")


def of_worker(code: str, message: str) -> AppError:
    """A reply that is no answer."""
    failure = FAILURES.get(code, errors.ModelFailed)
    return failure(message, retry_after=1 if failure.status == 503 else None)


def limits_left(key: KeyRecord, key_tokens: int, organization_tokens: int) -> list[tuple[str, int, int, int, int]]:
    """The tighter of both buckets, as RateLimit headers tell it."""
    name, limits, tokens = "key", key.limits, key_tokens
    if organization_tokens < key_tokens:
        name, limits, tokens = "organization", key.organization_limits, organization_tokens
    window = max(1, math.ceil(limits.burst / limits.rate))
    return [(name, limits.burst, window, max(0, tokens), math.ceil((limits.burst - tokens) / limits.rate))]


def until_next_month(now_ms: int) -> float:
    """Seconds until the quotas start anew: the first of the next month, 00:00 UTC."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    return math.ceil((next_month(now) - now).total_seconds())


def next_month(now: datetime) -> datetime:
    """Its first moment."""
    return datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
