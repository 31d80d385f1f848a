"""What a month costs: from usage at list prices and a plan's tariff to a bill. Integers only; nothing is read.

The charge for usage is what Stripe's graduated tiers make of a meter that counts whole millionths of the currency unit: what a
plan includes is a first tier at 0, each later tier takes what lies between its bounds times its rate. Each line is rounded
once, half up, to the smallest coin of the currency.

A month with several plans is rated in parts, each by itself: a part of a month has of a plan's fee, of what it includes and of
its discount on the rest as much as the part is of the month (`part_of`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from saas.lib.money import NANO, nano_of

METER = 1000  # nano in one unit of the meter: a millionth of the currency unit
RATE_DECIMALS = 8  # of RATE_ONE; Stripe takes 12 of a hundredth, and a millionth is 10^-4 of it
RATE_ONE = 10**8
EXPONENTS = {"BHD": 3, "JOD": 3, "KWD": 3, "OMR": 3, "TND": 3} | dict.fromkeys(
    ("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"), 0
)
"""Decimals of a currency's smallest coin where they are not 2 (ISO 4217)."""


class UnusableTariff(ValueError):
    """The numbers of a plan make no tariff; the message says which and why."""


@dataclass(frozen=True)
class Tier:
    """`up_to`: nano beyond the included usage at which it ends, None: never. `rate`: hundred-millionths of the list price."""

    up_to: int | None
    rate: int


