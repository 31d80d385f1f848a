"""Mails about an account's state: when it gets worse, and when all is well again.

`told_state` says what was told last. Changing it decides who mails; if the mail server fails it is changed back. (One who is
killed between the two mails nothing.)
"""

import logging

from django.conf import settings
from django.core.mail import EmailMessage
from django.db.models import F, Q

from billing.sale.models import State, Subscription
from tenants.databases import as_operator
from tenants.models import Membership, Organization, Role

log = logging.getLogger(__name__)

MAILED_AT_ONCE = 100
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
        for row in Subscription.objects.current().filter(is_worse | is_well_again).order_by("id")[:MAILED_AT_ONCE]:
            mine = Subscription.objects.of(row.organization_id).filter(id=row.id)
            if not mine.filter(state=row.state, told_state=row.told_state).update(told_state=row.state):
                continue
            try:
                _mail(row)
            except OSError as error:  # of the mail server, as smtplib raises them
                mine.filter(told_state=row.state).update(told_state=row.told_state)
                log.warning(
                    "an account's state could not be mailed: %s", error, extra={"organization": str(row.organization_id)}
                )
                continue
            mailed += 1
    return mailed


def _mail(row: Subscription) -> None:
    organization = Organization.objects.get(id=row.organization_id)
    members = Membership.objects.of(organization).filter(role__in=(Role.OWNER, Role.BILLING), user__is_active=True)
    state = State.ACTIVE if row.state in WELL else State(row.state)
    subject, text = TEXTS[state]
    way_out = "" if state == State.ACTIVE else PAY.format(base=settings.CONFIG.base_url)
    message = EmailMessage(f"{subject}: {organization.name}", f"{text}\n{way_out}")
    message.bcc = list(members.values_list("user__email", flat=True))
    message.send()
