"""A month's bill, against an implementation with decimals that does each step as one would by hand."""

from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.sale import rating
from billing.sale.rating import Tariff, UnusableTariff

pytestmark = pytest.mark.no_servers
MILLIONTH = Decimal("0.000001")


def decimals(most, places):
    return st.integers(0, most * 10**places).map(lambda n: Decimal(n).scaleb(-places))


@st.composite
def plans(draw):
    bounds = sorted(draw(st.sets(decimals(5000, 6).filter(bool), max_size=4)))
    rates = draw(st.lists(decimals(3, 8), min_size=len(bounds) + 1, max_size=len(bounds) + 1))
    tiers = [{"up_to": bound, "rate": rate} for bound, rate in zip([*bounds, None], rates, strict=True)]
    return {
        "currency": draw(st.sampled_from(["USD", "EUR", "JPY", "KWD"])),
        "monthly_fee": draw(decimals(1000, 9)),
        "included_amount": draw(decimals(1000, 6)),
        "tiers": draw(st.sampled_from([tiers, []])),
    }


def parsed(plan):
    return Tariff.parse(
        currency=plan["currency"],
        monthly_fee=plan["monthly_fee"],
        included_amount=plan["included_amount"],
        tiers=[
            {"up_to": None if tier["up_to"] is None else f"{tier['up_to']:f}", "rate": f"{tier['rate']:f}"}
            for tier in plan["tiers"]
        ],
    )


