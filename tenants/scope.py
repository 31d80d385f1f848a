"""The tenant of a transaction: every query of a request or task runs inside one."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from django.db import connection, transaction


def set_tenant(organization_id: UUID | None) -> None:
    """Set the tenant for the rest of the open transaction. Row-level security shows and takes only its rows."""
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("the tenant can only be set inside a transaction")
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('app.tenant', %s, true)", [str(organization_id or "")])


@contextmanager
def tenant_inside(organization_id: UUID) -> Iterator[None]:
    """Queries as `organization_id`, also inside an open transaction, whose own tenant is set again at the end."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT NULLIF(current_setting('app.tenant', true), '')::uuid")
            (before,) = cursor.fetchone() or (None,)
        set_tenant(organization_id)
        yield
        set_tenant(before)  # on failure the savepoint's end has set it already


@contextmanager
def tenant_scope(organization_id: UUID | None) -> Iterator[None]:
    """A transaction as `organization_id`; with None only public rows are seen.

    It is a transaction of its own: nested in one of another tenant it would change that one's tenant, so it refuses to.
    """
    with transaction.atomic(durable=True):
        set_tenant(organization_id)
        yield
