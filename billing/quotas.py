"""Monthly numbers of calls, projected from PostgreSQL to the accounts that gateways meet (books.md, account).

What is projected is absolute and carries the version that PostgreSQL gave it: an older one never overwrites. A request that
changes a quota projects it before it is answered; whatever fails is repeated by the bookkeeper until it is done.
"""

import logging
from typing import NamedTuple
from uuid import UUID

import redis
from django.db import connection as application
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from inference.books import accounts
from saas.lib.errors import Unavailable

log = logging.getLogger(__name__)

PENDING = "SELECT tenant_id FROM quota_change WHERE projected_version < version ORDER BY tenant_id LIMIT 500"


class Quota(NamedTuple):
    """An organization's monthly numbers of calls as of `version`; keys by id, 32 hexadecimal digits."""

    version: int
    organization_calls: int | None
    key_calls: dict[str, int]


def read_quota(cursor: Cursor, tenant: UUID) -> Quota:
    """The quota as one snapshot. `cursor` may be of the application's or of the metering role."""
    cursor.execute("SELECT version, organization_calls, key_calls FROM quota_of(%s)", [str(tenant)])
    version, organization_calls, key_calls = cursor.fetchone() or (0, None, {})
    return Quota(version, organization_calls, key_calls)


def send(tenant: UUID, quota: Quota) -> None:
    """Set the limits of the account of `tenant`, if it exists. Raises redis.RedisError; the outbox still has the change."""
    accounts.set_limits(tenant.hex, quota.organization_calls, quota.key_calls, quota.version)


def project_now(tenant: UUID) -> None:
    """Called when a quota was changed, before the answer: the limit holds when the caller reads 200, else it reads 503."""
    try:
        with application.cursor() as cursor:
            quota = read_quota(cursor, tenant)
        send(tenant, quota)
    except redis.RedisError as error:
        log.warning("a quota waits for its projection", extra={"tenant": tenant.hex, "error": str(error)})
        raise Unavailable("The limit is stored but does not hold yet; it will within seconds of the platform's recovery") from error


def create_account(tenant: UUID) -> None:
    """Called when an organization was created: its first call need not wait for a rebuild."""
    try:
        accounts.create(tenant.hex)
        with application.cursor() as cursor:
            quota = read_quota(cursor, tenant)
        send(tenant, quota)
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
    with connection, connection.cursor() as cursor:
        quota = read_quota(cursor, tenant)
    send(tenant, quota)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE quota_change SET projected_version = %s WHERE tenant_id = %s AND projected_version < %s",
            [quota.version, str(tenant), quota.version],
        )
