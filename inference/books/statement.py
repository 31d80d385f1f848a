"""What a bill, a receipt and a seal say of one call: the same bytes, wherever they are made.

The statement is JSON with sorted keys, without spaces, in ASCII; its leaf in a seal's tree is SHA-256 of a zero byte and the
statement (RFC 9162, 2.1.1). Its numbers are integers: amounts in billionths of the currency unit, times in milliseconds since
the epoch. Its texts are ids of 32 hexadecimal digits and words of our own, so nothing in them is ever escaped.
"""

import hashlib

NO_KEY = "0" * 32
"""Stands for the key of a call that a session started."""


def statement(
    *,
    call: str,
    tenant: str,
    key: str,
    model: str,
    version: str,
    mode: str,
    kind: str,
    price_version: int,
    currency: str,
    rows: int,
    compute_us: int,
    amount_nano: int,
    opened_ms: int,
    closed_ms: int,
    digests: str,
    is_clamped: bool,
) -> bytes:
    """`digests`: SHA-256 of model, request body and answer body, in hexadecimal with colons; empty without a receipt.

    `is_clamped`: the price of what was measured is more than the call was charged when it opened, and that stays.
    """
    clamped = "true" if is_clamped else "false"
    return (
        f'{{"amount_nano":{amount_nano},"call":"{call}","closed_ms":{closed_ms},"compute_us":{compute_us},'
        f'"currency":"{currency}","digests":"{digests}","is_clamped":{clamped},"key":"{key or NO_KEY}","kind":"{kind}",'
        f'"mode":"{mode}","model":"{model}","opened_ms":{opened_ms},"price_version":{price_version},"rows":{rows},"tenant":"{tenant}",'
        f'"version":"{version}"}}'
    ).encode("ascii")


def leaf(stated: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + stated).digest()
