"""Mails of billing to an organization's owners and billing members: each at least once, and never by two at the same time.

Who mails takes the row first, for longer than any mailing lasts (`LEASE`), and notes it as mailed afterwards. One who is killed
in between leaves it to the next, who may so send it a second time, under the same Message-ID.
"""

from collections.abc import Collection
from datetime import timedelta
from urllib.parse import urlsplit

from django.conf import settings
from django.core.mail import EmailMessage
from django.db.models import Q
from django.utils import timezone

from tenants.models import Membership, Organization, Role

LEASE = timedelta(minutes=10)  # longer than the tasks that mail may take (billing.tasks)
MAILED_AT_ONCE = 100


def is_free(column: str = "claimed_until") -> Q:
    """That nobody is mailing a row, by the column that says until when it is taken."""
    return Q(**{column: None}) | Q(**{f"{column}__lte": timezone.now()})


def send(organization: Organization, subject: str, text: str, *, name: str) -> None:
    """Raises OSError, as smtplib does. `name` tells this mail from all others: its Message-ID is made of it."""
    host = urlsplit(settings.CONFIG.base_url).hostname or "localhost"
    headers = {"Message-ID": f"<{name}@{host}>"}
    EmailMessage(subject, text, bcc=list(_readers(organization)), headers=headers).send()


def _readers(organization: Organization) -> Collection[str]:
    members = Membership.objects.of(organization).filter(role__in=(Role.OWNER, Role.BILLING), user__is_active=True)
    found: Collection[str] = members.values_list("user__email", flat=True)
    return found