@dataclass(frozen=True)
class Tariff:
    """`fee` a month and `included` usage at list prices, in nano. Without tiers what lies beyond is not charged."""

    currency: str
    fee: int = 0
    included: int = 0
    tiers: tuple[Tier, ...] = ()

    @property
    def is_flat(self) -> bool:
        """Whether all usage has one rate, and no fee is paid for that: a short time on it is worth what a long one is."""
        return not self.fee and len({tier.rate for tier in self.tiers}) <= 1

    @classmethod
    def parse(
        cls, *, currency: str, monthly_fee: Decimal | str, included_amount: Decimal | str, tiers: Sequence[Mapping[str, Any]]
    ) -> "Tariff":
        """From decimals, `tiers` as a plan has them, as text: {"up_to": "100.00" or None, "rate": "0.80"}, in order.

        Raises UnusableTariff: negative, too large or too fine a number, bounds that do not rise, a last tier that ends.
        """
        fee = _number(monthly_fee, "monthly_fee", 9)
        included = _number(included_amount, "included_amount", 6)
        found, before = [], 0
        for place, tier in enumerate(tiers, 1):
            is_last = place == len(tiers)
            bound, rate = tier.get("up_to"), _number(tier.get("rate"), f"the rate of tier {place}", RATE_DECIMALS)
            if (bound is None) != is_last:
                raise UnusableTariff(f"tier {place}: exactly the last tier has no up_to")
            up_to = None if bound is None else _number(bound, f"up_to of tier {place}", 6)
            if up_to is not None and up_to <= before:
                raise UnusableTariff(f"tier {place}: up_to must be more than that of the tier before")
            before = up_to or before
            found.append(Tier(up_to, rate * RATE_ONE // NANO))
        return cls(currency, fee, included, tuple(found))


@dataclass(frozen=True)
class Line:
    """`kind` is fee, included or tier; `units` of the meter, in `tier` (from 1); `amount` in the currency's smallest coin."""

    kind: str
    amount: int
    units: int = 0
    tier: int = 0
    rate: int = 0


@dataclass(frozen=True)
class Bill:
    """What a month costs; `total` in the currency's smallest coin."""

    currency: str
    lines: tuple[Line, ...]

    @property
    def total(self) -> int:
        return sum(line.amount for line in self.lines)

    @property
    def usage_total(self) -> int:
        """The same without the fee."""
        return sum(line.amount for line in self.lines if line.kind != "fee")


def units_of(usage: int) -> int:
    """What the meter shows for so much usage in nano since the month began: its whole units."""
    return usage // METER


def month(tariff: Tariff, usage: int) -> Bill:
    """The bill for `usage` nano at list prices: the fee, what was included, and a line for each tier that was reached."""
    lines = [Line("fee", to_coins(tariff.fee, tariff.currency))] if tariff.fee else []
    units = units_of(usage)
    if included := min(units, tariff.included // METER):
        lines.append(Line("included", 0, included))
    for place, tier, within in _graduated(tariff, units):
        amount = _in_coins(within * METER * tier.rate, NANO * RATE_ONE, tariff.currency)
        lines.append(Line("tier", amount, within, place, tier.rate))
    return Bill(tariff.currency, tuple(lines))


def part_of(tariff: Tariff, length: int, whole: int) -> Tariff:
    """The tariff of a part of a month: `length` of `whole` milliseconds. Each number is rounded once, half up.

    Of the fee, of included usage and of what the rates are below the list price the part has its share; bounds of tiers stay.
    So however much is used in how short a time, the plan saves no more than for the share of the fee that is paid. Included
    usage is rounded to units of the meter: what is included in two parts of a month is what the month includes, give or take
    a unit. `whole` of `whole` changes nothing.
    """
    tiers = tariff.tiers
    if not tariff.is_flat:
        tiers = tuple(Tier(each.up_to, _round(RATE_ONE * (whole - length) + each.rate * length, whole)) for each in tiers)
    included = _round(tariff.included // METER * length, whole) * METER
    return Tariff(tariff.currency, _round(tariff.fee * length, whole), included, tiers)


def overage_nano(tariff: Tariff, usage: int) -> int:
    """What `usage` costs beyond the fee up to now, in nano, rounded up: for showing it while the month runs."""
    charged = sum(within * METER * tier.rate for _, tier, within in _graduated(tariff, units_of(usage)))
    return -(-charged // RATE_ONE)


def _graduated(tariff: Tariff, units: int) -> list[tuple[int, Tier, int]]:
    """(place from 1, tier, units in it) of the tiers that `units` reach."""
    beyond, start, found = max(0, units - tariff.included // METER), 0, []
    for place, tier in enumerate(tariff.tiers, 1):
        end = beyond if tier.up_to is None else min(beyond, tier.up_to // METER)
        if end > start:
            found.append((place, tier, end - start))
        start = max(start, end)
    return found


def exponent(currency: str) -> int:
    """Decimals of the currency's smallest coin."""
    return EXPONENTS.get(currency, 2)


def to_coins(nano: int, currency: str) -> int:
    """An amount in the currency's smallest coin, half up; of a currency with three decimals in whole tens of them.

    Stripe takes no finer amounts of these (docs.stripe.com/currencies, three-decimal currencies): 5.124 KWD is 5120.
    """
    return _in_coins(nano, NANO, currency)


def _in_coins(numerator: int, denominator: int, currency: str) -> int:
    """What so many units of the currency are in its smallest coin, rounded once."""
    decimals = exponent(currency)
    step = 10 if decimals == 3 else 1
    return _round(numerator * int(10**decimals), denominator * step) * step


def coins(amount: int, currency: str) -> str:
    """An amount in the smallest coin as a decimal number: 1250 USD is 12.50."""
    return f"{Decimal(amount).scaleb(-exponent(currency)):f}"


def coins_of_units(units: int) -> str:
    """Units of the meter as a decimal of the currency: 1500000 is 1.500000."""
    return f"{Decimal(units).scaleb(-6):f}"


def rate_text(rate: int) -> str:
    """A rate as a decimal number: 90000000 is 0.9."""
    return f"{(Decimal(rate) / RATE_ONE).normalize():f}"


def _number(value: object, name: str, decimals: int) -> int:
    try:
        nano = nano_of(f"{value:f}" if isinstance(value, Decimal) else str(value))
    except ValueError as error:
        raise UnusableTariff(f"{name}: {str(error).rstrip('.')}") from None
    if nano % 10 ** (9 - decimals):
        raise UnusableTariff(f"{name}: At most {decimals} decimals")
    return nano


def _round(numerator: int, denominator: int) -> int:
    """The quotient of two integers that are not negative, half up."""
    return (2 * numerator + denominator) // (2 * denominator)
