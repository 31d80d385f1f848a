"""Accounts, made anew from the ledger (books.md, Rebuild).

Sums and the journal's position are read in one snapshot. The books' script then adds what lies in the journal after that
position and what is open, and installs the account; it refuses if the drain has trimmed past the position meanwhile: then it
starts over.
"""

import logging
from typing import NamedTuple
from uuid import UUID

import redis
from psycopg2.extensions import connection as Connection

from billing.caps.quotas import project_and_note, read_quota
from billing.ledger.writing import Link
from inference.books import accounts
from inference.books.scripts import JOURNAL

log = logging.getLogger(__name__)

# By scope (a key, or the organization) and period (a month that is kept, or ever): what accounts hold.
SUMS = """
SELECT CASE WHEN grouping(api_key_id) = 1 THEN 'organization' ELSE replace(api_key_id::text, '-', '') END,
  CASE WHEN grouping(period) = 1 THEN 'ever' ELSE period END, sum(calls)::bigint, sum(amount_nano)::bigint
FROM usage_month WHERE tenant_id = %s GROUP BY GROUPING SETS ((api_key_id, period), (api_key_id), (period), ())
HAVING count(*) > 0 AND (grouping(api_key_id) = 1 OR api_key_id <> '00000000-0000-0000-0000-000000000000')
  AND (grouping(period) = 1 OR period >= %s)
"""


class Snapshot(NamedTuple):
    """What the ledger knows of one organization as of `position`. `sums`: (scope, period) → (calls, nano) of periods kept."""

    position: str
    sums: dict[tuple[str, str], tuple[int, int]]


def read_snapshot(connection: Connection, tenant: UUID, *, state: redis.Redis | None = None) -> Snapshot:
    """Sums and position as of one moment; `state` as in inference.books.accounts."""
    oldest = accounts.kept_from(state=state)  # it may rise meanwhile, never fall: the script leaves out what is too much
    with connection, connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute("SELECT position FROM journal_position WHERE stream = %s", [JOURNAL])
        row = cursor.fetchone()
        cursor.execute(SUMS, [str(tenant), oldest])
        sums = {(scope, period): (calls, nano) for scope, period, calls, nano in cursor.fetchall()}
        return Snapshot(row[0] if row else "0-0", sums)


def rebuild(connection: Connection, tenant: UUID) -> bool:
    """Install the account of `tenant`; False if the journal was trimmed past the snapshot: try again.

    A quota that changes in between is not lost: after the installation the quota as it is then is sent once more.
    """
    snapshot = read_snapshot(connection, tenant)
    quota = read_quota(connection, tenant)
    if not accounts.install(tenant.hex, snapshot.sums, quota.limits, snapshot.position):
        return False
    project_and_note(connection, tenant)
    log.info("an account was rebuilt", extra={"tenant": tenant.hex, "position": snapshot.position})
    return True


def rebuild_wanted(link: Link) -> int:
    """Rebuild the accounts that calls have asked for; how many. The database is not bothered while there are none."""
    return sum(rebuild(link(), UUID(hex=tenant)) for tenant in accounts.wanted())
