"""Limits of the books (quotas, budgets, included calls, credit), projected from PostgreSQL to the accounts that gateways meet.

What is projected is absolute and carries the version that PostgreSQL gave it: an older one never overwrites. A request that
changes a limit projects it before it is answered; whatever fails is repeated by the bookkeeper until it is done.
"""

import json
import logging
from typing import NamedTuple
from uuid import UUID

import redis
from django.db import connection as application
from django.db.backends.utils import CursorWrapper
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from inference.books import accounts
from saas.lib.errors import Unavailable
from tenants.scope import tenant_inside

log = logging.getLogger(__name__)

PENDING = "SELECT tenant_id FROM quota_change WHERE projected_version < version ORDER BY tenant_id LIMIT 500"


class Quota(NamedTuple):
    """An organization's limits; `projected` is the version of those that were sent last."""

    projected: int
    limits: accounts.AccountLimits


def read_quota(connection: Connection, tenant: UUID) -> Quota:
    """The quota as one snapshot, over a connection of the metering role."""
    with connection, connection.cursor() as cursor:
        return _read(cursor, tenant)


def _read_own(tenant: UUID) -> Quota:
    """The same as the application, in whatever transaction is open."""
    with tenant_inside(tenant), application.cursor() as cursor:
        return _read(cursor, tenant)


def _read(cursor: Cursor | CursorWrapper, tenant: UUID) -> Quota:
    cursor.execute("SELECT version, projected, limits::text FROM limits_of(%s)", [str(tenant)])
    version, projected, limits = cursor.fetchone() or (0, 0, "{}")
    most = accounts.LIMIT_MAX  # more than that is no limit
    fields = {field: min(limit, most) for field, limit in json.loads(limits).items()}
    return Quota(projected, accounts.AccountLimits.of_fields(fields, version))


def read_limits(cursor: Cursor | CursorWrapper, tenant: UUID) -> accounts.AccountLimits:
    """The limits as the open transaction sees them."""
    return _read(cursor, tenant).limits


def _send(tenant: UUID, quota: Quota) -> None:
    """Set the limits of the account of `tenant`, if it exists. Raises redis.RedisError; the outbox still has the change."""
    accounts.set_limits(tenant.hex, quota.limits)


def project_now(tenant: UUID) -> None:
    """Called when a limit may have changed, before the answer: the limit holds when the caller reads 200, else it reads 503.

    What did not change is not sent: a key is made and revoked while the state server is down.
    """
    try:
        quota = _read_own(tenant)
        if quota.projected < quota.limits.version:
            _send(tenant, quota)
    except redis.RedisError as error:
        log.warning("a quota waits for its projection", extra={"tenant": tenant.hex, "error": str(error)})
        raise Unavailable(
            "The limit is stored but does not hold yet; it will, seconds after the platform's recovery"
        ) from error


def create_account(tenant: UUID) -> None:
    """Called when an organization was created: its first call need not wait for a rebuild."""
    try:
        accounts.create(tenant.hex)
        _send(tenant, _read_own(tenant))
    except redis.RedisError as error:  # an account that is not there is rebuilt at the first call
        log.warning("an account waits for its rebuild", extra={"tenant": tenant.hex, "error": str(error)})


def project_pending(connection: Connection) -> int:
    """Project what has changed since it was last projected; how many organizations that were. Raises redis.RedisError."""
    with connection, connection.cursor() as cursor:
        cursor.execute(PENDING)
        pending = [UUID(str(tenant)) for (tenant,) in cursor.fetchall()]
    for tenant in pending:
        project_and_note(connection, tenant)
    return len(pending)


def project_and_note(connection: Connection, tenant: UUID) -> None:
    """Send the quota as it is now, outside of any transaction, and then note down which version that was."""
    quota = read_quota(connection, tenant)
    _send(tenant, quota)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE quota_change SET projected_version = %s WHERE tenant_id = %s AND projected_version < %s",
            [quota.limits.version, str(tenant), quota.limits.version],
        )
