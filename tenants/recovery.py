"""Whose an account is: it belongs to a confirmed address. Anybody can sign up with somebody else's, which confirms nothing.

So the address that an account goes by (its primary one, `User.email`) is a confirmed one as soon as there is one, and whoever
proves the address of an account that has none, by choosing a new password by mail, finds nothing that was made before.
"""

from typing import Any

from allauth.account.models import EmailAddress
from django.db import transaction
from django.utils import timezone

from tenants import actions, audit, caps, keys
from tenants.access import SYSTEM, Actor
from tenants.authentication import organizations_of
from tenants.models import ApiKey, Invitation, Membership, Organization, Role, User
from tenants.scope import tenant_inside


def is_confirmed(user: User) -> bool:
    return bool(EmailAddress.objects.filter(user=user, verified=True).exists())


def goes_by(user: User, email: str) -> bool:
    """Whether who reads the mails to `email` may choose the account's password.

    So with a confirmed address, or, if there is none, with the primary one. Never with a further unconfirmed one: it may be
    mistyped, or a stranger's.
    """
    if EmailAddress.objects.filter(user=user, email__iexact=email, verified=True).exists():
        return True
    return user.email.lower() == email.lower() and not is_confirmed(user)


def prefer_confirmed(address: EmailAddress) -> None:
    """Have the account go by `address`, which was confirmed just now, unless it goes by a confirmed one already."""
    if not EmailAddress.objects.filter(user_id=address.user_id, primary=True, verified=True).exists():
        address.set_as_primary()


def begin_anew(user: User, **_: Any) -> None:  # Any: what the signal `password_reset` has beside
    """Once a new password was chosen by mail, for an account without a confirmed address: confirm it, end what was made before.

    The account keeps the organizations that it alone owns, without their keys, open invitations and other members. It leaves
    those that have another owner, who can invite it again. If it has none then, it gets one. Sessions end with the password.
    """
    if is_confirmed(user):
        return
    with transaction.atomic():
        EmailAddress.objects.filter(user=user).exclude(email__iexact=user.email).delete()
        address, _created = EmailAddress.objects.get_or_create(user=user, email=user.email.lower())
        address.set_verified()
        address.set_as_primary()
        for found in organizations_of(user):
            with tenant_inside(found["id"]):
                _take_back(caps.lock(found["id"]), user)
        if not organizations_of(user):
            actions.create_organization(name=user.email.partition("@")[0], owner=user, actor=Actor.of(user))


def _take_back(organization: Organization, user: User) -> None:
    """Empty an organization that `user` alone owns of whoever could act in it; have them leave any other. As its tenant."""
    members = Membership.objects.of(organization)
    if members.filter(role=Role.OWNER).exclude(user=user).exists():
        return actions.remove_member(members.get(user=user), actor=SYSTEM)
    for key in ApiKey.objects.of(organization).filter(revoked_at=None):
        keys.revoke(key, actor=SYSTEM)
    open_ones = Invitation.objects.of(organization).filter(accepted_at=None, revoked_at=None, expires_at__gt=timezone.now())
    for invitation in open_ones:
        actions.revoke_invitation(invitation, actor=SYSTEM)
    for membership in members.exclude(user=user):
        actions.remove_member(membership, actor=SYSTEM)
    audit.note(organization.id, SYSTEM, "organization.recovered", organization.shown_id)
    return None
