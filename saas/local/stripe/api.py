"""One request of the API: who asks, what the fault script says, what its Idempotency-Key remembers, then the work itself."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from saas.local.stripe import (  # noqa: F401  # most are imported for their routes
    catalogue,
    checkout,
    credit_notes,
    customers,
    faults,
    forms,
    invoices,
    metering,
    portal,
    previews,
    steering,
    subscriptions,
    webhooks,
)
from saas.local.stripe.refusals import Refusal
from saas.local.stripe.routes import find
from saas.local.stripe.store import Json
from saas.local.stripe.world import World

REMEMBERED_SECONDS = 86_400
OUR_FAULT: Json = {"error": {"type": "api_error", "message": "An unknown error occurred"}}
_under_way: set[tuple[str, str]] = set()  # customers and meters of meter events that are being taken
_under_way_lock = threading.Lock()


@dataclass
class Answer:
    status: int
    body: Json = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    is_dropped: bool = False  # the connection ends instead


def answer(world: World, method: str, path: str, text: str, *, key: str, secret: str, is_json: bool) -> Answer:
    """Answer `method` on `path` with these parameters (a query or a body). `key` is its Idempotency-Key, `secret` who asks."""
    if secret != world.secret_key:
        return Answer(401, {"error": {"type": "invalid_request_error", "message": "Invalid API Key provided"}})
    try:
        params = json.loads(text or "{}") if is_json else forms.decode(text)
    except ValueError as error:
        return Answer(400, Refusal(400, f"Invalid request: {error}").body)
    if path.startswith("/_standin/"):
        with world.lock:
            return _do(world, method, path, params)
    try:
        with _alone(path, params):
            pause = _take(world, "slow", path)
            if pause:
                time.sleep(pause)
            with world.lock:
                result = _with_faults(world, method, path, params, key)
                steering.remember(world, method, path, params, result.status)
    except Refusal as refusal:
        return Answer(refusal.status, refusal.body)
    return result


@contextmanager
def _alone(path: str, params: Json) -> Iterator[None]:
    """Stripe takes one meter event at a time for each customer and meter: the second gets a 429."""
    if path != "/v1/billing/meter_events":
        yield
        return
    payload = params.get("payload")
    name = (str(params.get("event_name")), str(payload.get("stripe_customer_id") if isinstance(payload, dict) else ""))
    with _under_way_lock:
        if name in _under_way:
            raise Refusal(429, "There is another event under way for this customer and meter", code="lock_timeout")
        _under_way.add(name)
    try:
        yield
    finally:
        with _under_way_lock:
            _under_way.discard(name)


def _take(world: World, kind: str, path: str) -> float | None:
    with world.lock:
        return faults.take(world, kind, path)


def _with_faults(world: World, method: str, path: str, params: Json, key: str) -> Answer:
    if _take(world, "busy", path) is not None:
        return Answer(429, {"error": {"type": "invalid_request_error", "code": "rate_limit", "message": "Too many requests"}})
    if _take(world, "conflict", path) is not None:
        return Answer(409, {"error": {"type": "invalid_request_error", "code": "lock_timeout", "message": "Locked"}})
    if _take(world, "drop_before", path) is not None:
        return Answer(0, is_dropped=True)
    if method != "POST" or not key:
        return _faulty(world, method, path, params)
    digest = hashlib.sha256(f"{method} {path} {json.dumps(params, sort_keys=True)}".encode()).hexdigest()
    row = world.store.db.execute("SELECT request, status, body, at FROM answer WHERE key = ?", (key,)).fetchone()
    if row and row[3] > world.exact_now() - REMEMBERED_SECONDS:
        if row[0] != digest:
            text = f"Keys for idempotent requests can only be used with the same parameters they were first used with: {key}"
            return Answer(400, Refusal(400, text, kind="idempotency_error").body)
        return Answer(row[1], json.loads(row[2]), {"Idempotent-Replayed": "true"})
    result = _faulty(world, method, path, params)
    if result.status < 400 or result.status == 402 or result.status >= 500:
        world.store.db.execute(
            "INSERT OR REPLACE INTO answer (key, request, status, body, at) VALUES (?, ?, ?, ?, ?)",
            (key, digest, result.status, json.dumps(result.body), world.exact_now()),
        )
    return result


def _faulty(world: World, method: str, path: str, params: Json) -> Answer:
    """Do it, or say that it failed although it was done, or fail."""
    if _take(world, "fail_before", path) is not None:
        return Answer(500, OUR_FAULT)
    result = _do(world, method, path, params)
    if _take(world, "fail_after", path) is not None:
        return Answer(500, OUR_FAULT)
    result.is_dropped = _take(world, "drop_after", path) is not None
    return result


def _do(world: World, method: str, path: str, params: Json) -> Answer:
    found = find(method, path)
    if found is None:
        text = f"Unrecognized request URL ({method}: {path})"
        return Answer(404, Refusal(404, text, code="url_invalid").body)
    handler, names = found
    try:
        with world.store.transaction():
            return Answer(200, handler(world, params, **names))
    except Refusal as refusal:
        return Answer(refusal.status, refusal.body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # a parameter of a wrong form
        return Answer(400, Refusal(400, f"Invalid parameters: {error!r}").body)
