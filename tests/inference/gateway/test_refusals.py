"""What a refusal says."""

from datetime import UTC, datetime

import pytest

from inference.gateway import refusals
from inference.gateway.headers import left_lines

pytestmark = pytest.mark.no_servers

NOW = int(datetime(2026, 12, 31, 23, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("verdict", "note", "code", "name", "limit", "left"),
    [
        ("budget:key", b"2500000000 500000000", "budget_exceeded", "budget", "2.50", "0.50"),
        ("budget:organization", b"1 0", "budget_exceeded", "budget", "0.000000001", "0.00"),
        ("credit:organization", b"9000000000 1", "credit_exhausted", "credit", "9.00", "0.000000001"),
        ("included:organization", b"1000 0", "included_used_up", "included_calls", 1000, 0),
    ],
)
def test_a_cap_is_named_with_its_size_and_what_is_left(verdict, note, code, name, limit, left):
    error = refusals.of_books(verdict, note, "EUR", NOW)

    assert (error.status, error.code, error.source) == (402, code, verdict.partition(":")[2])
    assert {key: error.cap[key] for key in ("name", "limit", "left")} == {"name": name, "limit": limit, "left": left}
    assert str(left) in error.detail
    if name == "credit":
        assert (error.cap["resets_at"], error.retry_after) == (None, None)
    else:
        assert (error.cap["resets_at"], error.retry_after) == ("2027-01-01T00:00:00Z", 3600)
    assert error.cap.get("currency") == (None if name == "included_calls" else "EUR")


def test_the_month_after_december_is_january():
    assert refusals.next_month(datetime(2026, 12, 31, 23, tzinfo=UTC)) == datetime(2027, 1, 1, tzinfo=UTC)


def test_headers_say_what_is_left_of_what_there_is():
    assert left_lines(b"- - -", 0, "EUR") == b""
    assert left_lines(b"400000000 - -", 100_000_000, "EUR") == b"x-maas-budget-left: 0.50 EUR\r\n"
    assert left_lines(b"0 12 -", 0, "EUR") == b"x-maas-budget-left: 0.00 EUR\r\nx-maas-credit-left: 0.000000012 EUR\r\n"
    assert left_lines(b"- - 9999", 5, "EUR") == b"x-maas-included-left: 9999\r\n"
