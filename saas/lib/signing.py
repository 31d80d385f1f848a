"""Ed25519 signatures (RFC 8032) under versioned keys: the highest version signs, all verify.

What is signed begins with a word for its purpose, so that no signature of one kind of statement fits another.
"""

import base64
import binascii
from functools import cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from django.conf import settings

from saas.lib.crypto import parse_versions

SEED_BYTES = 32


class SigningKeys:
    """Private keys by version, made from their 32-byte seeds."""

    def __init__(self, seeds: dict[int, bytes]) -> None:
        """Raises ValueError for a seed of another size, or none at all."""
        if not seeds or any(len(seed) != SEED_BYTES for seed in seeds.values()):
            raise ValueError(f"each signing key has {SEED_BYTES} bytes, and there is at least one")
        self._keys = {version: Ed25519PrivateKey.from_private_bytes(seed) for version, seed in seeds.items()}
        self.current = max(seeds)

    @classmethod
    def parse(cls, text: str) -> "SigningKeys":
        """The keys in `1:BASE64,2:BASE64`. Raises ValueError, without quoting a secret."""
        try:
            return cls({version: base64.b64decode(seed, validate=True) for version, seed in parse_versions(text).items()})
        except binascii.Error:
            raise ValueError("a key is not base64") from None

    def sign(self, purpose: bytes, statement: bytes) -> bytes:
        """64 bytes, by the current key."""
        return self._keys[self.current].sign(purpose + b"\n" + statement)

    def public(self) -> dict[int, bytes]:
        """The public keys, 32 bytes each, by version."""
        return {version: key.public_key().public_bytes_raw() for version, key in sorted(self._keys.items())}


def is_signed(public: bytes, purpose: bytes, statement: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of the key with these 32 public bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, purpose + b"\n" + statement)
    except InvalidSignature:
        return False
    return True


@cache
def signing_keys() -> SigningKeys:
    """The keys of this process (SIGNING_KEYS)."""
    return SigningKeys.parse(settings.CONFIG.signing_keys.get_secret_value())
