"""JSON from outside: what is taken comes as it was sent, all else is refused as a bad request."""

import pytest

from saas.lib import jsontext
from saas.lib.errors import InvalidRequest

pytestmark = pytest.mark.no_servers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": [1, 2.5, "x", null, true]}', {"a": [1, 2.5, "x", None, True]}),
        (b"18446744073709551615", 2**64 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b'"10000000000000000000000000000"', "1" + "0" * 28),
        (b"0.1234567890123456789012", 0.1234567890123456789012),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"a\\u0000"', "a\x00"),
        (b"[" * 100 + b"]" * 100, None),
    ],
)
def test_what_is_taken(text, value):
    taken = jsontext.read(text)

    assert value is None or taken == value


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"NaN", b"1e999", b"18446744073709551616", b"-9223372036854775809", b"1" + b"0" * 400, b"9" * 5000,
        b'{"a": 1, "a": 1}', b'[{"b": {"a": 1, "\\u0061": 2}}]',
        b'"\xff"', b'"\\ud800"', b"[" * 101 + b"]" * 101, b'{"a":' * 3000 + b"1" + b"}" * 3000,
    ],
)  # fmt: skip
def test_what_is_refused(text):
    with pytest.raises(InvalidRequest):
        jsontext.read(text)


def test_nul_is_refused_where_it_cannot_be_stored():
    for text in (b'"\\u0000"', b'["a\\\\\\u0000"]', b'{"\\u0000": 1}'):
        with pytest.raises(InvalidRequest):
            jsontext.read(text, takes_nul=False)
    assert jsontext.read(b'"\\\\u0000"', takes_nul=False) == "\\u0000"  # a backslash and five characters
