"""What lines of an invoice amount to, in whole minor units, each rounded half up once."""

import calendar
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from saas.local.stripe.store import Json


def rounded(amount: Decimal) -> int:
    return int(amount.quantize(Decimal(1), ROUND_HALF_UP))


def flat(price: Json, quantity: int, *, part: Decimal = Decimal(1)) -> int:
    """A licensed price for a `part` of its period."""
    return rounded(Decimal(price["unit_amount_decimal"]) * quantity * part)


def tiers(price: Json, units: int) -> list[tuple[int, int, str]]:
    """Graduated: (units, amount, unit price) of each tier that was reached, the first one always. Without tiers it is one."""
    if price["billing_scheme"] != "tiered":
        return [(units, flat(price, units), price["unit_amount_decimal"])]
    if price["tiers_mode"] == "volume":
        tier = next(tier for tier in price["tiers"] if tier["up_to"] is None or units <= tier["up_to"])
        return [_tier(tier, units)]
    found: list[tuple[int, int, str]] = []
    done = 0
    for tier in price["tiers"]:
        end = units if tier["up_to"] is None else min(units, tier["up_to"])
        if end > done or not found:
            found.append(_tier(tier, end - done))
        done = max(done, end)
    return found


def _tier(tier: Json, units: int) -> tuple[int, int, str]:
    unit = Decimal(tier["unit_amount_decimal"] or 0)
    base = Decimal(tier["flat_amount_decimal"] or 0)
    return units, rounded(unit * units + base), str(unit)


def next_anchor(after: int, config: Json | None, anchor: int) -> int:
    """The first moment after `after` at which a month begins, by its configuration or by an earlier such moment."""
    moment = datetime.fromtimestamp(anchor, UTC)
    wanted: dict[str, Any] = {"day_of_month": moment.day, "hour": moment.hour, "minute": moment.minute, "second": moment.second}
    wanted |= {key: int(value) for key, value in (config or {}).items() if value is not None}
    day = datetime.fromtimestamp(after, UTC).replace(day=1)
    while True:
        last = calendar.monthrange(day.year, day.month)[1]
        found = day.replace(
            day=min(wanted["day_of_month"], last), hour=wanted["hour"], minute=wanted["minute"], second=wanted["second"]
        )
        if found.timestamp() > after:
            return int(found.timestamp())
        day = (day + timedelta(days=32)).replace(day=1)


def whole_period(end: int, config: Json | None, anchor: int) -> int:
    """The seconds of the full month that ends at `end`: what a part of it is measured against."""
    start = end - 32 * 86_400
    begin = next_anchor(start, config, anchor)
    while (following := next_anchor(begin, config, anchor)) < end:
        begin = following
    return end - begin
