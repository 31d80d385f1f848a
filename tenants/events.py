"""What higher apps are told about tenants, since imports point one way only.

A higher app appends its function in its `AppConfig.ready`. All are called after the commit and before the response.
"""

from collections.abc import Callable
from functools import partial
from uuid import UUID

from django.db import transaction

from tenants.databases import as_operator, current_alias

organization_created: list[Callable[[UUID], None]] = []
"""(organization id)"""

quota_changed: list[Callable[[UUID], None]] = []
"""(organization id): a monthly number of calls of the organization or of one of its keys was set, changed or removed."""


def fire(listeners: list[Callable[[UUID], None]], organization_id: UUID) -> None:
    """Tell the listeners once the open transaction is committed; at once if none is open.

    What they raise reaches the caller (an AppError becomes the answer), although the change itself is stored.
    """
    transaction.on_commit(partial(_tell, listeners, organization_id), using=current_alias())


def _tell(listeners: list[Callable[[UUID], None]], organization_id: UUID) -> None:
    with as_operator(False):
        for listener in listeners:
            listener(organization_id)
