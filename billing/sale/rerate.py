"""What-if: what the calls of a past month would have cost under another price book. The records stay as they are.

A call is priced anew by its own units (rows, compute time) at the price of the other book that was in force when it opened:
the model's, else the book's price for all models, else its own price again. Test and reversed calls cost nothing under any
book. The charge's upper bound, set when a call opens, is not applied: the other book would have set another one.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import connections

from billing.models import PriceVersion, UsageHour
from billing.proof.bill import Month
from billing.proof.receipts import milliseconds
from billing.sale.terms import price_of
from saas.lib.money import CURRENCIES, nano_of
from saas.lib.prices import Price

AMOUNTS = ("call_price", "row_price", "second_price")

# A call's partition is the day it opened on, which may lie before the month in which it closed.
COST = """
WITH book AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset(%(book)s::jsonb) AS b(model uuid, starts_at timestamptz, currency text, call_nano bigint,
    row_nano bigint, second_nano bigint)
), calls AS (
  SELECT e.tenant_id, e.model_id, e.model_name, e.currency, e.amount_nano,
    b.call_nano + e.rows * b.row_nano + ceil(e.compute_us::numeric * b.second_nano / 1000000) AS anew
  FROM usage_event e LEFT JOIN LATERAL (
    SELECT * FROM book WHERE (model = e.model_id OR model IS NULL) AND starts_at <= e.opened_at AND currency = e.currency
    ORDER BY model NULLS LAST, starts_at DESC LIMIT 1
  ) b ON true
  WHERE e.day BETWEEN %(start)s::date - 40 AND %(end)s::date AND e.kind = 'usage' AND e.mode = 'live'
  AND split_part(e.stream_id, '-', 1)::bigint >= %(start_ms)s AND split_part(e.stream_id, '-', 1)::bigint < %(end_ms)s
  AND (%(tenant)s::uuid IS NULL OR e.tenant_id = %(tenant)s::uuid)
)
SELECT max(model_name), model_id, currency, count(*), sum(amount_nano), sum(coalesce(anew, amount_nano)), count(anew)
FROM calls GROUP BY model_id, currency ORDER BY 1, 2, 3
"""


class UnusableBook(ValueError):
    """The other price book cannot be used; the message says where."""


@dataclass(frozen=True)
class Entry:
    """A price of the other book; `model` None: of all models without one of their own."""

    model: UUID | None
    price: Price


@dataclass(frozen=True)
class Line:
    """A model's calls of the month: what they cost and would cost, in nano; `priced` of them have a price in the other book."""

    model: str
    model_id: UUID
    currency: str
    calls: int
    charged: int
    anew: int
    priced: int


def read_book(file: Path, models: dict[str, UUID]) -> list[Entry]:
    """A JSON list of {"model": name, id or null, "currency", "call_price", "row_price", "second_price", "starts_at"}.

    All but the model have defaults: USD, 0, always. `models` are ids by name. Raises UnusableBook, OSError.
    """
    try:
        rows = json.loads(file.read_text())
    except ValueError as error:
        raise UnusableBook(f"{file} is no JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UnusableBook(f"{file} is no list of objects")
    return [_entry(place, row, models) for place, row in enumerate(rows, 1)]


def _entry(place: int, row: dict[str, Any], models: dict[str, UUID]) -> Entry:  # Any: JSON
    if unknown := row.keys() - {"model", "currency", "starts_at", *AMOUNTS}:
        raise UnusableBook(f"entry {place}: {sorted(unknown)[0]!r} is not known")
    currency = row.get("currency", "USD")
    if currency not in CURRENCIES:
        raise UnusableBook(f"entry {place}: currency is not one of {', '.join(sorted(CURRENCIES))}")
    try:
        starts = datetime.fromisoformat(row.get("starts_at", "2020-01-01T00:00:00Z"))
        call, per_row, second = (nano_of(row.get(name, "0")) for name in AMOUNTS)
    except ValueError as error:
        raise UnusableBook(f"entry {place}: {error}") from None
    except TypeError:
        raise UnusableBook(f'entry {place}: amounts and times are texts, as "12.50"') from None
    starts = starts.replace(tzinfo=UTC) if starts.tzinfo is None else starts
    return Entry(_model(place, row.get("model"), models), Price(0, milliseconds(starts), currency, call, per_row, second))


def _model(place: int, named: Any, models: dict[str, UUID]) -> UUID | None:  # Any: JSON
    if named is None:
        return None
    if str(named) in models:
        return models[str(named)]
    try:
        return UUID(hex=str(named).removeprefix("mdl_"))
    except ValueError:
        raise UnusableBook(f"entry {place}: no call of the month was of a model called {str(named)[:100]!r}") from None


def book_of_versions(versions: Sequence[int], using: str = "ops") -> list[Entry]:
    """Rows of the real price book, each from its own start. Raises UnusableBook for one that there is not."""
    found = {row.version: row for row in PriceVersion.objects.using(using).filter(version__in=versions)}
    if missing := [version for version in versions if version not in found]:
        raise UnusableBook(f"there is no price version {missing[0]}")
    return [Entry(found[version].model_id, price_of(found[version])) for version in versions]


def rerate(month: Month, book: Sequence[Entry], *, tenant: UUID | None = None, using: str = "ops") -> list[Line]:
    """One line per model and currency. Reads only; as an operator, who sees all organizations."""
    with connections[using].cursor() as cursor:
        cursor.execute(
            COST,
            {
                "book": json.dumps([_row(entry) for entry in book]),
                "start": month.start,
                "end": month.end,
                "start_ms": milliseconds(month.start),
                "end_ms": milliseconds(month.end),
                "tenant": tenant,
            },
        )
        return [
            Line(name, model, currency, calls, int(charged), int(anew), priced)
            for name, model, currency, calls, charged, anew, priced in cursor.fetchall()
        ]


def models_of(month: Month, using: str = "ops") -> dict[str, UUID]:
    """Ids by name of the models that were called around the month."""
    around = (month.start - timedelta(days=40), month.end)
    hours = UsageHour.objects.using(using).filter(hour__gte=around[0], hour__lt=around[1])
    return dict(hours.values_list("model_name", "model_id").distinct())


def _row(entry: Entry) -> dict[str, Any]:  # Any: JSON
    price = entry.price
    return {
        "model": entry.model.hex if entry.model else None,
        "starts_at": datetime.fromtimestamp(price.starts_ms / 1000, UTC).isoformat(),
        "currency": price.currency,
        "call_nano": price.call_nano,
        "row_nano": price.row_nano,
        "second_nano": price.second_nano,
    }
