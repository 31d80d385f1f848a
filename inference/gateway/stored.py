"""Answers kept for an Idempotency-Key: sealed into the books, or, if too large for them, into a table they point to."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from uuid import UUID

from django.db import close_old_connections, connection
from django.utils import timezone

from inference import caps
from inference.gateway.call import Call
from inference.predictions.models import StoredAnswer
from saas.lib.crypto import seal
from saas.lib.errors import Unavailable
from tenants.crypto import ring, unseal_for
from tenants.principal import KeyRecord
from tenants.scope import tenant_scope

MAX_IN_BOOKS = 1 << 20  # bytes (books.md, stored answers)
KEPT = timedelta(hours=48)
ROW = b"row:"  # a sealed value never starts so: its first byte is the format's number


class Answers:
    """The gateway's AnswerStore. A key's record brings the organization's wrapped data key, so small answers need no I/O."""

    def is_slow(self, size: int) -> bool:
        return size > MAX_IN_BOOKS - 256

    def is_apart(self, stored: bytes) -> bool:
        return stored.startswith(ROW)

    def seal(self, call: Call, packed: bytes) -> bytes:
        """What the books keep: the sealed answer, or where its row is. Raises LimitReached, Unavailable."""
        sealed = seal(_data_key(call.key), call.key.data_key_id, packed, context=_place(call))
        if not self.is_slow(len(packed)):
            return sealed
        organization = UUID(hex=call.key.organization)
        with _brief_connection(), tenant_scope(organization):
            caps.lock_for_data(organization, len(sealed))
            StoredAnswer.objects.create(
                id=UUID(hex=call.id), organization_id=organization, sealed=sealed, expires_at=timezone.now() + KEPT
            )
        return ROW + bytes.fromhex(call.id)

    def unseal(self, call: Call, stored: bytes) -> bytes:
        """The packed answer that an earlier call with this key stored. Raises Unavailable if its row is gone."""
        organization = UUID(hex=call.key.organization)
        if not self.is_apart(stored):
            close_old_connections()
            with tenant_scope(organization):
                return unseal_for(organization, stored, context=_place(call)[1:])
        with _brief_connection(), tenant_scope(organization):
            row = StoredAnswer.objects.of(organization).filter(id=UUID(bytes=stored[len(ROW) :])).first()
            if row is None:
                raise Unavailable("The stored answer is gone")
            return unseal_for(organization, bytes(row.sealed), context=_place(call)[1:])


@contextmanager
def _brief_connection() -> Iterator[None]:
    """This thread's connection, closed in the end: one keeps buffers for the largest value that ever passed through it."""
    close_old_connections()
    try:
        yield
    finally:
        if not connection.in_atomic_block:
            connection.close()


def _place(call: Call) -> tuple[str, ...]:
    return (call.key.organization, "answer", call.idempotency_key or "")


def _data_key(key: KeyRecord) -> bytes:
    return _unwrapped(key.data_key, key.organization, key.data_key_id)


@lru_cache(maxsize=4096)
def _unwrapped(wrapped: bytes, organization: str, data_key_id: str) -> bytes:
    """The data key, which must be that organization's own. Raises Tampered."""
    return ring().unwrap(wrapped, tenant=organization, data_key_id=data_key_id)
