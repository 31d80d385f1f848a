"""Caps: how much of each kind an organization may have at a time. Operators set them, as columns of the organization.

Whoever makes one more counts inside the transaction that makes it, holding a lock on the organization's row: of two requests
that want the last place exactly one gets it. The catalogue is the operators' own and has no caps.
"""

from typing import NamedTuple
from uuid import UUID

from django.utils import timezone

from saas.lib.errors import LimitReached
from tenants.models import CATALOG_ID, ApiKey, Invitation, Membership, Organization


class Cap(NamedTuple):
    """`name` as in GET /limits; its column of Organization is `max_{name}`."""

    name: str
    noun: str
    remedy: str

    def of(self, organization: Organization) -> int:
        return int(getattr(organization, f"max_{self.name}"))


KEYS = Cap("keys", "active API keys", "revoke one that is not used (a rotation with overlap_seconds 0 needs no place)")
MEMBERS = Cap("members", "members", "remove one")
INVITATIONS = Cap("invitations", "open invitations", "revoke one")


def lock(organization_id: UUID) -> Organization:
    """The organization as it is now; until this transaction ends nobody else makes what is capped, or changes a cap.

    Rows that point at the organization can still be inserted. To be taken before the rows that it guards.
    """
    return Organization.objects.select_for_update(no_key=True).get(id=organization_id)


def check(organization: Organization, cap: Cap, used: int, more: int = 1) -> None:
    """Raise LimitReached unless `more` fit beside `used`. For good only while the organization is locked."""
    limit = cap.of(organization)
    if organization.id != CATALOG_ID and used + more > limit:
        raise refusal(LimitReached, cap, limit, f"may have {limit} {cap.noun} and has {used}", used=used)


def refusal(kind: type[LimitReached], cap: Cap, limit: int, reason: str, **facts: int) -> LimitReached:
    """The error that names the limit, its size and the way out; `errors` says the same for programs."""
    detail = f"The organization {reason}: {cap.remedy}, or ask for a higher limit."
    return kind(detail, source="organization", errors=[{"field": cap.name, "limit": limit, **facts, "detail": detail}])


def active_keys(organization: Organization) -> int:
    keys = ApiKey.objects.of(organization).filter(revoked_at=None)
    return keys.exclude(expires_at__lte=timezone.now()).count()


def members(organization: Organization) -> int:
    return Membership.objects.of(organization).count()


def open_invitations(organization: Organization) -> int:
    return Invitation.objects.of(organization).filter(accepted_at=None, revoked_at=None, expires_at__gt=timezone.now()).count()


def used(organization: Organization) -> dict[Cap, int]:
    """What there is just now of each."""
    return {
        KEYS: active_keys(organization),
        MEMBERS: members(organization),
        INVITATIONS: open_invitations(organization),
    }
