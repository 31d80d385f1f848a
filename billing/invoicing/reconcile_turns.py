"""Whose usage is compared with Stripe's next: everybody's every hour, spread over it, so that Stripe's limits are not reached.

A comparison asks four times: for the subscription, for Stripe's sum of this month, for its last hours one by one, and for the
sum of the month before. Once a day it asks for every hour, 17 times at most. With 200 organizations a minute, begun at most 4 a
second (billing.tasks), 12,000 are compared in an hour, with about 15 requests a second, 12 of them to one endpoint; Stripe
allows 25 (docs.stripe.com/rate-limits). With more of them it takes longer than an hour.
"""

from datetime import timedelta
from uuid import UUID

from django.db import connections

from billing.invoicing import periods
from billing.models import StripePushed
from saas.lib import clock
from tenants.databases import as_operator

EVERY, WHOLE_EVERY = timedelta(hours=1), timedelta(hours=24)
AGAIN_AFTER = timedelta(minutes=5)  # when Stripe did not answer
MOST = 200  # organizations a minute

# What has changed since is as good as compared an hour earlier.
DUE = """
WITH subscriber AS (
  SELECT DISTINCT tenant_id FROM subscription WHERE stripe_subscription <> '' AND (ended_at IS NULL OR ended_at > %(since)s)
), due AS (
  SELECT s.tenant_id FROM subscriber s LEFT JOIN stripe_pushed p USING (tenant_id)
  WHERE p.compared_at IS NULL OR p.compared_at <= %(before)s
  ORDER BY coalesce(p.compared_at, '-infinity') - CASE WHEN EXISTS (
    SELECT FROM stripe_push u WHERE u.tenant_id = s.tenant_id AND u.accepted_at > p.compared_at
  ) THEN %(every)s::interval ELSE interval '0' END LIMIT %(most)s
)
INSERT INTO stripe_pushed AS p (id, tenant_id, created_at, number, compared_at)
SELECT gen_random_uuid(), tenant_id, %(now)s, 0, %(now)s FROM due
ON CONFLICT (tenant_id) DO UPDATE SET compared_at = excluded.compared_at
  WHERE p.compared_at IS NULL OR p.compared_at <= %(before)s
RETURNING tenant_id
"""


def take(most: int = MOST) -> list[UUID]:
    """Organizations to be compared now, those first that have changed or waited longest; they are nobody else's for an hour."""
    now = clock.now()
    times = {"now": now, "before": now - EVERY, "since": now - periods.LOOKED_BACK}
    with connections["ops"].cursor() as cursor:
        cursor.execute(DUE, {**times, "every": f"{EVERY.total_seconds()} seconds", "most": most})
        return [tenant for (tenant,) in cursor.fetchall()]


def is_whole_due(tenant: UUID) -> bool:
    """Whether each hour is to be compared, since that was not done for a day."""
    with as_operator():
        rows = StripePushed.objects.of(tenant).filter(compared_whole_at__gt=clock.now() - WHOLE_EVERY)
        return not rows.exists()


def done(tenant: UUID, *, is_whole: bool) -> None:
    if is_whole:
        with as_operator():
            StripePushed.objects.of(tenant).update(compared_whole_at=clock.now())


def failed(tenant: UUID) -> None:
    """Its turn comes again soon."""
    with as_operator():
        StripePushed.objects.of(tenant).update(compared_at=clock.now() - EVERY + AGAIN_AFTER)
