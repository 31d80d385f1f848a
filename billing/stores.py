"""This process's clients of the two Valkeys, for pages and endpoints."""

from functools import cache

import redis
from django.conf import settings

from saas.lib.valkey import sync_client


@cache
def state() -> "redis.Redis":
    return sync_client(settings.CONFIG.state_url, timeout=2.0)


@cache
def lanes() -> "redis.Redis":
    return sync_client(settings.CONFIG.lanes_url, timeout=2.0)
