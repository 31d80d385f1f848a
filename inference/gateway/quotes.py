"""Quotes: a price promised to an organization for a model until a time, signed, so that gateways need to ask nobody."""

import base64
import binascii
import hashlib
import hmac
from functools import cache, lru_cache

import msgspec
from django.conf import settings

from saas.lib.errors import QuoteInvalid
from saas.lib.prices import Price

MAX_BYTES = 1000
_MAC_BYTES = 32


class Quote(msgspec.Struct, array_like=True, frozen=True):
    """Calls of `organization` to `model` that name it and open before `expires_ms` are charged by `price`."""

    id: str
    organization: str  # 32 hexadecimal digits, as the model's
    model: str
    price: Price
    expires_ms: int  # milliseconds since the epoch


_pack, _unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Quote).decode


@cache
def _key() -> bytes:
    """A key for nothing but quotes, the same in all processes of the service."""
    return hmac.digest(settings.SECRET_KEY.encode(), b"quotes, version 1", hashlib.sha256)


def sign(quote: Quote) -> str:
    """The quote as its holder names it in `X-Maas-Quote`: readable by anybody, made by nobody else."""
    packed = _pack(quote)
    return base64.urlsafe_b64encode(hmac.digest(_key(), packed, hashlib.sha256) + packed).rstrip(b"=").decode()


@lru_cache(maxsize=1024)
def read(text: bytes) -> Quote:
    """The quote behind what a call names, whether it has expired or not. Raises QuoteInvalid."""
    try:
        if len(text) > MAX_BYTES:
            raise QuoteInvalid("The quote is too long to be one")
        signed = base64.b64decode(text + b"=" * (-len(text) % 4), b"-_", validate=True)
        mac, packed = signed[:_MAC_BYTES], signed[_MAC_BYTES:]
        if hmac.compare_digest(mac, hmac.digest(_key(), packed, hashlib.sha256)):
            return _unpack(packed)
    except (binascii.Error, msgspec.MsgspecError):
        pass  # as if its signature were wrong
    raise QuoteInvalid("The quote is not one of this service, or was altered; ask for one with POST /api/v1/quote")
