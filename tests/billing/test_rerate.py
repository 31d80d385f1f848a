"""What-if: the month under another price book, against each call priced by hand; nothing is changed."""

import io
import json
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command

from tests.billing.billed import HOUR


@pytest.fixture
def rerate(organization, month, tmp_path, capsys):
    def run(book, *more):
        file = tmp_path / "book.json"
        file.write_text(book if isinstance(book, str) else json.dumps(book))
        call_command("rerate", "--month", str(month), "--organization", organization.slug, "--book", str(file), "--json", *more)
        return json.loads(capsys.readouterr().out)

    return run


def live(calls):
    return [call for call in calls if call.kind == "usage" and call.mode == "live"]


def nano(text):
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    whole, _, part = digits.partition(".")
    return sign * (int(whole) * 10**9 + int(part.ljust(9, "0")))


def test_each_call_is_priced_anew_by_its_own_units(rerate, calls, price):
    book = [{"model": price.model_id.hex, "call_price": "0.000002", "row_price": "0.0000005", "second_price": "0.013"}]

    found = rerate(book)

    by_hand = sum(2000 + call.rows * 500 + -(-call.compute_us * 13_000_000 // 10**6) for call in live(calls))
    charged = sum(call.nano for call in calls)
    [line] = found["models"]
    assert (nano(line["charged"]), nano(line["anew"]), line["calls"], line["priced"]) == (charged, by_hand, 16, 16)
    assert nano(line["difference"]) == by_hand - charged
    assert found["totals"][0]["anew"] == line["anew"]


def test_the_price_in_force_when_a_call_opened_counts(rerate, calls, price, first_hour):
    from datetime import UTC, datetime

    later = datetime.fromtimestamp((first_hour + HOUR) / 1000, UTC).isoformat()
    book = [
        {"model": price.model_id.hex, "call_price": "1"},
        {"model": price.model_id.hex, "call_price": "2", "starts_at": later},
        {"model": None, "call_price": "100"},
    ]

    [line] = rerate(book)["models"]

    early = [call for call in live(calls) if call.opened_ms < first_hour + HOUR]
    assert nano(line["anew"]) == (len(early) + 2 * (16 - len(early))) * 10**9


def test_a_model_without_a_price_there_costs_what_it_did(rerate, calls):
    [line] = rerate([{"model": UUID(int=7).hex, "call_price": "1"}])["models"]

    assert (line["anew"], line["difference"], line["priced"]) == (line["charged"], "0.00", 0)


def test_versions_of_the_real_book_and_the_table(organization, month, calls, price):
    out = io.StringIO()
    arguments = ("--month", str(month), "--organization", organization.slug, "--versions", str(price.version))
    call_command("rerate", *arguments, stdout=out)

    head, line, total = out.getvalue().splitlines()
    assert head.split() == ["model", "calls", "charged", "would", "cost", "difference"]
    assert "catalog/iris" in line
    assert "16 calls are not priced there" in line  # it started after they had been opened
    assert total.startswith("all")


def test_nothing_is_changed(rerate, calls, ledger, organization):
    rows = ledger("SELECT * FROM usage_event WHERE tenant_id = %s ORDER BY call_id", organization.id)
    rerate([{"model": None, "call_price": "5"}])

    assert ledger("SELECT * FROM usage_event WHERE tenant_id = %s ORDER BY call_id", organization.id) == rows


@pytest.mark.parametrize(
    ("book", "reason"),
    [
        ("no json", "is no JSON"),
        ("{}", "is no list of objects"),
        ([{"modell": None}], "entry 1: 'modell' is not known"),
        ([{"call_price": "-1"}], "entry 1: A decimal number"),
        ([{"call_price": "0.1"}, {"call_price": "9000001"}], "entry 2: At most"),
        ([{"call_price": 0.1}], "entry 1: amounts and times are texts"),
        ([{"currency": "XXX"}], "entry 1: currency"),
        ([{"starts_at": "soon"}], "entry 1:"),
        ([{"model": "nobody/nothing"}], "entry 1: no call of the month was of a model called 'nobody/nothing'"),
    ],
)
def test_an_unusable_book_is_refused_with_its_place(rerate, book, reason):
    with pytest.raises(CommandError, match=reason):
        rerate(book)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--month", "2026-13", "--versions", "0"), "month"),
        (("--month", "2026-11", "--versions", "x"), "numbers with commas"),
        (("--month", "2026-11", "--versions", "999999"), "no price version 999999"),
        (("--month", "2026-11", "--versions", "0", "--organization", "no-such-one"), "no organization no-such-one"),
        (("--month", "2026-11", "--book", "/nowhere"), "nowhere"),
    ],
)
def test_wrong_arguments_are_refused(arguments, reason):
    with pytest.raises(CommandError, match=reason):
        call_command("rerate", *arguments)
