"""Money: integers of billionths of the currency unit ("nano") inside, decimal text outside. Never a float."""

import re
from decimal import Decimal

NANO = 10**9
MAX_NANO = 9_000_000 * NANO  # exact also where numbers are doubles: below 2^53

MAX_UNITS = MAX_NANO // NANO

CURRENCIES = {
    "AUD", "BHD", "BRL", "CAD", "CHF", "CZK", "DKK", "EUR", "GBP", "HKD", "INR",
    "JPY", "KRW", "KWD", "MXN", "NOK", "NZD", "PLN", "SEK", "SGD", "USD", "ZAR",
}  # fmt: skip
"""ISO 4217 codes that prices may be in."""

_DECIMAL = re.compile(r"(\d{1,7})(?:\.(\d{1,9}))?", re.ASCII)


def text_of(nano: int) -> str:
    """12500000000 → "12.50": at least two decimals, at most nine, exact."""
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    decimals = f"{nano % NANO:09d}".rstrip("0")
    return f"{sign}{nano // NANO}.{decimals:0<2}"


def nano_of(text: str) -> int:
    """The opposite, for amounts that are not negative. ValueError says what is wrong, for the one who sent it."""
    found = _DECIMAL.fullmatch(text)
    if found is None:
        raise ValueError("A decimal number such as 12.50, at least 0, with at most 9 decimals, as text.")
    nano = int(found[1]) * NANO + int((found[2] or "").ljust(9, "0"))
    if nano > MAX_NANO:
        raise ValueError(f"At most {MAX_NANO // NANO}.")
    return nano


def nano_of_decimal(amount: Decimal) -> int:
    """The same of a number as columns have it. ValueError if it is no whole number of nano, or not finite."""
    if not amount.is_finite():
        raise ValueError("A finite number.")
    nano = amount.scaleb(9)
    if nano != nano.to_integral_value():
        raise ValueError("At most 9 decimals.")
    return int(nano)
