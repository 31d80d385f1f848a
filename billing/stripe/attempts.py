"""Which Idempotency-Key comes next where Stripe has answered 500 for one: it repeats that answer for a day and more.

The number is written down before a request goes out under it. So who comes later, or at the same time, asks under the same key
again, which Stripe makes one object of, instead of under a new one of their own.
"""

from datetime import timedelta

from django.db import connections

from billing.stripe.models import StripeAttempt
from saas.lib import clock
from tenants.databases import as_operator

KEPT = timedelta(days=7)  # Stripe forgets a key after 24 hours at the earliest
NEXT = """
INSERT INTO stripe_attempt AS a (key, attempt, at) VALUES (%s, %s, %s)
ON CONFLICT (key) DO UPDATE SET attempt = greatest(a.attempt, excluded.attempt), at = excluded.at RETURNING attempt
"""


def following(key: str, failed: int) -> int:
    """The attempt (2, 3, …) to be made since the one numbered `failed` was answered 500. Not inside a transaction."""
    with connections["ops"].cursor() as cursor:
        cursor.execute(NEXT, [key, failed + 1, clock.now()])
        [attempt] = cursor.fetchone() or (failed + 1,)
        return int(attempt)


def forget() -> int:
    """Remove the numbers of keys that Stripe has forgotten; how many."""
    with as_operator():
        return StripeAttempt.objects.filter(at__lt=clock.now() - KEPT).delete()[0]
