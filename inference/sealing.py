"""Payloads at rest: sealed with their organization's data key, bound to the place where they lie."""

from functools import lru_cache
from uuid import UUID

from saas.lib.crypto import seal, sealed_under, unseal
from tenants.crypto import current_data_key, data_key, ring


@lru_cache(maxsize=4096)
def unwrapped(wrapped: bytes) -> bytes:
    """The data key behind its wrapped form. Raises Tampered."""
    return ring().unwrap(wrapped)


def seal_for(organization_id: UUID, plaintext: bytes, *, context: tuple[str, ...]) -> bytes:
    """`plaintext` sealed under the organization's current data key, for the place that `context` names."""
    identity, wrapped = current_data_key(organization_id)
    return seal(unwrapped(wrapped), identity, plaintext, context=(organization_id.hex, *context))


def unseal_for(organization_id: UUID, sealed: bytes | memoryview, *, context: tuple[str, ...]) -> bytes:
    """What was sealed for that place. Inside a transaction of the organization. Raises Tampered, DataKey.DoesNotExist."""
    sealed = bytes(sealed)
    identity = sealed_under(sealed)
    return unseal(data_key(organization_id, identity), identity, sealed, context=(organization_id.hex, *context))