def by_hand(plan, usage_nano):
    """The total: Stripe's graduated rule over whole millionths, unit by unit price, rounded once a line."""
    # Of three decimals Stripe takes whole tens of the smallest coin.
    coin, coins = {
        "USD": (Decimal("0.01"), 1), "EUR": (Decimal("0.01"), 1), "JPY": (Decimal(1), 1), "KWD": (Decimal("0.01"), 10),
    }[plan["currency"]]  # fmt: skip
    units = Decimal(usage_nano // 1000)
    included = plan["included_amount"] / MILLIONTH
    total = plan["monthly_fee"].quantize(coin, ROUND_HALF_UP)
    exact, lower = Decimal(0), included
    for tier in plan["tiers"]:
        upper = units if tier["up_to"] is None else min(units, included + tier["up_to"] / MILLIONTH)
        if upper > lower:
            amount = (upper - lower) * tier["rate"] * MILLIONTH
            exact += amount
            total += amount.quantize(coin, ROUND_HALF_UP)
            lower = upper
    return total / coin * coins, exact


@given(plans(), st.integers(0, 20_000 * 10**9))
def test_the_bill_is_what_decimals_give(plan, usage):
    tariff = parsed(plan)
    total, exact = by_hand(plan, usage)

    assert rating.month(tariff, usage).total == total
    assert rating.overage_nano(tariff, usage) == (exact * 10**9).to_integral_value(ROUND_CEILING)


@given(plans(), st.integers(0, 20_000 * 10**9))
def test_the_lines_hold_every_unit_once(plan, usage):
    tariff = parsed(plan)
    lines = rating.month(tariff, usage).lines

    counted = sum(line.units for line in lines)
    assert counted == (usage // 1000 if tariff.tiers else min(usage, tariff.included) // 1000)
    assert [line.tier for line in lines if line.kind == "tier"] == sorted({line.tier for line in lines if line.kind == "tier"})


WHOLE = 30 * 86_400_000


@given(plans(), st.integers(0, 20_000 * 10**9))
def test_the_whole_of_a_month_is_rated_as_the_month(plan, usage):
    tariff = parsed(plan)

    assert rating.part_of(tariff, WHOLE, WHOLE) == tariff
    assert rating.month(rating.part_of(tariff, WHOLE, WHOLE), usage).usage_total == rating.month(tariff, usage).usage_total


@given(plans(), st.lists(st.integers(1, WHOLE // 8), min_size=1, max_size=7))
def test_parts_of_a_month_include_together_what_the_month_does(plan, lengths):
    tariff = parsed(plan)
    lengths.append(WHOLE - sum(lengths))
    parts = [rating.part_of(tariff, length, WHOLE) for length in lengths]

    assert abs(sum(part.included for part in parts) - tariff.included) <= len(parts) * 500
    assert abs(sum(part.fee for part in parts) - tariff.fee) <= len(parts)
    if tariff.is_flat:
        assert {part.tiers for part in parts} == {tariff.tiers}
        return
    for place, tier in enumerate(tariff.tiers):
        assert {part.tiers[place].up_to for part in parts} == {tier.up_to}
        discounts = [10**8 - part.tiers[place].rate for part in parts]
        assert abs(sum(discounts) - (10**8 - tier.rate)) <= len(parts)


@given(plans(), st.integers(0, WHOLE), st.integers(0, 2_000 * 10**9), st.integers(0, 2_000 * 10**9))
def test_in_a_part_more_usage_never_costs_less(plan, length, usage, more):
    part = rating.part_of(parsed(plan), length, WHOLE)

    assert rating.overage_nano(part, usage) <= rating.overage_nano(part, usage + more)
    assert rating.month(part, usage).usage_total <= rating.month(part, usage + more).usage_total


@given(plans(), st.integers(0, WHOLE), st.integers(0, WHOLE), st.integers(0, 2_000 * 10**9))
def test_a_longer_part_includes_no_less(plan, length, other, usage):
    shorter, longer = (rating.part_of(parsed(plan), each, WHOLE) for each in sorted((length, other)))

    assert shorter.included <= longer.included
    counted = [sum(line.units for line in rating.month(part, usage).lines if line.kind == "tier") for part in (shorter, longer)]
    assert counted[0] >= counted[1]


PRO = {"monthly_fee": "99", "included_amount": "120"}
PRO_TIERS = [{"up_to": "1000", "rate": "0.90"}, {"up_to": None, "rate": "0.80"}]


def test_half_a_month_includes_half_and_discounts_half():
    tariff = Tariff.parse(currency="USD", **PRO, tiers=PRO_TIERS)
    bill = rating.month(rating.part_of(tariff, WHOLE // 2, WHOLE), 1160 * 10**9)

    assert [(line.kind, line.units, line.amount) for line in bill.lines] == [
        ("fee", 0, 4950),
        ("included", 60_000_000, 0),
        ("tier", 1_000_000_000, 95_000),
        ("tier", 100_000_000, 9_000),
    ]


def test_some_seconds_of_a_plan_with_a_fee_are_worth_no_more_than_they_cost():
    tariff = Tariff.parse(currency="USD", **PRO, tiers=PRO_TIERS)

    assert rating.month(rating.part_of(tariff, 6_000, WHOLE), 500 * 10**9).total == 50_000


def saved(tariff, usage):
    """In nano, against the list price."""
    return usage - tariff.fee - rating.overage_nano(tariff, usage)


@given(plans(), st.lists(st.tuples(st.integers(1, WHOLE // 8), st.integers(0, 3_000 * 10**9)), min_size=1, max_size=8))
def test_going_to_and_fro_saves_no_more_than_a_month_could(plan, stays):
    """On the plan for these lengths, with so much used in each; between them at list prices. No rate is above these."""
    tariff = parsed(plan | {"tiers": [tier | {"rate": min(tier["rate"], Decimal(1))} for tier in plan["tiers"]]})
    if tariff.is_flat or not tariff.tiers:
        return
    discount = replace(tariff, fee=0, included=0)
    most = max(tariff.included - tariff.fee + saved(discount, usage) for _, usage in stays)
    slack = sum(2_000 + usage // 10**8 for _, usage in stays)  # each rounded by up to a unit, and a digit of the rate

    found = sum(saved(rating.part_of(tariff, length, WHOLE), usage) for length, usage in stays)
    assert found <= max(most, 0) + slack


@pytest.mark.parametrize("rate", ["0", "0.7", "1"])
def test_one_rate_without_a_fee_is_the_same_in_any_part(rate):
    tariff = Tariff.parse(currency="USD", monthly_fee="0", included_amount="10", tiers=[{"up_to": None, "rate": rate}])
    part = rating.part_of(tariff, WHOLE // 10, WHOLE)

    assert (part.included, part.tiers) == (10**9, tariff.tiers)


def test_overage_goes_through_the_tiers():
    tariff = Tariff.parse(
        currency="USD",
        monthly_fee="29",
        included_amount="20",
        tiers=[{"up_to": "100", "rate": "0.80"}, {"up_to": None, "rate": "0.5"}],
    )
    bill = rating.month(tariff, 130 * 10**9)

    assert [(line.kind, line.units, line.amount) for line in bill.lines] == [
        ("fee", 0, 2900),
        ("included", 20_000_000, 0),
        ("tier", 100_000_000, 8000),
        ("tier", 10_000_000, 500),
    ]
    assert rating.coins(bill.total, "USD") == "114.00"


def test_a_half_coin_is_rounded_up_once_a_line():
    tariff = Tariff.parse(currency="JPY", monthly_fee="0.5", included_amount="0", tiers=[{"up_to": None, "rate": "1"}])

    assert rating.month(tariff, 1_500_000_000).total == 1 + 2
    assert rating.month(tariff, 1_499_999_999).total == 1 + 1


def test_without_tiers_only_the_fee_is_charged():
    tariff = Tariff.parse(currency="USD", monthly_fee="0", included_amount="1", tiers=[])

    assert rating.month(tariff, 10**12).total == 0
    assert rating.overage_nano(tariff, 10**12) == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"monthly_fee": "-1"}, "monthly_fee: A decimal number"),
        ({"monthly_fee": "NaN"}, "decimal number"),
        ({"monthly_fee": "9000001"}, "At most 9000000"),
        ({"monthly_fee": "abc"}, "decimal number"),
        ({"included_amount": "0.0000001"}, "included_amount: At most 6 decimals"),
        ({"tiers": [{"up_to": "1", "rate": "1"}]}, "exactly the last tier has no up_to"),
        ({"tiers": [{"up_to": None, "rate": "1"}, {"up_to": None, "rate": "1"}]}, "tier 1: exactly the last"),
        ({"tiers": [{"up_to": "2", "rate": "1"}, {"up_to": "2", "rate": "1"}, {"up_to": None, "rate": "1"}]}, "tier 2: up_to"),
        ({"tiers": [{"up_to": "0", "rate": "1"}, {"up_to": None, "rate": "1"}]}, "tier 1: up_to"),
        ({"tiers": [{"up_to": None, "rate": "0.123456789"}]}, "rate of tier 1: At most 8 decimals"),
        ({"tiers": [{"up_to": None}]}, "rate of tier 1: A decimal number"),
    ],
)
def test_a_tariff_that_makes_no_sense_is_refused(change, reason):
    plan = {"currency": "USD", "monthly_fee": "1", "included_amount": "1", "tiers": []} | change

    with pytest.raises(UnusableTariff, match=reason):
        Tariff.parse(**plan)
