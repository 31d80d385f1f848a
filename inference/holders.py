"""What keys and organizations have left of their rates and places, as the lanes server keeps it (inference/holder.lua)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

HOLDER = Path(__file__).with_name("holder.lua")
"""Stands before each script that reads or changes holders."""


def holder_key(id: str) -> str:
    """Of a key, of an organization, or of all test keys of an organization (tenants.principal)."""
    return f"holder:{id}"


def turns_key(version: str, organization: str) -> str:
    """The places of an organization's calls at one version, where several organizations share it. It has no bucket."""
    return f"turns:{version}:{organization}"


@dataclass(frozen=True)
class Holder:
    """`tokens` (None: its bucket is full) as they were at `at`, in seconds since the epoch; `taken` places."""

    tokens: float | None = None
    at: float = 0.0
    taken: int = 0

    @classmethod
    def unpack(cls, stored: bytes | None, now: float) -> "Holder":
        """From what lies on the server; nothing lies there of one that has used nothing lately."""
        if stored is None:
            return cls()
        parts: list[Any] = msgspec.msgpack.decode(stored)
        counts = zip(parts[4::3], parts[5::3], strict=True)
        tokens = None if parts[0] is False else float(parts[0])
        return cls(tokens, parts[1], sum(count for count, till in counts if till > now))

    def left(self, rate: float, burst: int, now: float) -> float:
        """Tokens of its bucket now."""
        if self.tokens is None:
            return float(burst)
        return min(float(burst), self.tokens + max(0.0, now - self.at) * rate)
