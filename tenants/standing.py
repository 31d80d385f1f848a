"""What an organization's state means for its calls. This is the one place that decides it."""

from saas.lib.errors import AccountSuspended, AppError

SERVED = frozenset(("trialing", "active", "past_due", "grace"))
WARNED = ("past_due", "grace")
"""Served, and told so with each answer: header `X-Maas-Account`."""
REFUSALS = {
    "suspended": "The account is suspended because an invoice is not paid: pay it in the billing portal; the data is kept",
    "closed": "The account is closed: data can be read and exported, models cannot be called",
}


def refusal(state: str) -> AppError | None:
    """Why calls of an organization in this state are refused; None if they are served. A state not known here is refused."""
    if state in SERVED:
        return None
    return AccountSuspended(REFUSALS.get(state, "The account is in a state in which models cannot be called"))
