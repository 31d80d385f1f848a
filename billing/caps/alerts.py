"""Alerts: half, four fifths, or all is used of a budget, of what the plan includes, or of the credit. Each is given once.

What is used is what the ledger holds; the insert of the row decides who found the crossing.

- A budget: for each month and amount, so that a budget that was raised is told of anew.
- Calls or amount that the plan includes: for each month on it. Where the plan began within the month, of the amount as much
  as the time until its end is of the month, by what was used since then, as the ledger had it.
- Credit: of the balance that there was when some was added last. What has expired counts as used.
"""

import logging
from datetime import datetime, timedelta

from django.utils import timezone
from psycopg2.extensions import connection as Connection

from billing import mailing
from billing.caps.models import About, AlertFired
from saas.lib.ids import uuid7
from saas.lib.money import text_of
from tenants.databases import as_operator
from tenants.models import ApiKey, Organization

log = logging.getLogger(__name__)

PERCENTS = (50, 80, 100)

# Each gives: organization, what it is about, its id, key, period, of how much, how much is used.
# A call that was opened in a month may be charged in the next, so the month before is looked at too.
BUDGETS = """
SELECT b.tenant_id, 'budget' AS about, b.id AS subject, b.api_key_id, m.period, b.amount_nano AS whole, (
  SELECT coalesce(sum(u.amount_nano), 0) FROM usage_month u
  WHERE u.tenant_id = b.tenant_id AND u.period = m.period AND (b.api_key_id IS NULL OR u.api_key_id = b.api_key_id)
) AS used FROM budget b CROSS JOIN unnest(%(periods)s) AS m (period)
"""
# An alert's subject has one kind: what includes calls and an amount needs a second id.
INCLUDED = """
SELECT s.tenant_id, i.about, i.subject, NULL::uuid, m.period, i.whole, i.used
FROM (
  SELECT p AS period, (p || '-01 00:00Z')::timestamptz AS first, (p || '-01')::timestamp + interval '1 month' AS beyond
  FROM unnest(%(periods)s) AS p
) m
JOIN subscription s ON s.since < m.beyond AT TIME ZONE 'UTC' AND coalesce(s.ended_at >= m.beyond AT TIME ZONE 'UTC', true)
JOIN plan_version v ON v.id = s.plan_version_id AND (v.included_calls > 0 OR v.included_amount > 0)
CROSS JOIN LATERAL (
  SELECT sum(calls) AS calls, sum(amount_nano) AS amount_nano FROM usage_month u
  WHERE u.tenant_id = s.tenant_id AND u.period = m.period
) u
CROSS JOIN LATERAL (
  SELECT extract(epoch FROM m.beyond AT TIME ZONE 'UTC' - greatest(s.since, m.first))
    / extract(epoch FROM m.beyond AT TIME ZONE 'UTC' - m.first) AS share,
    CASE WHEN s.since > m.first THEN s.used_before_nano ELSE 0 END AS before
) t
CROSS JOIN LATERAL (VALUES
  ('included_calls', s.id, v.included_calls, u.calls),
  ('included_amount', md5(s.id::text || ' amount')::uuid, round(v.included_amount * 1000000000 * t.share)::bigint,
    u.amount_nano - t.before)
) AS i (about, subject, whole, used)
"""
CREDIT = """
SELECT g.tenant_id, 'credit', g.id, NULL::uuid, to_char(g.created_at AT TIME ZONE 'UTC', 'YYYY-MM'), g.balance_nano,
  g.balance_nano - (SELECT sum(a.remaining_nano) FROM credit_grant a WHERE a.tenant_id = g.tenant_id)
FROM (SELECT DISTINCT ON (tenant_id) * FROM credit_grant ORDER BY tenant_id, created_at DESC, id DESC) g
"""
DUE = f"""
SELECT d.tenant_id::text, d.about, d.subject::text, d.api_key_id::text, d.period, p.percent, d.whole, d.used::bigint
FROM ({BUDGETS} UNION ALL {INCLUDED} UNION ALL {CREDIT}) d CROSS JOIN unnest(%(percents)s) AS p (percent)
WHERE d.whole > 0 AND d.used >= ceil(d.whole * p.percent / 100.0)
  AND NOT EXISTS (SELECT FROM alert_fired a
    WHERE (a.budget_id, a.period, a.percent, a.amount_nano) = (d.subject, d.period, p.percent, d.whole))
ORDER BY d.subject, d.period, p.percent
"""  # noqa: S608  # the parts are the three above
FIRE = """
INSERT INTO alert_fired (id, tenant_id, created_at, about, budget_id, api_key_id, period, percent, amount_nano, spent_nano)
VALUES (%s, %s, now(), %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (budget_id, period, percent, amount_nano) DO NOTHING
"""
WHAT = {
    About.BUDGET: "The budget of {whose} for {period}",
    About.INCLUDED_CALLS: "What the plan of {whose} includes in {period}",
    About.INCLUDED_AMOUNT: "What the plan of {whose} includes in {period}",
    About.CREDIT: "The credit of {whose}",
}
AT_THE_END = {
    About.BUDGET: "Calls that cost something are refused until the month ends or the budget is raised.",
    About.INCLUDED_CALLS: "Calls are refused until the month ends or another plan is chosen.",
    About.INCLUDED_AMOUNT: "From now on calls cost what the plan says beyond what it includes.",
    About.CREDIT: "On the plan Prepaid, calls that cost something are refused until credit is added.",
}


