"""Receipts: what an answer cost and for what, signed, in the answer's header `X-Maas-Receipt`.

Only a call that asks for one (`X-Maas-Receipt: 1`) has its bodies hashed. The record of such a call carries the hashes into the
ledger, so the receipt is the statement from which the call's leaf in a seal is made, byte for byte.
"""

import base64
import hashlib

from inference.books.record import UsageRecord
from inference.books.statement import statement
from inference.gateway.call import Call, Rendered
from saas.lib.errors import InvalidRequest
from saas.lib.signing import signing_keys

HEADER = b"x-maas-receipt"
PURPOSE = b"receipt"


def is_asked(given: bytes | None) -> bool:
    """Raises InvalidRequest for another value than 0 and 1."""
    if given is None:
        return False
    if given not in (b"0", b"1"):
        raise InvalidRequest("X-Maas-Receipt must be 1, or left out")
    return given == b"1"


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def attach(call: Call, record: UsageRecord, answer: Rendered) -> Rendered:
    """`answer` with the receipt of its call; `record`, as it goes to the journal, gets the digests."""
    record.digests = f"{call.version.digest}:{call.input_digest}:{call.output_digest}"
    receipt = signed(statement_of(record, currency=call.price.currency))
    return Rendered(answer.status, [*answer.headers, (HEADER, receipt)], answer.body)


def statement_of(record: UsageRecord, *, currency: str) -> bytes:
    """What the ledger will say of the call."""
    return statement(
        call=record.call,
        tenant=record.tenant,
        key=record.key,
        model=record.model,
        version=record.version,
        mode=record.mode,
        kind=record.kind,
        price_version=record.price_version,
        currency=currency,
        rows=record.rows,
        compute_us=record.compute_us,
        amount_nano=min(record.nano, record.max_nano),  # as the books clamp it
        opened_ms=record.opened_ms,
        closed_ms=record.closed_ms,
        digests=record.digests,
        is_clamped=record.is_clamped or record.nano > record.max_nano,
    )


def signed(stated: bytes) -> bytes:
    """Version of the key, statement and signature, with dots between; the latter two in base64url without padding."""
    keys = signing_keys()
    return b".".join((str(keys.current).encode(), _base64(stated), _base64(keys.sign(PURPOSE, stated))))


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
