"""What is refused when a prediction is created, so that the queue is no way around the limits of calls.

The rate is taken from the same buckets. Quotas, budgets and credit are only looked at: the prediction is charged when it runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import redis

from inference.books import accounts
from inference.gateway import refusals
from inference.gateway.usage import period_of
from inference.holders import HOLDER, holder_key
from inference.predictions.models import Prediction, Status
from saas.lib import clock
from saas.lib.errors import ConcurrencyLimited, Unavailable
from saas.lib.prices import Price
from saas.lib.valkey import Script
from tenants import records
from tenants.principal import KeyRecord

TAKE = Script(HOLDER, Path(__file__).with_name("take.lua"))

MAX_WAITING = 1000  # predictions of one organization that have not started


@contextmanager
def _needing_servers() -> Iterator[None]:
    """Turns an outage into Unavailable."""
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable("The platform cannot take predictions right now; try again soon", retry_after=1) from error


def check_waiting(organization_id: UUID) -> None:
    """Raise ConcurrencyLimited if MAX_WAITING of its predictions wait. Inside a transaction of the organization."""
    waiting = Prediction.objects.of(organization_id).filter(status=Status.STARTING).values("pk")[:MAX_WAITING]
    if len(waiting) == MAX_WAITING:
        raise ConcurrencyLimited(f"{MAX_WAITING} predictions wait already", retry_after=5, source="organization")


@_needing_servers()
def take_token(key: KeyRecord) -> None:
    """Take one request from the limits of the key and its organization. Raises RateLimited, Unavailable."""
    mine, all_ = key.limits, key.organization_limits
    holders = [holder_key(key.id), holder_key(key.shared_holder)]
    refused, wait_ms = TAKE.run_sync(records.client(), holders, [mine.rate, mine.burst, all_.rate, all_.burst])
    if refused:
        raise refusals.rate_limited(key, refused.decode(), wait_ms)


@_needing_servers()
def check_caps(key: KeyRecord, price: Price) -> None:
    """Raise the refusal of the first cap of which nothing is left: QuotaExceeded, BudgetExceeded, …; Unavailable.

    How much the call can cost is not looked at, only whether it costs anything: the books decide when it runs.
    """
    if not key.is_capped:
        return
    period = period_of(clock.now_ms() // 3_600_000)
    costs = price.call_nano or price.row_nano or price.second_nano
    for cap in accounts.caps(key.organization, period, key.id) or ():  # of an account that is being rebuilt nothing is known
        if not cap.left and (costs or not cap.is_money):
            raise refusals.of_books(cap.verdict, b"%d 0" % cap.limit, key.terms.currency, clock.now_ms())
