"""Seals: the calls of an organization in one hour as one hash, chained to its seal before, signed, never changed.

An hour is that of the journal's ids, in which calls were closed. A row that comes later (out of quarantine, from a restored
journal) makes one more seal of its hour with the next `seq`. All seals of an organization are numbered from 1.
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from billing.proof.merkle import Tree
from billing.proof.receipts import SELECTED, milliseconds, of_row
from inference.books.statement import leaf
from saas.lib.signing import signing_keys

PURPOSE = b"seal"
BEFORE_THE_FIRST = bytes(32)
PAGE = 5000  # rows in memory at once

# Batches tell two seals of one hour apart; the ids of calls bound what is read, in the order that a tree has its leaves.
ROWS = """
SELECT columns FROM usage_event
WHERE tenant_id = %(tenant)s AND day BETWEEN %(first_day)s AND %(last_day)s AND call_id > %(beyond)s AND call_id <= %(last)s
AND split_part(stream_id, '-', 1)::bigint BETWEEN %(start)s AND %(end)s AND batch > %(after)s AND batch <= %(until)s
ORDER BY call_id LIMIT %(page)s
""".replace("columns", SELECTED)
# A page is read in the order of the index: the planner, which cannot know how few rows a page needs, would else read and sort
# all of the hour for each, 140 times as much for an hour of a million calls.
IN_ORDER = "SET LOCAL enable_sort = off; SET LOCAL max_parallel_workers_per_gather = 0"
# Each journal numbers its batches in a range of its own, from a multiple of 2^40.
SEALED = """
SELECT count(*), coalesce(max(last_batch) FILTER (WHERE last_batch > %(journal)s), %(journal)s) FROM usage_seal
WHERE tenant_id = %(tenant)s AND hour = %(hour)s
"""
INSERT = """
INSERT INTO usage_seal (tenant_id, hour, seq, number, n, amount_nano, merkle_root, prev_seal, key_version, sig, first_call,
  last_call, after_batch, last_batch, by_price, sealed_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, now())
"""


class Seal(NamedTuple):
    """`amount_nano` is the sum of the calls' amounts, `prev_seal` the hash of the organization's seal before."""

    tenant: str  # 32 hexadecimal digits
    hour: datetime
    seq: int
    number: int
    n: int
    amount_nano: int
    merkle_root: bytes
    prev_seal: bytes

    def statement(self) -> bytes:
        """What is signed: JSON with sorted keys, without spaces."""
        return json.dumps(self.shown(), sort_keys=True, separators=(",", ":")).encode()

    def shown(self) -> dict[str, Any]:  # Any: JSON
        return self._asdict() | {
            "hour": self.hour.astimezone(UTC).strftime("%Y-%m-%dT%H:00:00Z"),
            "merkle_root": self.merkle_root.hex(),
            "prev_seal": self.prev_seal.hex(),
        }

    def digest(self) -> bytes:
        """What the next seal names it by."""
        return hashlib.sha256(self.statement()).digest()


class Span(NamedTuple):
    """Where the rows of one seal are: calls from `first` to `last`, in batches of the drain after `after` up to `until`."""

    first: UUID
    last: UUID
    after: int
    until: int


class Asking(Protocol):
    """A cursor: psycopg2's, or Django's."""

    def execute(self, query: str, values: Any, /) -> Any: ...  # Any: their signatures differ
    def fetchall(self) -> list[tuple[Any, ...]]: ...


def page_of(
    cursor: Asking, tenant: UUID, hour: datetime, span: Span, beyond: UUID | None, *, limit: int = PAGE
) -> list[tuple[Any, ...]]:
    """The ledger's next rows (of SELECTED) of one seal, by call id: those after the call `beyond`."""
    start, first = milliseconds(hour), span.first if beyond is None else beyond
    cursor.execute(IN_ORDER, None)
    cursor.execute(
        ROWS,
        {
            "tenant": str(tenant),
            "beyond": str(beyond or UUID(int=first.int - 1)),
            "last": str(span.last),
            "first_day": day_of_call(first),
            "last_day": day_of_call(span.last),
            "start": start,
            "end": start + 3_599_999,
            "after": span.after,
            "until": span.until,
            "page": limit,
        },
    )
    return cursor.fetchall()


