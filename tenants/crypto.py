"""Data keys of organizations. The key-encryption keys come from the settings; saas/lib/crypto.py does the work."""

from functools import cache
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils import timezone

from saas.lib.crypto import KeyRing, new_data_key, seal, sealed_under, unseal
from saas.lib.ids import uuid7
from tenants.models import DataKey


@cache
def ring() -> KeyRing:
    """The key-encryption keys of this process. Raises ImproperlyConfigured if KEK is not usable."""
    try:
        return KeyRing.parse(settings.CONFIG.kek.get_secret_value())
    except ValueError as error:
        raise ImproperlyConfigured(f"KEK: {error}") from None


def add_data_key(organization_id: UUID, *, purpose: str = "payload") -> DataKey:
    """Make a new current data key for the organization; an older one is retired and only decrypts from now on.

    Inside a transaction whose tenant is the organization.
    """
    DataKey.objects.of(organization_id).filter(purpose=purpose, retired_at=None).update(retired_at=timezone.now())
    identity = uuid7()
    wrapped = ring().wrap(new_data_key(), tenant=organization_id.hex, data_key_id=identity.hex, purpose=purpose)
    return DataKey.objects.create(
        id=identity, organization_id=organization_id, purpose=purpose, kek_version=ring().current, wrapped=wrapped
    )


def current_data_key(organization_id: UUID) -> tuple[str, bytes]:
    """(id as 32 hexadecimal digits, wrapped key) with which the organization's payloads are encrypted now.

    Goes through a door: the transaction's tenant does not matter. Raises LookupError if there is no such organization.
    """
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT id, wrapped FROM tenants_current_data_key(%s)", [organization_id])
        row = cursor.fetchone()
    if row is None:
        raise LookupError("no current data key")
    return row[0].hex, bytes(row[1])


def data_key(organization_id: UUID, data_key_id: str) -> bytes:
    """The unwrapped data key of that id, to open what an older or the current one sealed.

    Inside a transaction whose tenant is the organization. Raises DataKey.DoesNotExist (it was destroyed) and Tampered.
    """
    row = DataKey.objects.of(organization_id).get(id=UUID(data_key_id))
    return ring().unwrap(bytes(row.wrapped), tenant=organization_id.hex, data_key_id=data_key_id)


def seal_for(organization_id: UUID, plaintext: bytes, *, context: tuple[str, ...]) -> bytes:
    """`plaintext` under the organization's current data key, for the place (table, column, primary key) in `context`."""
    identity, wrapped = current_data_key(organization_id)
    key = ring().unwrap(wrapped, tenant=organization_id.hex, data_key_id=identity)
    return seal(key, identity, plaintext, context=(organization_id.hex, *context))


def unseal_for(organization_id: UUID, sealed: bytes | memoryview, *, context: tuple[str, ...]) -> bytes:
    """What `seal_for` sealed for this organization and place, under its current data key or an older one.

    Inside a transaction whose tenant is the organization. Raises DataKey.DoesNotExist (the key was destroyed) and Tampered.
    """
    sealed = bytes(sealed)
    identity = sealed_under(sealed)
    return unseal(data_key(organization_id, identity), identity, sealed, context=(organization_id.hex, *context))
