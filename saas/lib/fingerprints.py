"""What an Idempotency-Key stands for: method, path and body, and the headers that decide what the body means."""

import hashlib

READ_AS_JSON = frozenset({"", "application/json", "application/octet-stream", "application/x-www-form-urlencoded"})
"""Kinds of Content-Type that say nothing of a body: it is read as JSON. curl -d says urlencoded."""


def kind_of(content_type: str) -> str:
    """`text/plain` of `Text/Plain; charset=utf-8`."""
    return content_type.partition(";")[0].strip().lower()


def fingerprint(
    method: bytes, url: bytes, body: bytes, *, content_type: bytes = b"", head_length: bytes | None = None
) -> bytes:
    """SHA-256 of the request. `head_length` is Inference-Header-Content-Length, None if it was not given.

    Where neither header says anything it is that of method, path and body alone, as it always was: those that are stored stay
    good. With one it begins with what no method is, so that no body can pass for the other's.
    """
    parts = [method, url, body]
    if head_length is not None or kind_of(content_type.decode("latin-1")) not in READ_AS_JSON:
        parts = [b"with", content_type, b"-" if head_length is None else head_length, *parts]
    return hashlib.sha256(b"\n".join(parts)).digest()
