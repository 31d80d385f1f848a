"""Prepaid and promotional credit: granted by operators and payments, used up by what the ledger charges, ended by time.

`settle` charges what the ledger's sums cost (billing.caps.charging) to the grants, in BURN_ORDER. Where the plan is prepaid,
the books hold calls to a limit on all that was ever used: what `settle` has looked at, what was paid ahead of that when such a
plan was left (`charge_ahead`), and what remains of the grants. All change in one transaction, so settling moves no limit.
Nothing here may stop the ledger: what no grant pays for is written down as an overrun and reported.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import redis
from django.db import connections, transaction
from django.db.models import Sum
from psycopg2.extensions import connection as Connection

from billing.caps import charging
from billing.caps.charging import AnyCursor
from billing.caps.models import Category, CreditGrant
from billing.caps.quotas import project_and_note, read_limits
from billing.ledger.rebuild import rebuild
from inference.books import accounts
from saas.lib import clock
from saas.lib.errors import StateConflict, Unavailable, ValidationFailed
from saas.lib.inserts import insert_once
from saas.lib.money import MAX_NANO, NANO, text_of
from tenants import audit, caps, events
from tenants.access import Actor
from tenants.databases import as_operator

log = logging.getLogger(__name__)

# Two that settle the same organization wait for each other here.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('credit ' || %s, 0))"
# The newest month that was looked at is looked at again: a part of it may have ended.
UNSETTLED = """
SELECT u.period, (sum(u.amount_nano) - coalesce(max(c.spent_nano), 0))::bigint
FROM usage_month u LEFT JOIN credit_month c ON c.tenant_id = u.tenant_id AND c.period = u.period
WHERE u.tenant_id = %(tenant)s GROUP BY u.period HAVING sum(u.amount_nano) > coalesce(max(c.spent_nano), 0)
  OR u.period = (SELECT max(period) FROM credit_month WHERE tenant_id = %(tenant)s) ORDER BY u.period
"""
GRANTS = """
SELECT id::text, remaining_nano, expires_at FROM credit_grant WHERE tenant_id = %s AND remaining_nano > 0
ORDER BY expires_at NULLS LAST, category DESC, priority, created_at, id FOR UPDATE
"""
BURN = "UPDATE credit_grant SET remaining_nano = remaining_nano - %s WHERE id = %s"
SPEND = """
INSERT INTO credit_month AS c (id, tenant_id, created_at, period, spent_nano, burnt_nano, overrun_nano, off_nano,
  ahead_nano, part_since, part_nano, ended_nano, asked_nano)
