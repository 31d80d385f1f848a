"""From a complete request to the call that it asks for, checked against the version's signature."""

import zlib
from collections.abc import Callable
from urllib.parse import parse_qsl

from inference.gateway import friendly, headers, quotes, receipts, v2
from inference.gateway.call import Call, Rendered
from inference.gateway.exchange import Exchange
from inference.gateway.targets import Target
from inference.gateway.weight import LIGHT
from inference.routes import ModelRoute, VersionRoute
from saas.lib import errors, fingerprints
from saas.lib.errors import AppError

MAX_MEMBERS = 256  # of a gzip body; what follows is copied for each


def read_call(
    exchange: Exchange,
    route: ModelRoute,
    timeout_default: float,
    timeout_max: float,
    done: Callable[[Call, Rendered | AppError], None],
) -> Call:
    """The call. Raises what a dialect raises. A large body is read in a thread: nothing here touches the loop."""
    found, target = exchange.headers, exchange.target
    exchange.route = route
    exchange.version = version = callable_version(route, target)
    timeout = headers.timeout(found.get(b"x-request-timeout"), timeout_default, timeout_max)
    idempotency_key = headers.idempotency_key(found.get(b"idempotency-key"))
    wants_receipt = receipts.is_asked(found.get(receipts.HEADER))
    named = found.get(b"x-maas-quote")
    ask: v2.Infer | friendly.Predict
    if target.kind == "infer":
        ask = v2.read_infer(exchange.body, found.get(b"inference-header-content-length"), version)
        top, is_ranked = 0, bool(ask.classes)
    else:
        content_type = found.get(b"content-type", b"").decode("latin-1")
        ask = friendly.read_predict(exchange.body, content_type, top_in(exchange.url), route, version)
        top, is_ranked = ask.top or 1, bool(version.labels)
    assert exchange.key is not None
    exchange.ask = ask
    return Call(
        key=exchange.key,
        route=route,
        version=version,
        endpoint=target.kind,
        rows=ask.rows,
        render=exchange.render,
        done=done,
        inputs=ask.inputs,
        items=ask.items,
        prepare_us=ask.prepare_us if isinstance(ask, friendly.Predict) else 0.0,
        outputs=ask.outputs,
        top=top,
        is_ranked=is_ranked,
        bytes_in=len(exchange.body),
        timeout=timeout,
        request_id=exchange.request_id,
        idempotency_key=idempotency_key,
        fingerprint=fingerprint(exchange) if idempotency_key is not None else b"",
        input_digest=receipts.digest(exchange.body) if wants_receipt else "",
        quote=quotes.read(named) if named is not None else None,
    )


def known_version(route: ModelRoute, target: Target) -> VersionRoute:
    """The version that the path names. Raises NotFound."""
    version = route.version(target.version)
    if version is None:
        if target.version is None:
            raise errors.NotFound(f"{route.full_name} has no version in production yet")
        raise errors.NotFound(f"{route.full_name} has no version or alias {target.version[:100]}")
    return version


def callable_version(route: ModelRoute, target: Target) -> VersionRoute:
    """The same, if it can be called. Raises NotFound, StateConflict."""
    version = known_version(route, target)
    if version.state != "ready":
        raise errors.StateConflict(f"Version {version.number} of {route.full_name} is {version.state}, not ready")
    return version


def is_large(exchange: Exchange, route: ModelRoute) -> bool:
    """Whether reading the body takes so long that the loop must not wait for it. Binary numbers are not read, only cut."""
    size = len(exchange.body)
    if size <= LIGHT:
        return False
    head = exchange.headers.get(b"inference-header-content-length", b"")
    if exchange.target.kind != "infer" or not head.isdigit() or len(head) > 9 or int(head) > LIGHT:
        return True
    version = route.version(exchange.target.version)
    is_read = version is not None and any(spec.datatype in ("BYTES", "BOOL") for spec in version.inputs)
    hashed = b"idempotency-key" in exchange.headers or receipts.HEADER in exchange.headers  # the whole body is
    return is_read or hashed


def fingerprint(exchange: Exchange) -> bytes:
    """What an Idempotency-Key stands for."""
    found = exchange.headers
    return fingerprints.fingerprint(
        exchange.method,
        exchange.url,
        exchange.body,
        content_type=found.get(b"content-type", b""),
        head_length=found.get(b"inference-header-content-length"),
    )


def top_in(url: bytes) -> str | None:
    """The query parameter `top`; a form without JSON has no other place for it."""
    if b"?" not in url:
        return None
    return dict(parse_qsl(url.partition(b"?")[2].decode("latin-1"))).get("top")


def expand(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body without its Content-Encoding, at most `limit` bytes. Raises PayloadTooLarge, InvalidRequest.

    gzip may come in several members, one after the other (RFC 1952, section 2.2), as some tools write it.
    """
    name = encoding.strip().lower()
    if name == b"identity":
        return body
    if name not in (b"gzip", b"deflate"):
        raise errors.UnsupportedMediaType("Content-Encoding must be gzip, deflate or identity")
    parts: list[bytes] = []
    size, rest = 0, body
    while rest or not parts:
        if len(parts) == (MAX_MEMBERS if name == b"gzip" else 1):
            raise errors.InvalidRequest(f"Something follows the {name.decode()} body, which has {len(parts)} part(s) at most")
        expander = zlib.decompressobj(31 if name == b"gzip" else 15)
        try:
            parts.append(expander.decompress(rest, limit - size + 1))
        except zlib.error:
            raise errors.InvalidRequest(f"The body is not valid {name.decode()}") from None
        size += len(parts[-1])
        if size > limit:
            raise errors.PayloadTooLarge(f"The expanded body is larger than {limit} bytes")
        if not expander.eof:
            raise errors.InvalidRequest(f"The {name.decode()} body is truncated")
        rest = expander.unused_data
    return b"".join(parts)
