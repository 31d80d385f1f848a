"""Quotes: what calls will cost, exactly where units are known beforehand, else at least and at most; and a price that holds."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from inference.gateway import pricing, quotes
from inference.gateway.quotes import Quote
from inference.routes import ModelRoute
from saas.lib import clock, money
from saas.lib.ids import shown, uuid7
from saas.lib.prices import Price
from tenants.principal import Terms

LIFE = timedelta(minutes=15)
"""How long the price of a quote holds."""
MOST_CALLS = 10_000


class Ask(NamedTuple):
    """One call that is asked about: its model, the rows that it brings, and its deadline in seconds."""

    route: ModelRoute
    rows: int
    timeout: float


def quote(organization: str, terms: Terms, asks: Sequence[Ask]) -> dict[str, Any]:  # Any: JSON
    """The quote for `asks`, of one organization (32 hexadecimal digits): one signed price per model, and the sums.

    Raises AccountSuspended, PriceMissing; ValidationFailed for a call that could cost more than can be counted.
    """
    now_ms = clock.now_ms()
    expires_ms = now_ms + int(LIFE.total_seconds() * 1000)
    groups: dict[str, list[Ask]] = {}
    for ask in asks:
        groups.setdefault(ask.route.id, []).append(ask)
    parts = [_part(organization, each, pricing.price_by(terms, each[0].route, now_ms), expires_ms) for each in groups.values()]
    least, most = sum(part["_least"] for part in parts), sum(part["_most"] for part in parts)
    return {
        "currency": terms.currency,
        "calls": len(asks),
        **_amounts(least, most),
        "expires_at": datetime.fromtimestamp(expires_ms / 1000, UTC),
        "models": [{name: value for name, value in part.items() if not name.startswith("_")} for part in parts],
    }


def _part(organization: str, asks: Sequence[Ask], price: Price, expires_ms: int) -> dict[str, Any]:  # Any: JSON
    """The part of one model. `_least` and `_most` are its sums in nano."""
    route = asks[0].route
    least = sum(pricing.exact(price, ask.rows, 0) for ask in asks)
    most = sum(pricing.most(price, ask.rows, ask.timeout) for ask in asks)
    made = Quote(shown("quote", uuid7()), organization, route.id, price, expires_ms)
    return {
        "_least": least,
        "_most": most,
        "id": made.id,
        "model": route.full_name,
        "calls": len(asks),
        "rows": sum(ask.rows for ask in asks),
        **_amounts(least, most),
        "price_version": price.version,
        "price": {
            "call": money.text_of(price.call_nano),
            "row": money.text_of(price.row_nano),
            "second": money.text_of(price.second_nano),
        },
        "quote": quotes.sign(made),
    }


def _amounts(least: int, most: int) -> dict[str, Any]:  # Any: JSON
    return {"min": money.text_of(least), "max": money.text_of(most), "is_exact": least == most}
