"""Calls of an organization with a price of its own, as they come to be on a bill."""

from tests.billing.journal import usage

HOUR = 3_600_000


def record(organization, price, at_ms, *, rows=1, compute_us=100, nano=None, **given):
    due = 1000 + rows * 10 + -(-compute_us * 7_000_000 // 10**6)
    return usage(
        organization.id, opened_ms=at_ms, closed_ms=at_ms + 5, rows=rows, compute_us=compute_us, model=price.model_id.hex,
        price_version=price.version, nano=due if nano is None else nano, max_nano=10**9, **given,
    )  # fmt: skip
