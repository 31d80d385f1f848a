"""The bill of a month that can be checked: NDJSON of what billing.verify_bill reads.

The bill is of hours: those that the journal's ids give, as seals and Stripe have them. So a call that was opened in the last
moment of a month and closed in the next one counts against the caps of the first, and is on the bill of the second. A month
with several plans is billed in parts (billing.sale.segments).
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Max, Min, Sum

from billing.models import PlanVersion, PriceVersion, UsageSeal
from billing.proof import billed
from billing.proof.receipts import milliseconds, of_row
from billing.proof.sealer import sealed_until
from billing.proof.seals import Seal, Span, page_of
from billing.sale import rating, segments
from billing.sale.rating import Bill
from billing.sale.segments import Segment
from billing.sale.terms import price_of
from inference.books.scripts import JOURNAL
from saas.lib import clock
from saas.lib.errors import ValidationFailed
from saas.lib.money import nano_of_decimal, text_of
from saas.lib.signing import signing_keys
from tenants.models import Organization
from tenants.scope import tenant_scope

PURPOSE = b"bill"


@dataclass(frozen=True)
class Month:
    """A calendar month, UTC."""

    start: datetime
    end: datetime

    @classmethod
    def parse(cls, text: str | None) -> "Month":
        """`2026-11`; this month without. Raises ValidationFailed."""
        try:
            first = datetime.strptime(text or f"{clock.now():%Y-%m}", "%Y-%m").replace(tzinfo=UTC)
            if not 2020 <= first.year < 3000 or len(text or "2026-11") != len("2026-11"):
                raise ValueError(text)
        except ValueError:
            detail = "A month from 2020 on, as 2026-11."
            raise ValidationFailed(f"month: {detail}", errors=[{"field": "month", "detail": detail}]) from None
        return cls(first, first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1))

    def __str__(self) -> str:
        return f"{self.start:%Y-%m}"


def header(organization: Organization, month: Month, *, stream: str = JOURNAL) -> dict[str, Any]:  # Any: JSON
    """The first line: keys, prices, what the seals add up to, the parts of the month by plan with their lines; signed."""
    seals = UsageSeal.objects.filter(tenant_id=organization.id, hour__gte=month.start, hour__lt=month.end)
    sums = seals.aggregate(first=Min("number"), last=Max("number"), calls=Sum("n"), usage=Sum("amount_nano"))
    usage, until = sums["usage"] or 0, sealed_until(stream)
    parts = rated_parts(organization, month, usage)
    currency = parts[-1][0].version.currency
    keys = signing_keys()
    said = {
        "type": "bill",
        "format": 3,
        "tenant": organization.id.hex,
        "month": str(month),
        "sealed_until": until.strftime("%Y-%m-%dT%H:00:00Z") if until else None,
        "is_complete": until is not None and until >= month.end,
        "keys": {str(version): base64.b64encode(key).decode() for version, key in keys.public().items()},
        "key": keys.current,
        "currency": currency,
        "prices": [_shown_price(row) for row in PriceVersion.objects.order_by("version")],
        "seals": seals.count(),
        "first": sums["first"] or 0,
        "last": sums["last"] or 0,
        "last_seal": _digest_of(organization, sums["last"]),
        "calls": sums["calls"] or 0,
        "usage_nano": usage,
        "parts": [_shown_part(*part) for part in parts],
        "total": rating.coins(sum(bill.total for _, _, bill in parts), currency),
    }
    signature = keys.sign(PURPOSE, json.dumps(said, sort_keys=True, separators=(",", ":")).encode())
    return said | {"signature": base64.b64encode(signature).decode()}


def lines(organization: Organization, month: Month, first_line: dict[str, Any]) -> Iterator[bytes]:  # Any: JSON
    """The whole bill, a few thousand calls at a time, each page read in a transaction of its own. Not inside one.

    Between the month's first and last seal there may be some of other months, out of which came a late row of this one: they
    are told without their calls, so that the chain can be followed.
    """
    yield json.dumps(first_line).encode() + b"\n"
    number, last = first_line["first"], first_line["last"]
    while 0 < number <= last:
        with tenant_scope(organization.id):
            row = UsageSeal.objects.get(tenant_id=organization.id, number=number)
        yield _line({"type": "seal", "seal": seal_of(row).shown(), "key": row.key_version, "signature": _base64(row.sig)})
        if month.start <= row.hour < month.end:
            yield from _calls(organization, row)
        number += 1


def _calls(organization: Organization, row: UsageSeal) -> Iterator[bytes]:
    span, beyond, left = Span(row.first_call, row.last_call, row.after_batch, row.last_batch), None, row.n
    while left > 0:
        with tenant_scope(organization.id), connection.cursor() as cursor:
            page = page_of(cursor, organization.id, row.hour, span, beyond)
        if not page:
            return  # rows are gone, which the verifier finds
        yield b"".join([b'{"type":"call","call":' + of_row(each) + b"}\n" for each in page])
        beyond = UUID(hex=page[-1][0])
        left -= len(page)


def rated_parts(organization: Organization, month: Month, usage: int) -> list[tuple[Segment, int, Bill]]:
    """The parts of the month, each with its sealed usage in nano and its bill; `usage` is what all of them have."""
    parts = segments.of_month(organization, month.start)
    used = [sum(billed.by_hour(organization.id, part.start, part.end).values()) for part in parts[:-1]]
    used.append(usage - sum(used))
    return [(part, nano, part.bill(nano)) for part, nano in zip(parts, used, strict=True)]


def _shown_part(part: Segment, usage: int, bill: Bill) -> dict[str, Any]:  # Any: JSON
    return {
        "plan": shown_plan(part.version),
        "starts_ms": milliseconds(part.start),
        "ends_ms": milliseconds(part.end),
        "usage_nano": usage,
        "lines": [shown_line(line, bill.currency) for line in bill.lines],
    }


def shown_plan(plan: PlanVersion) -> dict[str, Any]:  # Any: JSON
    return {
        "plan": plan.plan_id,
        "version": plan.version,
        "monthly_fee": text_of(nano_of_decimal(plan.monthly_fee)),
        "included_amount": text_of(nano_of_decimal(plan.included_amount)),
        "overage": plan.overage,
    }


def shown_line(line: rating.Line, currency: str) -> dict[str, Any]:  # Any: JSON
    """A line of the bill: `usage` at list prices is a decimal of the currency, as is `amount`; `rate` is that of the part."""
    shown: dict[str, Any] = {"kind": line.kind, "amount": rating.coins(line.amount, currency)}
    if line.kind != "fee":
        shown["usage"] = rating.coins_of_units(line.units)
    if line.kind == "tier":
        shown |= {"tier": line.tier, "rate": rating.rate_text(line.rate)}
    return shown


def seal_of(row: UsageSeal) -> Seal:
    root, previous = bytes(row.merkle_root), bytes(row.prev_seal)
    return Seal(row.tenant_id.hex, row.hour, row.seq, row.number, row.n, row.amount_nano, root, previous)


def _digest_of(organization: Organization, number: int | None) -> str:
    if number is None:
        return ""
    return seal_of(UsageSeal.objects.get(tenant_id=organization.id, number=number)).digest().hex()


def _shown_price(row: PriceVersion) -> dict[str, Any]:  # Any: JSON
    price = price_of(row)
    return {
        "version": price.version,
        "model": row.model_id.hex if row.model_id else None,
        "currency": price.currency,
        "call_nano": price.call_nano,
        "row_nano": price.row_nano,
        "second_nano": price.second_nano,
        "starts_ms": milliseconds(row.starts_at),
    }


def _line(value: dict[str, Any]) -> bytes:  # Any: JSON
    return json.dumps(value).encode() + b"\n"


def _base64(data: bytes | memoryview) -> str:
    return base64.b64encode(bytes(data)).decode()
