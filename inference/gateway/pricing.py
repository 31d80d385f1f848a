"""What a call costs: the price that it opens at, the most that it can cost, and what it did cost. Integers, without I/O.

An amount is call + rows · row + seconds of computing · second, in billionths of the currency unit, rounded up once.
"""

from collections.abc import Sequence

from inference.gateway.quotes import Quote
from inference.routes import ModelRoute
from saas.lib.errors import PriceMissing, QuoteExpired, QuoteInvalid, ValidationFailed
from saas.lib.money import MAX_NANO, MAX_UNITS
from saas.lib.prices import FREE, Price
from tenants import standing
from tenants.principal import KeyRecord, Terms

PRIVATE = ""  # under which an organization's terms have the price of all its private models


def price_of(key: KeyRecord, route: ModelRoute, quote: Quote | None, now_ms: int) -> Price:
    """The price of a call that opens at `now_ms`: the quote's, else that of the organization's terms; test keys pay nothing.

    Raises AccountSuspended, PriceMissing, QuoteExpired, QuoteInvalid.
    """
    if quote is not None:
        _check(quote, key, route, now_ms)
    if key.mode == "test" or quote is not None:
        check_standing(key.terms)
        return FREE if quote is None or key.mode == "test" else quote.price
    return price_by(key.terms, route, now_ms)


def check_standing(terms: Terms) -> None:
    """Raises AccountSuspended if calls are refused in the organization's state."""
    if terms.state not in standing.SERVED and (refusal := standing.refusal(terms.state)):
        raise refusal


def price_by(terms: Terms, route: ModelRoute, now_ms: int) -> Price:
    """The organization's own price, else everybody's; private models without one cost nothing.

    Raises AccountSuspended, PriceMissing.
    """
    if terms.state not in standing.SERVED:
        check_standing(terms)
    price = None
    if terms.overrides:
        price = in_force(terms.overrides.get(route.id, ()), terms.currency, now_ms)
        if price is None and not route.is_public:
            price = in_force(terms.overrides.get(PRIVATE, ()), terms.currency, now_ms)
    price = price or in_force(route.prices, terms.currency, now_ms)
    if price is None:
        if route.is_public:
            raise PriceMissing(f"{route.full_name} has no price in {terms.currency}, so it cannot be called; ask its operators")
        price = FREE
    return price


def in_force(prices: Sequence[Price], currency: str, now_ms: int) -> Price | None:
    """The last of `prices`, oldest start first, that has started."""
    found = None
    for price in prices:
        if price.starts_ms > now_ms:
            break
        if price.currency == currency:
            found = price
    return found


def most(price: Price, rows: int, timeout: float) -> int:
    """The most that a call of `rows` can cost, computing until its deadline, `timeout` seconds on. Raises ValidationFailed."""
    nano = price.call_nano + rows * price.row_nano
    if price.second_nano:
        nano += _computing(price, -int(-timeout * 1_000_000 // 1))
    if nano > MAX_NANO:
        raise ValidationFailed(
            f"The call could cost more than {MAX_UNITS:,} {price.currency}: send fewer rows, or a shorter X-Request-Timeout"
        )
    return nano


def exact(price: Price, rows: int, compute_us: int) -> int:
    """What a call of `rows` has cost whose share of its batch took so many microseconds."""
    nano = price.call_nano + rows * price.row_nano
    return nano + _computing(price, compute_us) if price.second_nano else nano


def _computing(price: Price, us: int) -> int:
    return -(-us * price.second_nano // 1_000_000)


def _check(quote: Quote, key: KeyRecord, route: ModelRoute, now_ms: int) -> None:
    if quote.organization != key.organization or quote.model != route.id:
        raise QuoteInvalid("The quote is for another organization or another model; ask for one with POST /api/v1/quote")
    if now_ms >= quote.expires_ms:
        raise QuoteExpired("The quote has expired; ask for another with POST /api/v1/quote")
    if quote.price != FREE and quote.price.currency != key.terms.currency:
        raise QuoteExpired(
            f"The quote is in {quote.price.currency}, and the organization is charged in {key.terms.currency} now; "
            "ask for another with POST /api/v1/quote"
        )
