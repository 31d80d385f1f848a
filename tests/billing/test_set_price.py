"""`manage.py set_price`."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing.models import PriceVersion
from tenants.databases import as_operator

WHY = ("--reason", "test")


def set_price(*arguments):
    out = StringIO()
    call_command("set_price", *arguments, stdout=out)
    return out.getvalue()


def prices_of(model):
    with as_operator():
        return [str(row.call_price) for row in PriceVersion.objects.filter(model_id=model.id).order_by("version")]


def test_a_model_gets_a_price(public_model):
    said = set_price(f"catalog/{public_model.name}", "--call", "0.0001", "--reason", "it begins")

    assert f"catalog/{public_model.name}" in said
    assert prices_of(public_model) == ["0.000100000"]


def test_a_first_price_is_given_once(public_model):
    for call in ("1", "2"):
        set_price(f"catalog/{public_model.name}", "--call", call, "--first", "--reason", "it begins")

    assert prices_of(public_model) == ["1.000000000"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["catalog/nothing-there", "--call", "1", *WHY], "no model"),
        (["--call", "1", *WHY], "Say the model"),
        (["--call", "1", "--organization", "nobody-at-all", *WHY], "no organization"),
        (["{model}", "--call", "-1", *WHY], "call_price"),
        (["{model}", "--call", "1", "--currency", "XXX", *WHY], "currency"),
        (["{model}", "--call", "1", "--starts-at", "2020-01-01", *WHY], "starts_at"),
        (["{model}", *WHY], "Say what it costs"),
        (["{model}", "--call", "1"], "--reason"),
        (["{model}", "--call", "1", "--reason", " "], "Say why"),
    ],
)
def test_what_is_wrong_is_said(public_model, arguments, reason):
    with pytest.raises(CommandError, match=reason):
        set_price(*[argument.format(model=f"catalog/{public_model.name}") for argument in arguments])

    assert prices_of(public_model) == []
