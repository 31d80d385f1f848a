"""What an organization's state means for its calls and for what it may change. This is the one place that decides it.

| state | calls | changes |
|---|---|---|
| trialing, active | served | allowed |
| past_due | served, and told so with each answer (header `X-Maas-Account`) | allowed |
| grace | the same, and only a quarter of its requests per second and of its places | allowed |
| suspended | refused | allowed |
| closed | refused | refused, but for paying, choosing a plan and taking rights away; everything can be read and exported |

A state that is not known here is treated as suspended.
"""

from saas.lib.errors import AccountClosed, AccountSuspended, AppError
from tenants.principal import Limits

SERVED = frozenset(("trialing", "active", "past_due", "grace"))
WARNED = ("past_due", "grace")
CLOSED = "closed"
GRACE, GRACE_PART = "grace", 4  # of the limits one fourth
UNPAID = "The account is suspended because an invoice is not paid: pay it in the billing portal; the data is kept"
ENDED = (
    "The account is closed, because its subscription ended with something unpaid: data can be read and exported, nothing can be"
    " changed and no model called until that is paid in the billing portal"
)


def refusal(state: str) -> AppError | None:
    """Why calls of an organization in this state are refused; None if they are served."""
    if state in SERVED:
        return None
    if state == CLOSED:
        return AccountClosed(ENDED)
    return AccountSuspended(UNPAID if state == "suspended" else "The account is in a state in which models cannot be called")


def limits_in(state: str, limits: Limits) -> Limits:
    """What is left of an organization's limits in this state: at least one request at a time."""
    if state != GRACE:
        return limits
    return Limits(limits.rate / GRACE_PART, max(1, limits.burst // GRACE_PART), max(1, limits.concurrency // GRACE_PART))


def change_refusal(state: str) -> AppError | None:
    """Why an organization in this state may change nothing; None if it may."""
    return AccountClosed(ENDED) if state == CLOSED else None
