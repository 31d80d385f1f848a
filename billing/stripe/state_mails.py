"""Mails about an account's state: when it gets worse, and when all is well again.

`told_state` says what was told last, and `telling_until` who is telling just now (billing.mailing).
"""

import logging

from django.conf import settings
from django.db.models import F, Q
from django.utils import timezone

from billing import mailing
from billing.sale.models import State, Subscription
from tenants.databases import as_operator
from tenants.models import Organization

log = logging.getLogger(__name__)

WELL = ("", State.TRIALING, State.ACTIVE)  # "" is how each begins
WORSE = (State.PAST_DUE, State.GRACE, State.SUSPENDED, State.CLOSED)
TEXTS = {
    State.PAST_DUE: ("A payment was refused", "Calls are served as before."),
    State.GRACE: ("A payment is still refused", "A quarter of the usual calls is still served; soon all will be refused."),
    State.SUSPENDED: ("Calls are refused until an invoice is paid", "Calls are refused with 402. Nothing is deleted."),
    State.CLOSED: ("The account is closed", "The subscription has ended with something unpaid. Calls are refused with 402."),
    State.ACTIVE: ("Everything is paid", "Calls are served as before."),
}
PAY = "\nPay open invoices or enter another card by the link that {base}/api/v1/billing/portal gives (POST).\n"


def mail_due() -> int:
    """Tell owners and billing members of the states that they were not told of yet; how many mails were sent."""
    is_worse = Q(state__in=WORSE) & ~Q(told_state=F("state"))
    is_well_again = Q(state__in=[State.ACTIVE, State.TRIALING], told_state__in=WORSE)
    mailed = 0
    with as_operator():
        due = Subscription.objects.current().filter(is_worse | is_well_again).filter(mailing.is_free("telling_until"))
        for row in due.order_by("id")[: mailing.MAILED_AT_ONCE]:
            mine = Subscription.objects.of(row.organization_id).filter(id=row.id, told_count=row.told_count)
            free = mine.filter(mailing.is_free("telling_until"), state=row.state, told_state=row.told_state)
            if not free.update(telling_until=timezone.now() + mailing.LEASE):
                continue
            try:
                _mail(row)
            except OSError as error:  # of the mail server, as smtplib raises them
                mine.update(telling_until=None)
                log.warning(
                    "an account's state could not be mailed: %s", error, extra={"organization": str(row.organization_id)}
                )
                continue
            mine.update(told_state=row.state, telling_until=None, told_count=F("told_count") + 1)
            mailed += 1
    return mailed


def _mail(row: Subscription) -> None:
    organization = Organization.objects.get(id=row.organization_id)
    state = State.ACTIVE if row.state in WELL else State(row.state)
    subject, text = TEXTS[state]
    way_out = "" if state == State.ACTIVE else PAY.format(base=settings.CONFIG.base_url)
    name = f"state-{row.id}-{row.told_count}"
    mailing.send(organization, f"{subject}: {organization.slug}", f"{text}\n{way_out}", name=name)
