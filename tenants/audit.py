"""The audit log: one row for each change to keys, members and organizations, written in the change's transaction."""

from typing import Any
from uuid import UUID

from tenants.access import Actor
from tenants.models import AuditEvent


def note(organization_id: UUID, actor: Actor, action: str, target: str = "", **details: Any) -> None:  # Any: JSON
    """Write down that `actor` did `action` (`key.revoked`) to `target`, a shown id. `details` hold no secret."""
    AuditEvent.objects.create(
        organization_id=organization_id, actor_kind=actor.kind, actor=actor.id, action=action, target=target, details=details
    )
