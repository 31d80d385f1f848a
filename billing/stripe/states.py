"""The one place that decides an account's state, from what Stripe says and from how long something has been unpaid.

| state | entered by | what calls meet |
|---|---|---|
| trialing, active | Stripe's own states; no subscription at Stripe | served |
| past_due | an invoice's payment was refused | served; owners get mail |
| grace | unpaid for GRACE_AFTER | served, at a quarter of the limits |
| suspended | unpaid for SUSPENDED_AFTER, or Stripe says `unpaid` or `paused`, or an invoice is a bad debt | 402; data is kept |
| closed | the subscription ended with something unpaid | 402; what is there can be read |

A subscription that ended with everything paid closes nothing: the organization is on Free again. Paying what is open leads back
to active from every state; so does voiding it. What its owners then may do is decided in tenants.standing.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from billing.sale.models import State

GRACE_AFTER = timedelta(days=3)
SUSPENDED_AFTER = timedelta(days=14)
RUNNING = ("trialing", "active", "past_due", "unpaid", "paused")
ENDED = ("canceled", "incomplete_expired")
"""What Stripe calls a subscription that runs, and one that has ended."""


@dataclass(frozen=True)
class Facts:
    """`status` is that of the newest subscription at Stripe, "" for none; `unpaid_since`: when the oldest invoice whose payment
    was refused, and that is still open, was made. `is_written_off`: an invoice is `uncollectible`, a bad debt: nobody tries to
    collect it any more, and it is unpaid until it is paid or voided (docs.stripe.com/invoicing/overview).
    """

    status: str = ""
    unpaid_since: datetime | None = None
    is_written_off: bool = False


def state_of(facts: Facts, now: datetime) -> State:
    """What the account is at `now`. A function of its arguments alone, so that timers decide as webhooks do."""
    if facts.status in ("unpaid", "paused"):
        return State.SUSPENDED
    if facts.unpaid_since is None:
        return State.TRIALING if facts.status == "trialing" else State.ACTIVE
    if facts.status in ENDED:
        return State.CLOSED
    unpaid = now - facts.unpaid_since
    if facts.is_written_off or unpaid >= SUSPENDED_AFTER:
        return State.SUSPENDED
    return State.GRACE if unpaid >= GRACE_AFTER else State.PAST_DUE
