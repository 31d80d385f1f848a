"""How many invitations, and mails of them, there may be: an account costs nothing, and its mails go to strangers."""

import hashlib
import math
from datetime import timedelta

from django.core.cache import cache
from django.utils import timezone

from saas.lib.errors import RateLimited
from tenants.models import CATALOG_ID, Invitation, Organization

RATES = ((timedelta(hours=1), 20), (timedelta(days=1), 50))
"""Invitations that an organization may make within a time. Revoked and accepted ones count."""

MAILS_A_DAY = 5
"""Mails of invitations that one address gets, from all organizations together, within a day of the first."""


def check_rate(organization: Organization) -> None:
    """Raise RateLimited if the organization has made too many lately. For good only while it is locked (tenants.caps)."""
    if organization.id == CATALOG_ID:
        return
    now = timezone.now()
    for within, most in RATES:
        times = Invitation.objects.of(organization).filter(created_at__gt=now - within).order_by("-created_at")
        full_since = times.values_list("created_at", flat=True)[most - 1 : most].first()
        if full_since is not None:
            hours = within // timedelta(hours=1)
            raise RateLimited(
                f"The organization has made {most} invitations within {hours} h, revoked ones included: invite again later.",
                retry_after=math.ceil((full_since + within - now).total_seconds()),
                source="organization",
            )


def take_mail(email: str) -> bool:
    """Count a mail to this address. False if it has got MAILS_A_DAY already: then none may be sent.

    Counted in the lanes server, by the address's hash, because no organization may look at another's invitations.
    """
    name = f"invited:{hashlib.sha256(email.encode()).hexdigest()}"
    if cache.add(name, 1, timeout=86_400):
        return True
    try:
        return int(cache.incr(name)) <= MAILS_A_DAY
    except ValueError:  # the day ended just now
        return bool(cache.add(name, 1, timeout=86_400))
