"""Where a request comes from, when there may be proxies in between."""

from collections.abc import Iterable


def client_of(peer: str, headers: Iterable[tuple[bytes, bytes]], proxies: int) -> str:
    """The address of who asks: `peer`, who has connected, or what the outermost of so many trusted proxies has seen.

    Each proxy adds the address it was asked from to the end of X-Forwarded-For (RFC 7239, section 5.2 and 7.1); what stands
    before is whatever the client wrote. A request with fewer entries did not come through all of them: it is its peer's.
    """
    if not proxies:
        return peer
    seen = b",".join(value for name, value in headers if name.lower() == b"x-forwarded-for").decode("latin-1").split(",")
    return seen[-proxies].strip() or peer if len(seen) >= proxies else peer
