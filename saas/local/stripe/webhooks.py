"""Webhooks: signed as Stripe signs (scheme v1), sent one after the other, repeated until they are taken."""

import hashlib
import hmac
import json
import logging
import threading
import time
import urllib.error
import urllib.request

from saas.local.stripe import faults
from saas.local.stripe.routes import route
from saas.local.stripe.store import Json, page
from saas.local.stripe.world import World

PAUSES = (1, 2, 5, 10, 30, 60, 300, 900, 3600)  # seconds before the next try; the last one for all later ones
GIVE_UP = 3 * 86_400  # seconds, about as long as Stripe's
TIMEOUT = 10.0
DRAFT_SECONDS = 3600
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
log = logging.getLogger("standin")


def enqueue(world: World, event: Json) -> None:
    """Send an event, unless the fault script has other plans for it."""
    if faults.take(world, "lose") is not None:
        return
    now = time.time()
    late = faults.take(world, "delay") or 0.0
    if faults.take(world, "reorder") is not None:
        _add(world, event, now, state="held")
        return
    for _ in range(1 if faults.take(world, "duplicate") is None else 2):
        _add(world, event, now + late)
    # What waited for this one follows it.
    world.store.db.execute("UPDATE delivery SET state = 'due', next_at = ? WHERE state = 'held'", (now + late + 0.001,))


def _add(world: World, event: Json, at: float, *, state: str = "due") -> None:
    row = (event["id"], json.dumps(event), at, state)
    world.store.db.execute("INSERT INTO delivery (event, body, next_at, state) VALUES (?, ?, ?, ?)", row)


def is_awaited(world: World, type: str, id: str) -> bool:
    """Whether an event about an object is still to be taken."""
    row = world.store.db.execute(
        """SELECT 1 FROM delivery WHERE state IN ('due', 'held')
           AND json_extract(body, '$.type') = ? AND json_extract(body, '$.data.object.id') = ?""",
        (type, id),
    ).fetchone()
    return row is not None


def _taken(world: World, event: Json) -> None:
    """A draft becomes final an hour after it was told of (docs.stripe.com/api/invoices)."""
    if event["type"] == "invoice.created":
        world.put_off("invoice.finalize", event["data"]["object"]["id"], to=world.exact_now() + DRAFT_SECONDS)


def sign(body: bytes, secret: str, *, at: int) -> str:
    """The Stripe-Signature header: HMAC-SHA256 of time and body."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


class Deliverer(threading.Thread):
    """Sends what is due, until `end()`. Signatures carry the machine's time, which the receiver compares with its own."""

    def __init__(self, world: World) -> None:
        super().__init__(name="webhooks", daemon=True)
        self.world = world
        self._is_ending = False

    def run(self) -> None:
        while not self._is_ending:
            self.world.has_news.clear()
            if not self._send_next():
                self.world.has_news.wait(0.2)

    def end(self) -> None:
        self._is_ending = True
        self.world.has_news.set()
        self.join()

    def _send_next(self) -> bool:
        """Send the first that is due; whether there was one."""
        with self.world.lock:
            row = self.world.store.db.execute(
                "SELECT seq, body, attempts, next_at FROM delivery WHERE state = 'due' AND next_at <= ? ORDER BY next_at, seq",
                (time.time(),),
            ).fetchone()
        if row is None:
            return False
        number, body, attempts, next_at = row
        state, pause = "sent", 0.0
        if not self._send(body.encode()):
            state = "due" if attempts < len(PAUSES) + GIVE_UP // PAUSES[-1] else "given up"
            pause = PAUSES[min(attempts, len(PAUSES) - 1)]
        with self.world.lock:
            if state == "sent":
                _taken(self.world, json.loads(body))
            self.world.store.db.execute(
                "UPDATE delivery SET state = ?, attempts = ?, next_at = ? WHERE seq = ?",
                (state, attempts + 1, time.time() + pause if pause else next_at, number),
            )
        return True

    def _send(self, body: bytes) -> bool:
        signature = sign(body, self.world.webhook_secret, at=int(time.time()))
        headers = {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": signature, "User-Agent": "Stripe/1.0"}
        request = urllib.request.Request(self.world.webhook_url, body, headers)  # noqa: S310  # an address of ours
        try:
            with _direct.open(request, timeout=TIMEOUT) as answer:
                return bool(200 <= answer.status < 300)
        except urllib.error.HTTPError as error:
            with error:  # an answer too, which must be closed
                log.warning("webhook answered %s: %s", error.code, error.read(300))
            return False
        except OSError:
            return False  # nobody listens just now


@route("GET", "/v1/events")
def list_events(world: World, params: Json) -> Json:
    events = world.store.all("event")
    created = params.get("created") or {}
    if isinstance(created, dict):
        bounds = {name: int(value) for name, value in created.items()}
        events = [
            event
            for event in events
            if bounds.get("gte", 0) <= event["created"] <= bounds.get("lte", event["created"])
            and event["created"] > bounds.get("gt", -1)
        ]
    kinds = params.get("types") or ([params["type"]] if "type" in params else [])
    return page([event for event in events if not kinds or event["type"] in kinds], params, "/v1/events")


@route("GET", "/v1/events/{id}")
def retrieve_event(world: World, params: Json, id: str) -> Json:
    return world.store.get("event", id)


@route("GET", "/v2/core/events/{id}")
def retrieve_thin_event(world: World, params: Json, id: str) -> Json:
    return world.store.get("v2.core.event", id)
