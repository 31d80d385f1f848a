"""The platform's clock: real time, plus what a local stand-in of Stripe has put it forward by.

Months must pass in seconds to see them billed. So in a local service (CLOCK_MOVABLE, which `make run` sets while there are no
real keys of Stripe) the clock may be put forward, never back: by one number on the state server, which every script of the
books reads too. It moves what is billed by: when calls open and close, the journal's ids, months, billing's jobs. It moves no
deadline, no heartbeat, no rate limit, and nothing that expires: keys, sessions, stored answers.

Anywhere else the offset is 0, nothing is asked, and `check_unmoved` refuses a state server whose clock was moved.
"""

import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import redis
from django.conf import settings

from saas.lib.valkey import sync_client

OFFSET = "clock:offset"
"""On the state server: milliseconds, an integer, never lowered; not there while the clock was never moved."""
LOOK_EVERY = 0.5  # seconds that a process believes what it has read; gateways follow with their heartbeat, as often
LONGEST = timedelta(days=366)  # ahead of real time: the ledger has no partitions further ahead

_RAISE = """
local old, new = tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1])
if new > old then redis.call('SET', KEYS[1], string.format('%.0f', new)) end
return math.max(old, new)
"""


class ClockFixed(RuntimeError):
    """The clock cannot be moved here, or not so; the message says why."""


class _Seen:
    """What this process has read last."""

    def __init__(self) -> None:
        self.lock, self.offset_ms, self.at = threading.Lock(), 0, float("-inf")


_seen = _Seen()


def now() -> datetime:
    return datetime.fromtimestamp(now_ms() / 1000, UTC)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000 + offset_ms()


def offset_ms() -> int:
    """How far the clock is ahead of real time, in milliseconds. With the state server away: as it was when last seen."""
    if not settings.CONFIG.clock_movable:
        return 0
    with _seen.lock:
        if time.monotonic() - _seen.at >= LOOK_EVERY:
            with suppress(redis.RedisError):  # whoever asks needs the time more than the last half second of it
                _seen.offset_ms = _read()
            _seen.at = time.monotonic()
        return _seen.offset_ms


def advance(to: datetime) -> datetime:
    """Put the clock forward to `to`, for all processes: this one at once, the others within a second. Returns the time then.

    A time that is past already changes nothing. Raises ClockFixed, redis.RedisError.
    """
    if not settings.CONFIG.clock_movable:
        raise ClockFixed("the clock moves only in a local service with the stand-in of Stripe (CLOCK_MOVABLE)")
    ahead = to - datetime.now(UTC)
    if ahead > LONGEST:
        raise ClockFixed(f"the clock can be at most {LONGEST.days} days ahead of real time")
    raised = raise_offset(_client(), max(0, -(-ahead // timedelta(milliseconds=1))))
    with _seen.lock:
        _seen.offset_ms, _seen.at = raised, time.monotonic()
    return now()


def raise_offset(state: redis.Redis, milliseconds: int) -> int:
    """Put the clock of `state` so far ahead of real time, unless it is further already; how far it is then.

    The act without the checks of `advance`, for a process that knows no settings.
    """
    return int(state.eval(_RAISE, 1, OFFSET, str(milliseconds)))


def check_unmoved() -> None:
    """Raise ClockFixed if the state server's clock was moved and this service must not move it: its journal lies ahead."""
    if not settings.CONFIG.clock_movable and _read():
        raise ClockFixed(
            "the clock of this state server was put forward by a stand-in of Stripe: it cannot serve with CLOCK_MOVABLE off; "
            "use another STATE_URL and database"
        )


def _read() -> int:
    return int(_client().get(OFFSET) or 0)


@lru_cache(maxsize=1)
def _client() -> redis.Redis:
    return sync_client(settings.CONFIG.state_url, timeout=1.0)
