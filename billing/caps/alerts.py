"""Alerts: a budget is used by half, by four fifths, wholly. Each is given once for a budget and a month.

What is used is what the ledger holds; the insert of the row decides who found the crossing, and taking the row who mails it.
"""

import logging
from datetime import datetime, timedelta

from django.core.mail import EmailMessage
from django.utils import timezone
from psycopg2.extensions import connection as Connection

from billing.caps.models import AlertFired
from saas.lib.ids import uuid7
from saas.lib.money import text_of
from tenants.databases import as_operator
from tenants.models import ApiKey, Membership, Organization, Role

log = logging.getLogger(__name__)

PERCENTS = (50, 80, 100)
MAILED_AT_ONCE = 100

# A call that was opened in a month may be charged in the next, so the month before is looked at too.
DUE = """
SELECT b.tenant_id::text, b.id::text, b.api_key_id::text, m.period, p.percent, b.amount_nano, s.spent
FROM budget b CROSS JOIN unnest(%s) AS m (period) CROSS JOIN unnest(%s) AS p (percent)
CROSS JOIN LATERAL (
  SELECT coalesce(sum(u.amount_nano), 0)::bigint AS spent FROM usage_month u
  WHERE u.tenant_id = b.tenant_id AND u.period = m.period AND (b.api_key_id IS NULL OR u.api_key_id = b.api_key_id)
) s
WHERE b.amount_nano > 0 AND s.spent >= ceil(b.amount_nano * p.percent / 100.0)
  AND NOT EXISTS (SELECT FROM alert_fired a WHERE (a.budget_id, a.period, a.percent) = (b.id, m.period, p.percent))
ORDER BY b.id, m.period, p.percent
"""
FIRE = """
INSERT INTO alert_fired (id, tenant_id, created_at, budget_id, api_key_id, period, percent, amount_nano, spent_nano)
VALUES (%s, %s, now(), %s, %s, %s, %s, %s, %s) ON CONFLICT (budget_id, period, percent) DO NOTHING
"""


def fire(connection: Connection, now: datetime) -> int:
    """Write down each alert that is due and was not given before; how many."""
    this_month = now.replace(day=1)
    periods = [f"{this_month - timedelta(days=1):%Y-%m}", f"{this_month:%Y-%m}"]
    with connection, connection.cursor() as cursor:
        cursor.execute(DUE, [periods, list(PERCENTS)])
        fired = 0
        for alert in cursor.fetchall():
            cursor.execute(FIRE, [str(uuid7()), *alert])
            fired += cursor.rowcount
        return fired


def mail_due() -> int:
    """Mail what was not mailed yet to the organizations' owners and billing members; how many alerts.

    Each is taken by one, who mails it; if that fails it is given back. (One who is killed between the two mails nothing.)
    """
    mailed = 0
    with as_operator():
        for alert in AlertFired.objects.filter(mailed_at=None).order_by("created_at")[:MAILED_AT_ONCE]:
            if not AlertFired.objects.filter(id=alert.id, mailed_at=None).update(mailed_at=timezone.now()):
                continue
            try:
                _mail(alert)
            except OSError as error:  # of the mail server, as smtplib raises them
                AlertFired.objects.filter(id=alert.id).update(mailed_at=None)
                log.warning("an alert could not be mailed: %s", error, extra={"alert": str(alert.id)})
                continue
            mailed += 1
    return mailed


def _mail(alert: AlertFired) -> None:
    organization = Organization.objects.get(id=alert.organization_id)
    members = Membership.objects.of(organization).filter(role__in=(Role.OWNER, Role.BILLING), user__is_active=True)
    key = ApiKey.objects.of(organization).filter(id=alert.api_key_id).first() if alert.api_key_id else None
    whose = f"the key {key.name} ({key.prefix}) of {organization.name}" if key else organization.name
    text = (
        f"The budget of {whose} for {alert.period} is used to {alert.percent} %.\n\n"
        f"Budget: {text_of(alert.amount_nano)}\nUsed: {text_of(alert.spent_nano)}\n\n"
        + (
            "Calls that cost something are refused until the month ends or the budget is raised.\n"
            if alert.percent == 100
            else ""
        )
    )
    subject = f"{alert.percent} % of the budget of {organization.name} is used"
    EmailMessage(subject, text, bcc=list(members.values_list("user__email", flat=True))).send()
