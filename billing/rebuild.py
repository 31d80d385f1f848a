"""Accounts, made anew from the ledger (books.md, Rebuild).

Sums and the journal's position are read in one snapshot. The books' script then adds what lies in the journal after that position
and what is open, and installs the account; it refuses if the drain has trimmed past the position meanwhile: then it starts over.
"""

import logging
from typing import NamedTuple
from uuid import UUID

from psycopg2.extensions import connection as Connection

from billing.drain import JOURNAL
from billing.quotas import Quota, project_and_note, read_quota
from inference.books import accounts

log = logging.getLogger(__name__)

ATTEMPTS = 20


class Snapshot(NamedTuple):
    """What the ledger knows of one organization as of `position`. `sums`: (scope, period) → (calls, nano)."""

    position: str
    sums: dict[tuple[str, str], tuple[int, int]]
    quota: Quota


def read_snapshot(connection: Connection, tenant: UUID) -> Snapshot:
    """Sums, position and quota as of one moment."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute("SELECT position FROM journal_position WHERE stream = %s", [JOURNAL])
        row = cursor.fetchone()
        cursor.execute("SELECT scope, period, calls, amount_nano FROM usage_sum WHERE tenant_id = %s", [str(tenant)])
        sums = {(scope, period): (calls, nano) for scope, period, calls, nano in cursor.fetchall()}
        return Snapshot(row[0] if row else "0-0", sums, read_quota(cursor, tenant))
