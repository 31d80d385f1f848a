"""Encryption at rest: data keys wrapped by key-encryption keys, and single values sealed under a data key.

AES-256-GCM throughout (NIST SP 800-38D). Each data key (DEK) belongs to one tenant; a `KeyRing` holds the key-encryption keys
(KEK), by version, given to it from outside. A value is bound to its place by additional authenticated data, so that a
ciphertext moved to another row, column or tenant does not open.

Nonces are 96 random bits, not a counter. Several gateways and workers seal under one data key at the same time, and a database
may be restored from a backup: a counter would need one place to agree on and would repeat after a restore. With random nonces
the bound is 2^32 messages per key (SP 800-38D, section 8.3); data keys are rotated by age long before that.
"""

import base64
import binascii
import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_FIELD_HEAD = b"\x01\x01"  # format 1, algorithm 1: AES-256-GCM
_WRAP_HEAD = b"\x01\x02"  # format 1, algorithm 1, as a wrapped key


class Tampered(Exception):
    """A ciphertext does not open here: changed, cut, moved to another place, or under another key. Never go on."""


def parse_versions(text: str) -> dict[int, str]:
    """`1:first,2:second` as {1: "first", 2: "second"}. Raises ValueError, without quoting a secret, for any other form."""
    versions: dict[int, str] = {}
    for position, part in enumerate(text.split(","), 1):
        number, colon, value = part.strip().partition(":")
        if not (colon and value and number.isascii() and number.isdigit() and 0 < int(number) < 2**31):
            raise ValueError(f"entry {position} is not of the form VERSION:SECRET")
        if int(number) in versions:
            raise ValueError(f"version {number} appears twice")
        versions[int(number)] = value
    return versions


def lengths_and_parts(*parts: bytes) -> bytes:
    """Each part behind its length in 4 bytes, so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class KeyRing:
    """Key-encryption keys by version; the highest wraps new data keys, all unwrap."""

    def __init__(self, keys: dict[int, bytes]) -> None:
        """`keys`: 32 bytes each, by version from 1. Raises ValueError for another size or none at all."""
        if not keys or any(len(key) != KEY_BYTES for key in keys.values()):
            raise ValueError(f"each key-encryption key has {KEY_BYTES} bytes, and there is at least one")
        self._ciphers = {version: AESGCM(key) for version, key in keys.items()}
        self.current = max(keys)

    @classmethod
    def parse(cls, text: str) -> "KeyRing":
        """The ring in `1:BASE64,2:BASE64`. Raises ValueError, without quoting a secret."""
        try:
            return cls({version: base64.b64decode(key, validate=True) for version, key in parse_versions(text).items()})
        except binascii.Error:
            raise ValueError("a key is not base64") from None

    def wrap(self, data_key: bytes, *, tenant: str, data_key_id: str, purpose: str = "payload") -> bytes:
        """The wrapped form of `data_key`, for the tenant and id (32 hexadecimal digits each) that it belongs to.

        Head (format, KEK version, tenant, id, purpose), nonce, ciphertext with tag; the head is authenticated.
        """
        place = bytes.fromhex(tenant) + bytes.fromhex(data_key_id)
        head = _WRAP_HEAD + self.current.to_bytes(4, "big") + place + len(purpose).to_bytes(1, "big") + purpose.encode("ascii")
        nonce = os.urandom(_NONCE_BYTES)
        return head + nonce + self._ciphers[self.current].encrypt(nonce, data_key, head)

    def unwrap(self, wrapped: bytes, *, tenant: str | None = None, data_key_id: str | None = None) -> bytes:
        """The data key. With `tenant` and `data_key_id` it must also belong to them.

        Raises Tampered for anything that `wrap` did not make with a key of this ring.
        """
        head_bytes = len(_WRAP_HEAD) + 4 + 32 + 1
        head_bytes += wrapped[head_bytes - 1] if len(wrapped) >= head_bytes else 0
        if not wrapped.startswith(_WRAP_HEAD) or len(wrapped) < head_bytes + _NONCE_BYTES + KEY_BYTES + _TAG_BYTES:
            raise Tampered("not a wrapped data key")
        head, nonce, body = (
            wrapped[:head_bytes],
            wrapped[head_bytes : head_bytes + _NONCE_BYTES],
            wrapped[head_bytes + _NONCE_BYTES :],
        )
        if (tenant is not None and head[6:22].hex() != tenant) or (
            data_key_id is not None and head[22:38].hex() != data_key_id
        ):
            raise Tampered("the data key belongs to another place")
        cipher = self._ciphers.get(kek_version(wrapped))
        if cipher is None:
            raise Tampered("the data key was wrapped by a key-encryption key that is not here")
        try:
            return cipher.decrypt(nonce, body, head)
        except InvalidTag:
            raise Tampered("the wrapped data key does not open") from None


def kek_version(wrapped: bytes) -> int:
    """Which key-encryption key wrapped it, as its head says."""
    return int.from_bytes(wrapped[2:6], "big")


def new_data_key() -> bytes:
    return AESGCM.generate_key(KEY_BYTES * 8)


@lru_cache(maxsize=1024)
def _cipher(data_key: bytes) -> AESGCM:
    return AESGCM(data_key)


def seal(data_key: bytes, data_key_id: str, plaintext: bytes, *, context: tuple[str, ...]) -> bytes:
    """`plaintext` encrypted for one place: format, algorithm, data key id, nonce, ciphertext, tag.

    `context` names the place, at least the tenant first: (tenant, table, column, primary key). It opens only there.
    """
    identity = bytes.fromhex(data_key_id)
    nonce = os.urandom(_NONCE_BYTES)
    return _FIELD_HEAD + identity + nonce + _cipher(data_key).encrypt(nonce, plaintext, _field_data(identity, context))


def unseal(data_key: bytes, data_key_id: str, sealed: bytes, *, context: tuple[str, ...]) -> bytes:
    """What was sealed under this key for this place. Raises Tampered, and never returns anything else."""
    identity = bytes.fromhex(data_key_id)
    head = _FIELD_HEAD + identity
    if not sealed.startswith(head) or len(sealed) < len(head) + _NONCE_BYTES + _TAG_BYTES:
        raise Tampered("not a value sealed under this data key")
    nonce, body = sealed[len(head) : len(head) + _NONCE_BYTES], sealed[len(head) + _NONCE_BYTES :]
    try:
        return _cipher(data_key).decrypt(nonce, body, _field_data(identity, context))
    except InvalidTag:
        raise Tampered("the sealed value does not open") from None


def sealed_under(sealed: bytes) -> str:
    """The id of the data key that a sealed value names, 32 hexadecimal digits. Raises Tampered if it names none."""
    if not sealed.startswith(_FIELD_HEAD) or len(sealed) < len(_FIELD_HEAD) + 16:
        raise Tampered("not a sealed value")
    return sealed[2:18].hex()


def _field_data(identity: bytes, context: tuple[str, ...]) -> bytes:
    return lengths_and_parts(_FIELD_HEAD, *(part.encode() for part in context), identity)
