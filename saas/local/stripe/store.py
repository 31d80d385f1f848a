"""What the stand-in remembers: Stripe's objects as JSON, in one SQLite file. Each request is one transaction."""

import json
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saas.local.stripe.refusals import missing

Json = dict[str, Any]
TABLES = """
CREATE TABLE IF NOT EXISTS object (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, customer TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS object_kind ON object (kind, customer, seq);
CREATE TABLE IF NOT EXISTS usage (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, event_name TEXT, customer TEXT, identifier TEXT, value INTEGER,
  at INTEGER, received_at REAL, visible_at REAL
);
CREATE INDEX IF NOT EXISTS usage_of ON usage (event_name, customer, at);
CREATE INDEX IF NOT EXISTS usage_identifier ON usage (event_name, identifier);
CREATE TABLE IF NOT EXISTS due (seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL, work TEXT, id TEXT);
CREATE INDEX IF NOT EXISTS due_at ON due (at, seq);
CREATE TABLE IF NOT EXISTS delivery (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT, body TEXT, next_at REAL,
  attempts INTEGER DEFAULT 0, state TEXT DEFAULT 'due'
);
CREATE INDEX IF NOT EXISTS delivery_next ON delivery (state, next_at, seq);
CREATE TABLE IF NOT EXISTS answer (key TEXT PRIMARY KEY, request TEXT, status INTEGER, body TEXT, at REAL);
CREATE TABLE IF NOT EXISTS request (seq INTEGER PRIMARY KEY AUTOINCREMENT, method TEXT, path TEXT, params TEXT, status INTEGER);
CREATE TABLE IF NOT EXISTS fault (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT, path TEXT, times INTEGER, value REAL);
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value REAL);
"""


class Store:
    """One connection, used under one lock (saas.local.stripe.world). A kill of the process loses nothing that was answered."""

    def __init__(self, file: Path | str) -> None:
        self.db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = OFF")  # only a crash of the machine could lose what the kernel has
        self.db.executescript(TABLES)

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; inside another one, a part that can be taken back alone."""
        name = "" if not self.db.in_transaction else f"part_{secrets.token_hex(4)}"
        self.db.execute(f"SAVEPOINT {name}" if name else "BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.execute(f"ROLLBACK TO {name}" if name else "ROLLBACK")
            raise
        self.db.execute(f"RELEASE {name}" if name else "COMMIT")

    def add(self, kind: str, prefix: str, body: Json, *, id: str = "") -> Json:
        """A new object with an id of its own (`id`: this one), as Stripe's begin."""
        made = {"id": id or f"{prefix}_{secrets.token_hex(10)}", "object": kind, "livemode": False, **body}
        self.db.execute(
            "INSERT INTO object (id, kind, customer, body) VALUES (?, ?, ?, ?)",
            (made["id"], kind, _customer(made), json.dumps(made)),
        )
        return made

    def save(self, body: Json) -> Json:
        self.db.execute(
            "UPDATE object SET body = ?, customer = ? WHERE id = ?", (json.dumps(body), _customer(body), body["id"])
        )
        return body

    def get(self, kind: str, id: str) -> Json:
        """Raises a 404 as Stripe does."""
        row = self.db.execute("SELECT body FROM object WHERE id = ? AND kind = ?", (id, kind)).fetchone()
        if row is None:
            raise missing(kind, id)
        found: Json = json.loads(row[0])
        return found

    def has(self, id: str) -> bool:
        return self.db.execute("SELECT 1 FROM object WHERE id = ?", (id,)).fetchone() is not None

    def remove(self, id: str) -> None:
        self.db.execute("DELETE FROM object WHERE id = ?", (id,))

    def all(self, kind: str, *, customer: str = "", **equal: Any) -> list[Json]:
        """Oldest first; those whose fields are `equal`."""
        statement, values = "SELECT body FROM object WHERE kind = ?", [kind]
        if customer:
            statement, values = f"{statement} AND customer = ?", [kind, customer]
        rows = self.db.execute(f"{statement} ORDER BY seq", values)
        found = (json.loads(body) for (body,) in rows)
        return [body for body in found if all(body.get(name) == value for name, value in equal.items())]

    def setting(self, name: str, default: float = 0.0) -> float:
        row = self.db.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        return default if row is None else float(row[0])

    def set(self, name: str, value: float) -> None:
        self.db.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))


def page(objects: list[Json], params: Json, url: str) -> Json:
    """One page of a list, newest first, as Stripe's: `limit` (10), `starting_after`, `has_more`."""
    limit = min(int(params.get("limit", 10)), 100)
    newest = objects[::-1]
    after = params.get("starting_after")
    if after:
        places = [number for number, body in enumerate(newest) if body["id"] == after]
        newest = newest[places[0] + 1 :] if places else []
    return {"object": "list", "url": url, "has_more": len(newest) > limit, "data": newest[:limit]}


def _customer(body: Json) -> str:
    return str(body["id"] if body["object"] == "customer" else body.get("customer") or "")
