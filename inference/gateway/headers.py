"""Request headers in, response headers out: key, deadline, idempotency, limits."""

import math
import re
from functools import lru_cache

from inference.gateway.call import Limit
from saas.lib import money
from saas.lib.errors import ApiKeyInvalid, ApiKeyMissing, AppError, InvalidRequest
from tenants import standing

Headers = list[tuple[bytes, bytes]]
IDEMPOTENCY_KEY = re.compile(rb"[\x21-\x7e]{1,255}").fullmatch
QUOTED = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"').fullmatch  # RFC 8941, 3.3.3
TIMEOUT = re.compile(rb"\d{1,6}(\.\d{1,9})?").fullmatch
SINGLE = (
    b"authorization",
    b"x-api-key",
    b"idempotency-key",
    b"x-request-timeout",
    b"inference-header-content-length",
    b"content-encoding",
    b"content-type",
    b"x-maas-receipt",
    b"x-maas-quote",
)


def check_single(headers: Headers) -> None:
    """Raises InvalidRequest if a header that decides something is given twice."""
    names = [name for name, _ in headers]
    for name in SINGLE:
        if names.count(name) > 1:
            raise InvalidRequest(f"The header {name.decode()} is given more than once")


def presented_key(headers: dict[bytes, bytes]) -> str:
    """The API key as presented. Raises ApiKeyMissing; ApiKeyInvalid for what cannot be one."""
    value = headers.get(b"authorization")
    if value is not None and value[:7].lower() == b"bearer ":
        value = value[7:]
    else:
        value = headers.get(b"x-api-key")
        if value is None:
            raise ApiKeyMissing()
    try:
        return value.strip().decode("ascii")
    except UnicodeDecodeError:
        raise ApiKeyInvalid() from None


def timeout(given: bytes | None, default: float, longest: float) -> float:
    """X-Request-Timeout in seconds. Raises InvalidRequest."""
    if given is None:
        return default
    seconds = float(given) if TIMEOUT(given) else 0.0
    if not 0 < seconds <= longest:
        raise InvalidRequest(f"X-Request-Timeout must be a number of seconds, more than 0 and at most {longest:g}")
    return seconds


def idempotency_key(given: bytes | None) -> str | None:
    """The key, quoted (draft-ietf-httpapi-idempotency-key-header) or bare. Raises InvalidRequest."""
    if given is None:
        return None
    key = given
    if given.startswith(b'"'):
        match = QUOTED(given)
        key = re.sub(rb"\\(.)", rb"\1", match[1]) if match else b""
    if not IDEMPOTENCY_KEY(key):
        raise InvalidRequest("Idempotency-Key must be 1 to 255 visible ASCII characters, bare or in double quotes")
    return key.decode()


@lru_cache(maxsize=4096)
def _policy(name: str, quota: int, window: int) -> str:
    return f'"{name}";q={quota};w={window}'


def limit_lines(limits: list[Limit]) -> bytes:
    """RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10), as header lines."""
    if not limits:
        return b""
    policies = ", ".join([_policy(name, quota, window) for name, quota, window, _, _ in limits])
    left = ", ".join([f'"{name}";r={remaining};t={reset}' for name, _, _, remaining, reset in limits])
    return f"ratelimit-policy: {policies}\r\nratelimit: {left}\r\n".encode()


def left_lines(note: bytes, given_back: int, currency: str) -> bytes:
    """What is left of budgets, of credit and of the plan's calls: as books.lua said at the open (`-`, nano, or a number).

    `given_back`: nano since then.
    """
    budget, credit, included = note.split()
    named = (("x-maas-budget-left", budget), ("x-maas-credit-left", credit))
    lefts = [(name, money.text_of(int(nano) + given_back)) for name, nano in named if nano != b"-"]
    lines = "".join([f"{name}: {left} {currency}\r\n" for name, left in lefts]).encode()
    return lines if included == b"-" else b"%bx-maas-included-left: %b\r\n" % (lines, included)


COST = b"x-maas-cost"
ACCOUNT_LINES = {state: f"x-maas-account: {state}\r\n".encode() for state in standing.WARNED}


@lru_cache(maxsize=4096)
def cost(nano: int, currency: str) -> tuple[bytes, bytes]:
    """What a call has cost, as a header: `0.00012 USD`."""
    return COST, f"{money.text_of(nano)} {currency}".encode()


@lru_cache(maxsize=4096)
def cost_line(nano: int, currency: str) -> bytes:
    """The same as a header line."""
    return b"%b: %b\r\n" % cost(nano, currency)


def joined(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Header lines."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


lines = lru_cache(maxsize=4096)(joined)
"""The same, kept: most answers of a version have no others."""


def error_lines(error: AppError, method: bytes | None) -> bytes:
    """What a refusal adds: Retry-After, WWW-Authenticate, Allow (`method` is what the route takes)."""
    result = b""
    if error.retry_after is not None:
        result = b"retry-after: %d\r\n" % max(1, math.ceil(error.retry_after))
    if error.status == 401:
        result += b'www-authenticate: Bearer realm="api"\r\n'
    elif error.status == 405 and method:
        result += b"allow: %b\r\n" % method
    return result
