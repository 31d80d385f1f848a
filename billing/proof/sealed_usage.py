"""What a bill is made of: sealed hours by day, hour, model and price version, and the calls of an hour.

The hours are those of the bill, in which calls were closed; `GET /usage` has those in which they were opened, sealed or not.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection

from billing.ledger.usage import FORMS, MOST_ROWS, Question, money
from billing.models import UsageSeal
from billing.proof.receipts import of_row
from billing.proof.seals import Span, page_of
from saas.lib import clock
from saas.lib.errors import ValidationFailed
from saas.lib.ids import shown
from tenants.models import Organization

COLUMNS = ("period", "model", "model_id", "price_version", "calls", "rows", "compute_us", "amount", "currency")
PAGE, MOST = 100, 1000

SUMS = """
SELECT date_trunc(%s, hour, 'UTC') AS period, max(e.name), e.model, e.price_version, sum(e.calls), sum(e.rows),
  sum(e.compute_us), sum(e.amount_nano), e.currency
FROM usage_seal, jsonb_to_recordset(by_price) AS e(model uuid, name text, price_version integer, currency text,
  calls bigint, rows bigint, compute_us bigint, amount_nano bigint)
WHERE tenant_id = %s AND hour >= %s AND hour < %s
GROUP BY period, e.model, e.price_version, e.currency ORDER BY period, e.model, e.price_version, e.currency LIMIT %s
"""


def answer(organization: Organization, question: Question) -> list[dict[str, Any]]:  # Any: JSON
    """One row per period, model and price version, oldest first. Raises ValidationFailed beyond MOST_ROWS."""
    with connection.cursor() as cursor:
        cursor.execute(SUMS, [question.granularity, organization.id, question.start, question.end, MOST_ROWS + 1])
        found = cursor.fetchall()
    if len(found) > MOST_ROWS:
        raise ValidationFailed(f"That is more than {MOST_ROWS} rows: ask for a shorter time, or coarser")
    return [
        {
            "period": period.strftime(FORMS[question.granularity]),
            "model": name,
            "model_id": shown("mdl", model),
            "price_version": price,
            "calls": int(calls),
            "rows": int(rows),
            "compute_us": int(compute_us),
            "amount": money(int(amount)),
            "currency": currency,
        }
        for period, name, model, price, calls, rows, compute_us, amount, currency in found
    ]


def totals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:  # Any: JSON
    """What all rows of `answer` add up to, for each currency: all that was sealed in the time asked for."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        so_far = found.setdefault(row["currency"], {"calls": 0, "rows": 0, "compute_us": 0, "amount": Decimal(0)})
        for name in ("calls", "rows", "compute_us"):
            so_far[name] += row[name]
        so_far["amount"] += Decimal(row["amount"])
    return [{**total, "amount": f"{total['amount']:f}", "currency": currency} for currency, total in sorted(found.items())]


@dataclass(frozen=True)
class Hour:
    """Which calls are asked for: of the sealed `hour`, after the call `beyond` of the seal with `number`."""

    hour: datetime
    number: int
    beyond: UUID | None
    limit: int

    @classmethod
    def parse(cls, query: Any) -> "Hour":  # Any: a QueryDict or a dict
        """From a query string. Raises ValidationFailed with every wrong field."""
        errors: list[dict[str, str]] = []
        hour = clock.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
        number, beyond, limit = 0, None, PAGE
        try:
            hour = datetime.fromisoformat(query.get("hour", hour.isoformat()).replace(" ", "+"))
            hour = hour.replace(tzinfo=UTC) if hour.tzinfo is None else hour.astimezone(UTC)
            if not 2000 <= hour.year < 3000 or hour.minute or hour.second or hour.microsecond:
                raise ValueError(hour)
        except (ValueError, OverflowError):
            errors.append({"field": "hour", "detail": "A full hour, as 2026-11-26T04:00:00Z."})
        try:
            if "cursor" in query:
                first, _, last = query["cursor"].partition("-")
                number, beyond = int(first), UUID(hex=last)
                if not 0 < number < 1 << 62:
                    raise ValueError(first)
        except ValueError:
            errors.append({"field": "cursor", "detail": "Not a cursor that this list gave."})
        text = query.get("limit", str(PAGE))
        if text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MOST:
            limit = int(text)
        else:
            errors.append({"field": "limit", "detail": f"A number from 1 to {MOST}."})
        if errors:
            raise ValidationFailed("The question is not acceptable", errors=errors)
        return cls(hour, number, beyond, limit)


def calls(organization: Organization, asked: Hour) -> tuple[list[dict[str, Any]], str | None]:  # Any: JSON
    """Calls as they are stated in receipts and bills, by id in each seal of the hour; and where the next page begins."""
    found: list[tuple[int, tuple[Any, ...]]] = []
    seals = UsageSeal.objects.filter(tenant_id=organization.id, hour=asked.hour, number__gte=asked.number).order_by("number")
    for seal in seals:
        span, beyond = Span(seal.first_call, seal.last_call, seal.after_batch, seal.last_batch), None
        if seal.number == asked.number:
            beyond = asked.beyond
        with connection.cursor() as cursor:
            page = page_of(cursor, organization.id, seal.hour, span, beyond, limit=asked.limit + 1 - len(found))
        found += [(seal.number, row) for row in page]
        if len(found) > asked.limit:
            break
    rows = [json.loads(of_row(row)) for _, row in found[: asked.limit]]
    shown_rows = [{"id": shown("call", UUID(row["call"])), "amount": money(row["amount_nano"]), **row} for row in rows]
    if len(found) <= asked.limit:
        return shown_rows, None
    number, row = found[asked.limit - 1]
    return shown_rows, f"{number}-{row[0]}"
