"""What the books write down of a call: one `UsageRecord`, from the open entry through the journal to the ledger row."""

import msgspec


class UsageRecord(msgspec.Struct, array_like=True):
    """All that a ledger row needs. Packed as a msgpack array, so new fields go to the end, with a default.

    Ids are 32 hexadecimal digits. Times are milliseconds since the epoch, durations microseconds, amounts billionths of the
    currency unit ("nano"). `kind`: `usage` (answered) or `reversed` (its gateway died; 0). `mode`: `live` or `test`.
    """

    call: str
    tenant: str
    key: str  # id of the API key; "" for a call that a session started
    model: str
    version: str
    model_name: str  # owner/name, as called
    version_number: str
    endpoint: str  # infer, predict, prediction
    mode: str
    kind: str
    period: str  # 2026-11: the month whose sums it raised
    price_version: int
    rows: int
    max_nano: int
    opened_ms: int
    request_id: str
    # known when the call has ended
    closed_ms: int = 0
    nano: int = 0
    is_clamped: bool = False
    bytes_in: int = 0
    bytes_out: int = 0
    queue_us: int = 0
    compute_us: int = 0
    digests: str = ""  # of model, request and answer, if its caller asked for a receipt (statement.py)


pack_record = msgspec.msgpack.Encoder().encode

UNENDED = b"\x00\x00\xc2\x00\x00\x00\x00\xa0"
"""How a packed record ends while its call has not: the fields from `closed_ms` on, as they are by default. Each is one byte."""


def pack_opened(record: UsageRecord) -> bytes:
    """`record` without its end, for the entry of an open call. Raises ValueError if its call has ended."""
    packed = pack_record(record)
    if not packed.endswith(UNENDED):
        raise ValueError("the record of an open call has no end yet")
    return packed[: -len(UNENDED)]


def pack_ended(record: UsageRecord, opened: bytes) -> bytes:
    """Its end, which together with `opened` is the packed record. Raises ValueError if it is not what was opened."""
    packed = pack_record(record)
    if not packed.startswith(opened):
        raise ValueError("the record is not that of the open call")
    return packed[len(opened) :]


unpack_record = msgspec.msgpack.Decoder(UsageRecord).decode
