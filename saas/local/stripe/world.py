"""The stand-in's world: what it remembers, what time it is there, what falls due, and what it tells by webhook."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from saas.local.stripe.routes import WORK
from saas.local.stripe.store import Json, Store

API_VERSION = "2026-10-28.endive"
log = logging.getLogger("standin")


class World:
    """Everything is done under `lock`, one request or one piece of due work at a time.

    Time is the machine's plus an offset, which only grows; while due work is done it stands at the moment when that fell due.
    """

    def __init__(
        self,
        store: Store,
        *,
        base_url: str,
        secret_key: str,
        webhook_url: str,
        webhook_secret: str,
        follow: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """`follow` puts the platform's clock so many seconds ahead of the machine's, before anything happens then."""
        self.store = store
        self.base_url, self.secret_key = base_url, secret_key
        self.webhook_url, self.webhook_secret = webhook_url, webhook_secret
        self.lock = threading.RLock()
        self.has_news = threading.Event()  # for the deliverer
        self._follow = follow
        self._moment: float | None = None

    # --- time

    def now(self) -> int:
        """Whole seconds, as all of Stripe's times."""
        return int(self.exact_now())

    def exact_now(self) -> float:
        return self._moment if self._moment is not None else time.time() + self.store.setting("offset")

    def advance(self, to: float) -> None:
        """Move the clock to `to`, doing what falls due until then, in order. It never goes back."""
        with self.lock:
            self._run_due(to, self._follow)
            self._follow(to - time.time())
            self.store.set("offset", max(to - time.time(), self.store.setting("offset")))

    def tick(self) -> None:
        """Do what has fallen due meanwhile."""
        with self.lock:
            self._run_due(self.exact_now())

    def _run_due(self, until: float, follow: Callable[[float], None] = lambda seconds: None) -> None:
        while True:
            row = self.store.db.execute("SELECT seq, at, work, id FROM due WHERE at <= ? ORDER BY at, seq", (until,)).fetchone()
            if row is None:
                return
            seq, at, name, id = row
            follow(at - time.time())
            try:
                with self.standing_at(at), self.store.transaction():
                    self.store.db.execute("DELETE FROM due WHERE seq = ?", (seq,))
                    WORK[name](self, id)
            except Exception:
                log.exception("%s of %s failed: it is not tried again", name, id)
                self.store.db.execute("DELETE FROM due WHERE seq = ?", (seq,))

    @contextmanager
    def standing_at(self, moment: float) -> Iterator[None]:
        """While in here it is this moment."""
        before, self._moment = self._moment, moment
        try:
            yield
        finally:
            self._moment = before

    def later(self, at: float, work: str, id: str) -> None:
        """Do `work` on an object when the clock reaches `at`."""
        self.store.db.execute("INSERT INTO due (at, work, id) VALUES (?, ?, ?)", (at, work, id))

    def never(self, work: str, id: str) -> None:
        self.store.db.execute("DELETE FROM due WHERE work = ? AND id = ?", (work, id))

    def put_off(self, work: str, id: str, *, to: float) -> None:
        """Do it then instead, if it is to be done at all."""
        self.store.db.execute("UPDATE due SET at = ? WHERE work = ? AND id = ?", (to, work, id))

    # --- events

    def emit(self, type: str, about: Json, *, before: Json | None = None) -> None:
        """A snapshot event about an object as it is now; `before`: the fields that changed, as they were."""
        data: Json = {"object": about}
        if before is not None:
            data["previous_attributes"] = {key: value for key, value in before.items() if about.get(key) != value}
        body = {"api_version": API_VERSION, "created": self.now(), "type": type, "data": data, "pending_webhooks": 1}
        self._deliver(self.store.add("event", "evt", {**body, "request": None}))

    def emit_thin(self, type: str, *, related: Json, data: Json) -> None:
        """A thin event: it only names what it is about; `data` is told to who fetches it."""
        created = datetime.fromtimestamp(self.now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        body = {"type": type, "created": created, "context": None, "reason": None, "related_object": related, "data": data}
        event = self.store.add("v2.core.event", "evt_test", body)
        self._deliver({key: value for key, value in event.items() if key != "data"})

    def _deliver(self, event: Json) -> None:
        from saas.local.stripe.webhooks import enqueue  # which needs the faults, which need the world

        enqueue(self, event)
        self.has_news.set()

    # --- shorthands

    def change(self, body: Json, type: str, **fields: Any) -> Json:
        """Set fields of an object, save it, and tell of it as `type`."""
        before = {key: body.get(key) for key in fields}
        body.update(fields)
        self.store.save(body)
        self.emit(type, body, before=before)
        return body