VALUES (gen_random_uuid(), %s, now(), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (tenant_id, period) DO UPDATE SET
  spent_nano = c.spent_nano + excluded.spent_nano, burnt_nano = c.burnt_nano + excluded.burnt_nano,
  overrun_nano = c.overrun_nano + excluded.overrun_nano, off_nano = coalesce(c.off_nano, c.burnt_nano) + excluded.off_nano,
  ahead_nano = c.ahead_nano + excluded.ahead_nano, part_since = excluded.part_since, part_nano = excluded.part_nano,
  ended_nano = excluded.ended_nano, asked_nano = excluded.asked_nano
"""
# From where on a prepaid plan's use must be covered by credit; no row: the plan is not prepaid.
PREPAID_SINCE = """
SELECT coalesce(s.credit_base, 0) FROM subscription s JOIN plan_version v ON v.id = s.plan_version_id
WHERE s.tenant_id = %s AND s.ended_at IS NULL AND v.is_prepaid
"""
SETTLED = "SELECT coalesce(sum(spent_nano), 0)::bigint FROM credit_month WHERE tenant_id = %s"
AHEAD = "SELECT greatest(0, coalesce(sum(ahead_nano), 0))::bigint FROM credit_month WHERE tenant_id = %s"
TO_SETTLE = """
SELECT t.tenant_id::text FROM (
  SELECT tenant_id FROM credit_grant WHERE remaining_nano > 0
  UNION SELECT s.tenant_id FROM subscription s JOIN plan_version v ON v.id = s.plan_version_id
    WHERE s.ended_at IS NULL AND v.is_prepaid
) t WHERE (SELECT coalesce(sum(amount_nano), 0) FROM usage_month u WHERE u.tenant_id = t.tenant_id)
  > (SELECT coalesce(sum(spent_nano), 0) FROM credit_month c WHERE c.tenant_id = t.tenant_id)
"""
TO_EXPIRE = "SELECT DISTINCT tenant_id::text FROM credit_grant WHERE remaining_nano > 0 AND expires_at <= %s"
EXPIRE = "UPDATE credit_grant SET remaining_nano = remaining_nano - %s, expired_nano = expired_nano + %s WHERE id = %s"
VERSION = "SELECT version FROM quota_change WHERE tenant_id = %s FOR UPDATE"


class Grant(NamedTuple):
    """What remains of a grant, in nano."""

    id: str
    remaining: int
    expires_at: datetime | None


class Burnt(NamedTuple):
    """How what a month's new charges asked for was settled, in nano. `by_grant` sums up to it less what no grant paid for."""

    period: str
    asked: int
    by_grant: Mapping[str, int]

    @property
    def burnt(self) -> int:
        return sum(self.by_grant.values())


def allocate(charges: Sequence[tuple[str, int]], grants: Sequence[Grant]) -> list[Burnt]:
    """Charge (month, nano) to grants, both in order: each grant is used up before the next one is touched."""
    left = {grant.id: grant.remaining for grant in grants if grant.remaining > 0}
    result = []
    for period, asked in charges:
        open_, by_grant = asked, {}
        for grant in list(left):
            if taken := min(open_, left[grant]):
                by_grant[grant] = taken
                left[grant] -= taken
                open_ -= taken
            if left[grant]:
                break
            del left[grant]
        result.append(Burnt(period, asked, by_grant))
    return result


def settle(cursor: AnyCursor, tenant: UUID) -> int:
    """Charge what the ledger holds by now to the grants; how much of it (nano) should have been covered and was not.

    Inside a transaction of the metering role or of an operator.
    """
    cursor.execute(LOCK, [str(tenant)])
    cursor.execute(UNSETTLED, {"tenant": str(tenant)})
    overrun = sum(_settle_month(cursor, tenant, period, spent) for period, spent in cursor.fetchall())
    if overrun:
        log.error("more was charged than the credit covers", extra={"tenant": tenant.hex, "nano": overrun})
    return overrun


def _settle_month(cursor: AnyCursor, tenant: UUID, period: str, spent: int) -> int:
    """Charge `spent` more of a month; how much of it should have been covered by credit and was not."""
    looked = charging.looked_at(cursor, tenant, period)
    parts = charging.parts_of(cursor, tenant, period, min(clock.now(), charging.last_moment(period)))
    is_prepaid = parts[-1].version.is_prepaid
    paid = min(spent, _number(cursor, AHEAD, tenant) or 0)
    asked, following = charging.ask(parts, looked, spent - paid)
    if is_prepaid:  # what was used before it became prepaid was that plan's to charge
        uncovered = (_number(cursor, PREPAID_SINCE, tenant) or 0) - (_number(cursor, SETTLED, tenant) or 0) - paid
        asked = max(0, asked - max(0, uncovered))
    if not asked and not paid and following == looked:
        return 0
    burnt = _burn(cursor, tenant, period, asked)
    missing = asked - burnt if is_prepaid else 0
    off = 0 if is_prepaid else burnt
    cursor.execute(SPEND, [str(tenant), period, spent, burnt, missing, off, -paid, *following])
    return missing


def _burn(cursor: AnyCursor, tenant: UUID, period: str, asked: int) -> int:
    """Take what is asked from the grants, in order; how much of it they had."""
    [month] = allocate([(period, asked)], _grants(cursor, tenant))
    for grant, nano in month.by_grant.items():
        cursor.execute(BURN, [nano, grant])
    return month.burnt


def charge_ahead(cursor: AnyCursor, tenant: UUID) -> None:
    """Charge to the grants what a prepaid plan, which is about to be left, has let calls use that the ledger does not hold yet.

    What has just been settled is not. Calls under way are charged the most that they can cost, as the books have it: the plan
    that follows would charge nothing for them. In the transaction that leaves the plan, after `settle`. Raises Unavailable if
    the state server does not answer; nothing is charged where it has lost the account.
    """
    try:
        charged = accounts.charged(tenant.hex, "ever", [accounts.ORGANIZATION])
    except redis.RedisError as error:
        raise Unavailable("What was used until now cannot be told right now, so the plan cannot be left") from error
    known = (_number(cursor, SETTLED, tenant) or 0) + (_number(cursor, AHEAD, tenant) or 0)
    pending = (charged[0] if charged else 0) - max(known, _number(cursor, PREPAID_SINCE, tenant) or 0)
    if pending <= 0:
        return
    now = clock.now()
    period = f"{now:%Y-%m}"
    looked = charging.looked_at(cursor, tenant, period)
    if looked.part_since is None:
        looked = looked._replace(part_since=charging.parts_of(cursor, tenant, period, now)[-1].start)
    burnt = _burn(cursor, tenant, period, pending)
    if burnt < pending:
        log.error("more was charged than the credit covers", extra={"tenant": tenant.hex, "nano": pending - burnt})
    cursor.execute(SPEND, [str(tenant), period, 0, burnt, pending - burnt, 0, pending, *looked])


def settle_all(connection: Connection) -> int:
    """Settle each organization that has credit, or must have, and new charges; the sum of overruns, in nano."""
    with connection, connection.cursor() as cursor:
        cursor.execute(TO_SETTLE)
        tenants = [UUID(tenant) for (tenant,) in cursor.fetchall()]
    overrun = 0
    for tenant in tenants:
        with connection, connection.cursor() as cursor:
            overrun += settle(cursor, tenant)
    return overrun


def expire_due(connection: Connection, now: datetime) -> int:
    """End the grants whose time has come; of how many organizations. Raises redis.RedisError: nothing has changed then."""
    with connection, connection.cursor() as cursor:
        cursor.execute(TO_EXPIRE, [now])
        tenants = [UUID(tenant) for (tenant,) in cursor.fetchall()]
    for tenant in tenants:
        if not _expire(connection, tenant, now):
            rebuild(connection, tenant)  # nobody knows what was charged while the account is not there: the next time
    return len(tenants)


def _expire(connection: Connection, tenant: UUID, now: datetime) -> bool:
    """Lower the limit by what was not used of the grants that are due; False while the account is unknown.

    What is charged and not settled yet is the due grants' to pay, for they are first in the order; how much that is only the
    account can tell. So the limit is lowered there first, by a script that looks at the sum, under the version that this
    transaction is about to commit: no other projection comes between, and no call opens on what has ended.
    """
    with connection, connection.cursor() as cursor:
        settle(cursor, tenant)
        grants = _grants(cursor, tenant)
        due = [grant for grant in grants if grant.expires_at is not None and grant.expires_at <= now]
        if not due:
            return True
        version = (_number(cursor, VERSION, tenant) or 0) + 1
        settled, ahead = _number(cursor, SETTLED, tenant) or 0, _number(cursor, AHEAD, tenant) or 0
        limits = read_limits(cursor, tenant)
        kept = settled + sum(grant.remaining for grant in grants) - sum(grant.remaining for grant in due)
        if limits.credit_nano is not None:
            limits = limits._replace(credit_nano=min(kept, accounts.LIMIT_MAX))
        ending = sum(grant.remaining for grant in due)
        charged = accounts.lower_credit(tenant.hex, limits._replace(version=version), settled=settled + ahead, ending=ending)
        if charged is None:
            return False
        pending = max(0, charged - settled - ahead)
        for grant in due:
            waiting = min(pending, grant.remaining)
            pending -= waiting
            if unused := grant.remaining - waiting:
                cursor.execute(EXPIRE, [unused, unused, grant.id])
                log.info("credit has expired", extra={"tenant": tenant.hex, "grant": grant.id, "nano": unused})
    project_and_note(connection, tenant)
    return True


def grant(
    organization_id: UUID,
    *,
    amount_nano: int,
    category: Category,
    reason: str,
    actor: Actor,
    expires_at: datetime | None = None,
    priority: int = 100,
    payment_intent: str | None = None,
) -> CreditGrant:
    """Give credit; it holds when this returns. Runs as the operator in a transaction of its own.

    What the ledger has charged until now it does not pay for. A payment gives credit once: with its `payment_intent` again the
    same grant comes back. Raises ValidationFailed; StateConflict if that payment was another; Unavailable if the state server
    cannot be told yet: the grant is stored then, and holds soon.
    """
    row = CreditGrant(
        organization_id=organization_id,
        amount_nano=amount_nano,
        category=category,
        reason=reason,
        expires_at=expires_at,
        priority=priority,
        payment_intent=payment_intent,
    )
    check(row)
    return give(row, actor=actor)


def give(row: CreditGrant, *, actor: Actor) -> CreditGrant:
    """The same with a row that is made and checked already."""
    row.remaining_nano, row.actor = row.amount_nano, f"{actor.kind} {actor.id}".strip()
    with as_operator(), transaction.atomic(using="ops"):
        caps.lock(row.organization_id)  # its currency stays (billing.sale.plans.check_change)
        with connections["ops"].cursor() as cursor:
            settle(cursor, row.organization_id)
        others = CreditGrant.objects.of(row.organization_id).aggregate(left=Sum("remaining_nano", default=0))
        row.balance_nano = row.amount_nano + others["left"]
        if not insert_once(row):
            return _same_payment(row)
        details = {"amount": text_of(row.amount_nano), "category": row.category, "reason": row.reason}
        audit.note(row.organization_id, actor, "credit.granted", row.shown_id, **details)
        events.fire(events.quota_changed, row.organization_id)
    return row


def end(payment_intent: str, *, reason: str, actor: Actor) -> bool:
    """Have what is unused of a payment's credit expire: the bookkeeper does it within seconds. Whether it gave credit."""
    now = clock.now()
    with as_operator(), transaction.atomic(using="ops"):
        row: CreditGrant | None = CreditGrant.objects.filter(payment_intent=payment_intent).first()
        if row is None:
            return False
        if CreditGrant.objects.filter(id=row.id, remaining_nano__gt=0).exclude(expires_at__lte=now).update(expires_at=now):
            audit.note(row.organization_id, actor, "credit.ended", row.shown_id, reason=reason)
    return True


def check(row: CreditGrant) -> None:
    """Raises ValidationFailed for a grant that cannot be given."""
    wrong = []
    if not 0 < row.amount_nano <= MAX_NANO:
        wrong.append({"field": "amount", "detail": f"More than 0 and at most {MAX_NANO // NANO}."})
    if row.expires_at is not None and row.expires_at <= clock.now():
        wrong.append({"field": "expires_at", "detail": "In the future, or empty."})
    if wrong:
        raise ValidationFailed("Some fields are not acceptable.", errors=wrong)


def _same_payment(row: CreditGrant) -> CreditGrant:
    """The grant that this payment has given already."""
    there: CreditGrant = CreditGrant.objects.get(payment_intent=row.payment_intent)
    if (there.organization_id, there.amount_nano) != (row.organization_id, row.amount_nano):
        raise StateConflict("That payment has given another credit already.")
    return there


def _grants(cursor: AnyCursor, tenant: UUID) -> list[Grant]:
    cursor.execute(GRANTS, [str(tenant)])
    return [Grant(*row) for row in cursor.fetchall()]


def _number(cursor: AnyCursor, statement: str, tenant: UUID) -> int | None:
    cursor.execute(statement, [str(tenant)])
    row = cursor.fetchone()
    return None if row is None else int(row[0])
