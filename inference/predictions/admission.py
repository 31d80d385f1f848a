"""The rate limits of creating predictions: the same buckets as for calls, so that the queue is no way around them."""

import math
from functools import cache
from pathlib import Path

import redis
from django.conf import settings

from saas.lib.errors import RateLimited, Unavailable
from saas.lib.valkey import Script, sync_client
from tenants.principal import KeyRecord

TAKE = Script(Path(__file__).with_name("take.lua"))


@cache
def lanes() -> "redis.Redis":
    """The lanes server, for this process."""
    return sync_client(settings.CONFIG.lanes_url, timeout=2.0)


def admit(key: KeyRecord) -> None:
    """Take one request from the limits of the key and its organization. Raises RateLimited, Unavailable."""
    mine, all_ = key.limits, key.organization_limits
    try:
        refused, wait_ms = TAKE.run_sync(
            lanes(), [f"bucket:{key.id}", f"bucket:{key.organization}"], [mine.rate, mine.burst, all_.rate, all_.burst]
        )
    except redis.RedisError as error:
        raise Unavailable("The platform cannot take predictions right now; try again soon", retry_after=1) from error
    if refused:
        source = refused.decode()
        limits = mine if source == "key" else all_
        wait = max(1, math.ceil(wait_ms / 1000))
        raise RateLimited(f"The {source}'s limit is {limits.rate:g} requests per second", retry_after=wait, source=source)
