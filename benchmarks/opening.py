"""A call as benchmarks give it to the books."""

from collections.abc import Callable

from inference.books.open_call import OpenCall
from inference.books.record import UsageRecord, pack_opened
from saas.lib.ids import uuid7_hex

PERIOD = "2026-11"


def open_call(
    tenant: str, key: str, *, most: int, now_ms: int, on_open: Callable[[str, bytes | None], None]
) -> tuple[OpenCall, UsageRecord]:
    """A call of one row that costs `most` nano at most; its record is completed when it is closed."""
    record = UsageRecord(
        call=uuid7_hex(now_ms), tenant=tenant, key=key, model="d" * 32, version="e" * 32, model_name="catalog/iris",
        version_number="1.0.0", endpoint="infer", mode="live", kind="usage", period=PERIOD, price_version=0, rows=1,
        max_nano=most, opened_ms=now_ms, request_id="r",
    )  # fmt: skip
    return OpenCall(record.call, tenant, key, PERIOD, most, "live", pack_opened(record), on_open), record
