"""What may be asked before the lanes admit: look-ups, large bodies, replays, metadata. Counted in this process, without I/O.

An organization may ask for twice as much as its rate limit admits, and so may its test keys together. Keys that nobody has are
counted by address and in all, so that who guesses keys cannot make work of each guess.
"""

import math
import time

from inference.gateway import refusals
from saas.lib.errors import RateLimited, Unavailable
from tenants.principal import KeyRecord

TIMES = 2  # the organization's limit
ADDRESS_RATE, ADDRESS_BURST = 10.0, 100  # unknown keys per second, and at once, from one address
ALL_RATE, ALL_BURST = 100.0, 1000
MAX_BUCKETS = 10_000  # the oldest go first, and are full again


class Buckets:
    """Token buckets by name."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when that was

    def take(self, name: str, rate: float, burst: float) -> float:
        """Take a token: 0. Without one: the seconds until there is one."""
        now = time.monotonic()
        tokens, at = self._buckets.pop(name, (burst, now))
        tokens = min(burst, tokens + (now - at) * rate)
        is_taken = tokens >= 1
        self._buckets[name] = (tokens - is_taken, now)
        if len(self._buckets) > MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]
        return 0.0 if is_taken else (1 - tokens) / rate

    def give_back(self, name: str) -> None:
        """A token that was not used after all."""
        if bucket := self._buckets.get(name):
            self._buckets[name] = (bucket[0] + 1, bucket[1])


class Allowance:
    """Of one process."""

    def __init__(self) -> None:
        self._organizations, self._strangers = Buckets(), Buckets()

    def take(self, key: KeyRecord) -> None:
        """One piece of work for the organization of `key`. Raises RateLimited."""
        limits = key.organization_limits
        wait = self._organizations.take(key.shared_holder, TIMES * limits.rate, max(TIMES, TIMES * limits.burst))
        if wait:
            raise refusals.rate_limited(key, "organization", wait * 1000)

    def take_stranger(self, address: str) -> None:
        """One look-up of a key that was never seen here. Raises RateLimited for the address, Unavailable for all."""
        wait = self._strangers.take(f"address:{address}", ADDRESS_RATE, ADDRESS_BURST)
        if wait:
            raise RateLimited(
                "Too many unknown API keys come from this address", retry_after=math.ceil(wait), source="platform"
            )
        wait = self._strangers.take("all", ALL_RATE, ALL_BURST)
        if wait:
            raise Unavailable("Keys cannot be looked up right now; try again soon", retry_after=math.ceil(wait))

    def give_stranger_back(self, address: str) -> None:
        """The key did exist, or nobody could tell: it counts for nothing."""
        self._strangers.give_back(f"address:{address}")
        self._strangers.give_back("all")