def fire(connection: Connection, now: datetime) -> int:
    """Write down each alert that is due and was not given before; how many."""
    this_month = now.replace(day=1)
    periods = [f"{this_month - timedelta(days=1):%Y-%m}", f"{this_month:%Y-%m}"]
    with connection, connection.cursor() as cursor:
        cursor.execute(DUE, {"periods": periods, "percents": list(PERCENTS)})
        fired = 0
        for alert in cursor.fetchall():
            cursor.execute(FIRE, [str(uuid7()), *alert])
            fired += cursor.rowcount
        return fired


def mail_due() -> int:
    """Mail what was not mailed yet (billing.mailing); how many alerts."""
    mailed = 0
    with as_operator():
        due = AlertFired.objects.filter(mailing.is_free(), mailed_at=None)
        for alert in due.order_by("created_at")[: mailing.MAILED_AT_ONCE]:
            mine = AlertFired.objects.filter(id=alert.id, mailed_at=None)
            if not mine.filter(mailing.is_free()).update(claimed_until=timezone.now() + mailing.LEASE):
                continue
            try:
                _mail(alert)
            except OSError as error:  # of the mail server, as smtplib raises them
                mine.update(claimed_until=None)
                log.warning("an alert could not be mailed: %s", error, extra={"alert": str(alert.id)})
                continue
            mine.update(mailed_at=timezone.now())
            mailed += 1
    return mailed


def _mail(alert: AlertFired) -> None:
    organization = Organization.objects.get(id=alert.organization_id)
    about = About(alert.about)
    key = ApiKey.objects.of(organization).filter(id=alert.api_key_id).first() if alert.api_key_id else None
    whose = f"the key {key.prefix} of {organization.slug}" if key else organization.slug  # names are free text
    what = WHAT[about].format(whose=whose, period=alert.period)
    whole, used = amounts(alert)
    text = f"{what} is used to {alert.percent} %.\n\n{about.label}: {whole}\nUsed: {used}\n\n"
    end = AT_THE_END[about] + "\n" if alert.percent == 100 else ""
    subject = f"{alert.percent} % of the {about.label.lower()} of {organization.slug} is used"
    mailing.send(organization, subject, text + end, name=f"alert-{alert.id}")


def amounts(alert: AlertFired) -> tuple[str, str]:
    """Of how much, and how much is used, as text: calls, or an amount."""
    if alert.about == About.INCLUDED_CALLS:
        return str(alert.amount_nano), str(alert.spent_nano)
    return text_of(alert.amount_nano), text_of(alert.spent_nano)
