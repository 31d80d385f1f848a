"""The head of a hot request that its connection has sent before, byte for byte: it need not be parsed or proved again.

Clients on a kept-alive connection mostly repeat their heads. Of the same bytes at the same place the parser would make the same
request, and the same HMAC would prove the same key; what may have changed meanwhile (the key's record, its expiry, the model,
every limit) is looked up for each call as ever.
"""

from inference.gateway.headers import Headers
from inference.gateway.targets import Target
from tenants.principal import KeyRecord

MAX_BYTES = 2048  # of a head that is remembered
MAX_MISSES = 8  # heads that were remembered for nothing, after which a connection remembers none
END = b"\r\n\r\n"


class Head:
    """`raw` are its bytes, `size` those of the whole request; `key` is the record that it was proved against last."""

    __slots__ = ("found", "key", "method", "raw", "sent", "size", "target", "url")

    def __init__(self, raw: bytes, size: int, method: bytes, url: bytes, target: Target, sent: Headers) -> None:
        self.raw, self.size, self.method, self.url, self.target, self.sent = raw, size, method, url, target, sent
        self.found = dict(sent)
        self.key: KeyRecord | None = None

    def starts(self, data: bytes) -> bool:
        """Whether `data` is one whole request with this head."""
        return len(data) == self.size and data.startswith(self.raw)


def raw_head(data: bytes, length: int) -> bytes | None:
    """The head of `data`, if that is one whole request with a body of `length` bytes and worth remembering."""
    size = len(data) - length
    if length < 0 or size > MAX_BYTES or data.find(END) != size - len(END):
        return None
    return data[:size]
