"""The root of a Merkle tree (RFC 9162, 2.1.1) over leaves that come one after the other.

What is kept meanwhile grows with the logarithm of their number.
"""

import hashlib


class Tree:
    """Add hashed leaves in order, then ask for the root."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []  # roots of the complete trees that the leaves make up, the largest first

    def add(self, leaf: bytes) -> None:
        self._peaks.append(leaf)
        self.size += 1
        size = self.size
        while size % 2 == 0:
            right = self._peaks.pop()
            self._peaks[-1] = node(self._peaks[-1], right)
            size //= 2

    def root(self) -> bytes:
        """SHA-256 of nothing for a tree without leaves."""
        if not self._peaks:
            return hashlib.sha256(b"").digest()
        found = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            found = node(peak, found)
        return found


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
