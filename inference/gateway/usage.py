"""What the books are told of a call: what is known when it opens, and what was measured when it closes."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

from inference.books.open_call import KEEP_SECONDS, OpenCall
from inference.books.record import UsageRecord, pack_opened
from inference.gateway import pricing
from inference.gateway.call import Call

MS_PER_HOUR = 3_600_000
KEEP_PREDICTION = (KEEP_SECONDS[0], 6 * 3600)  # so long the row may take to hear of it


def open_call(call: Call, on_open: Callable[[str, bytes | None], None]) -> OpenCall:
    """The call as the books open it; its record is made once, however often it is opened."""
    if call.record is None:
        call.record = opened(call)
    return OpenCall(
        call=call.id,
        tenant=call.key.organization,
        key=call.key.id,
        period=call.record.period,
        max_nano=call.record.max_nano,
        mode=call.key.mode,
        record=pack_opened(call.record),
        claim=claim_of(call) if call.idempotency_key is not None else None,
        fingerprint=call.fingerprint,
        keep_seconds=KEEP_PREDICTION if call.is_low else KEEP_SECONDS,
        on_open=on_open,
    )


def claim_of(call: Call) -> bytes:
    """The name of an Idempotency-Key among all: a client's must not meet a prediction's, nor a test's a live one."""
    kind = "prediction" if call.is_low else "call"
    return f"{call.key.organization}:{call.key.mode}:{kind}:{call.idempotency_key}".encode()


def opened(call: Call) -> UsageRecord:
    """What is known when the call opens."""
    return UsageRecord(
        call=call.id,
        tenant=call.key.organization,
        key=call.key.id,
        model=call.route.id,
        version=call.version.id,
        model_name=call.route.full_name,
        version_number=call.version.number,
        endpoint=call.endpoint,
        mode=call.key.mode,
        kind="usage",
        period=period_of(call.opened_ms // MS_PER_HOUR),
        price_version=call.price.version,
        rows=call.rows,
        max_nano=call.most_nano,
        opened_ms=call.opened_ms,
        request_id=call.request_id,
    )


def closed(call: Call, now_ms: int) -> UsageRecord:
    """The same, with what was measured and what it costs, never more than when it opened: what the journal gets."""
    record, reply = call.record, call.reply
    assert record is not None
    assert reply is not None
    record.closed_ms = now_ms
    record.bytes_in, record.bytes_out = call.bytes_in, call.bytes_out
    record.queue_us, record.compute_us = reply.queue_us, reply.compute_us
    record.nano = pricing.exact(call.price, call.rows, reply.compute_us)
    call.cost_nano = min(record.nano, record.max_nano)  # the books clamp, and mark it
    return record


@lru_cache(maxsize=8)
def period_of(hour: int) -> str:
    """The month, like 2026-11, of an hour since the epoch: what its calls are summed up by."""
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m")