def rows_of(cursor: Asking, tenant: UUID, hour: datetime, span: Span) -> Iterator[tuple[Any, ...]]:  # Any: of SELECTED
    """All rows of one seal, a page in memory at once."""
    beyond: UUID | None = None
    while page := page_of(cursor, tenant, hour, span, beyond):
        yield from page
        beyond = UUID(hex=page[-1][0])
        if len(page) < PAGE:
            return


def seal_hour(connection: Connection, tenant: UUID, hour: datetime, first: UUID, last: UUID, until: int) -> Seal | None:
    """Seal the rows of `hour` that no seal has yet, up to batch `until`; None if there are none.

    Inside a transaction that holds the organization's lock (billing.proof.sealer), so that its chain has no fork.
    """
    with connection.cursor() as cursor:
        number, previous = _last(cursor, tenant)
        cursor.execute(SEALED, {"tenant": str(tenant), "hour": hour, "journal": until >> 40 << 40})
        seq, after = cursor.fetchone() or (0, 0)
        tree, amount, parts = Tree(), 0, Parts()
        for row in rows_of(cursor, tenant, hour, Span(first, last, after, until)):
            tree.add(leaf(of_row(row)))
            amount += row[AMOUNT]
            parts.add(row)
        if not tree.size:
            return None
        seal = Seal(tenant.hex, hour, seq, number + 1, tree.size, amount, tree.root(), previous)
        keys = signing_keys()
        signature = keys.sign(PURPOSE, seal.statement())
        values = (str(tenant), *seal[1:], keys.current, signature, str(first), str(last), after, until, parts.json())
        cursor.execute(INSERT, values)
    return seal


AMOUNT = 11
"""Where a row of SELECTED has its amount."""


class Parts:
    """Sums of live, answered calls by model and price; others cost nothing."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int, str], list[Any]] = {}  # Any: the model's name, then integers

    def add(self, row: tuple[Any, ...]) -> None:  # Any: a row of SELECTED
        _, _, _, model, _, mode, kind, price, currency, rows, compute_us, amount, *_, name = row
        if kind != "usage" or mode != "live":
            return
        sums = self._sums.setdefault((model, price, currency), [name, 0, 0, 0, 0])
        sums[0] = name
        for place, value in enumerate((1, rows, compute_us, amount), 1):
            sums[place] += value

    def json(self) -> str:
        """A list of objects, as `usage_seal.by_price` has them."""
        names = ("model", "price_version", "currency", "name", "calls", "rows", "compute_us", "amount_nano")
        return json.dumps([dict(zip(names, (*key, *sums), strict=True)) for key, sums in sorted(self._sums.items())])


def _last(cursor: Cursor, tenant: UUID) -> tuple[int, bytes]:
    """Number and hash of the organization's newest seal."""
    cursor.execute(
        "SELECT replace(tenant_id::text, '-', ''), hour, seq, number, n, amount_nano, merkle_root, prev_seal FROM usage_seal "
        "WHERE tenant_id = %s ORDER BY number DESC LIMIT 1",
        [str(tenant)],
    )
    row = cursor.fetchone()
    if row is None:
        return 0, BEFORE_THE_FIRST
    tenant_hex, hour, seq, number, n, amount, root, previous = row
    seal = Seal(tenant_hex, hour, seq, number, n, amount, bytes(root), bytes(previous))
    return number, seal.digest()


def day_of_call(call: UUID) -> datetime:
    """The partition of a call, by its id."""
    return datetime.fromtimestamp((call.int >> 80) // 86_400_000 * 86_400, UTC)
