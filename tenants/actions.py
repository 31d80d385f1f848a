"""What is done to organizations, their members and invitations. Keys have a module of their own (tenants/keys.py)."""

import hashlib
import logging
import re
import secrets
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.mail import send_mail
from django.db import connections, transaction
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.text import slugify

from saas.lib.errors import NotFound, StateConflict, Unavailable
from saas.lib.ids import shown, uuid7
from saas.lib.inserts import insert_once
from saas.lib.names import is_name
from tenants import audit, caps, events, invitation_limits, keys
from tenants.access import SYSTEM, Actor
from tenants.crypto import add_data_key
from tenants.databases import as_operator
from tenants.models import CATALOG_ID, CATALOG_SLUG, Invitation, Membership, Organization, Role, User
from tenants.scope import set_tenant, tenant_scope

log = logging.getLogger(__name__)

INVITATION_LIFE = timedelta(days=7)


def create_organization(
    *,
    name: str,
    owner: User | None,
    slug: str | None = None,
    actor: Actor = SYSTEM,
    **limits: Any,  # rate, burst, concurrency, monthly_calls, and the caps
) -> Organization:
    """An organization with its first data key and, if given, its owner. It has no API key yet.

    Without `slug` a free one is made from `name`; a given one must be free, else StateConflict. Inside a
    transaction, whose tenant it becomes.
    """
    organization = Organization(id=uuid7(), slug=slug or free_slug(name), name=name, **limits)
    set_tenant(organization.id)
    while not insert_once(organization):
        if slug is not None:
            raise StateConflict(f"The name {slug} is taken.")
        organization.slug = free_slug(name)  # somebody took it meanwhile
    add_data_key(organization.id)
    if owner is not None:
        Membership.objects.create(organization=organization, user=owner, role=Role.OWNER)
    audit.note(organization.id, actor, "organization.created", organization.shown_id, slug=organization.slug)
    events.fire(events.organization_created, organization.id)
    return organization


def free_slug(name: str) -> str:
    """A slug that resembles `name` and that nobody has at the moment."""
    base = re.sub(r"^[^a-z0-9]+", "", slugify(name))[:50] or "organization"
    slug = base
    while not is_name(slug) or slug == CATALOG_SLUG or slug_is_taken(slug):
        slug = f"{base}-{secrets.token_hex(3)}"
    return slug


def slug_is_taken(slug: str) -> bool:
    """Whether any organization has it. Goes through a door."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT tenants_slug_is_taken(%s)", [slug])
        return bool(cursor.fetchone()[0])


def catalog_organization() -> Organization:
    """The organization that owns the catalogue's models; made if it is not there. Outside of any transaction."""
    with tenant_scope(CATALOG_ID):
        organization, is_new = Organization.objects.get_or_create(
            id=CATALOG_ID, defaults={"slug": CATALOG_SLUG, "name": "Catalogue"}
        )
        if is_new:
            add_data_key(organization.id)
            events.fire(events.organization_created, organization.id)
    return organization


def rename_organization(organization: Organization, *, name: str, actor: Actor) -> None:
    organization.name = name
    organization.save(update_fields=["name"])
    audit.note(organization.id, actor, "organization.changed", organization.shown_id, fields=["name"])


def set_organization_limits(organization_id: UUID, *, actor: Actor = SYSTEM, **values: Any) -> Organization:  # Any: columns
    """Set `rate`, `burst`, `concurrency`, `monthly_calls`, caps or `is_active`: operators only, so through the `ops` role.

    Takes effect for all keys within half a second (tenants/records.py). Not inside a transaction that has touched the
    organization.
    """
    with as_operator(), transaction.atomic(using="ops"):
        organization = Organization.objects.select_for_update().get(id=organization_id)
        for column, value in values.items():
            setattr(organization, column, value)
        organization.save(update_fields=list(values))
        organization_changed(organization, actor=actor, fields=sorted(values))
    return organization


def organization_changed(organization: Organization, *, actor: Actor, fields: list[str]) -> None:
    """Have its new limits or state reach the gateways. Inside the operator's transaction that changed them."""
    audit.note(organization.id, actor, "organization.changed", organization.shown_id, fields=fields)
    keys.changed_all(organization.id)
    events.fire(events.quota_changed, organization.id)


# Members


def change_role(membership: Membership, *, role: str, actor: Actor) -> None:
    """Give a member another role. Raises StateConflict for the last owner."""
    _keep_an_owner(membership, unless=role == Role.OWNER)
    before, membership.role = membership.role, role
    membership.save(update_fields=["role"])
    audit.note(membership.organization_id, actor, "member.changed", shown("usr", membership.user_id), role=role, before=before)


def remove_member(membership: Membership, *, actor: Actor) -> None:
    """End a membership; the keys that the person made stay. Raises StateConflict for the last owner."""
    _keep_an_owner(membership)
    audit.note(membership.organization_id, actor, "member.removed", shown("usr", membership.user_id), role=membership.role)
    membership.delete()


def _keep_an_owner(membership: Membership, *, unless: bool = False) -> None:
    """Raise StateConflict if without this one there is no owner, NotFound if it ended meanwhile.

    Two that leave at the same time come one after the other.
    """
    caps.lock(membership.organization_id)
    try:
        membership.refresh_from_db()
    except Membership.DoesNotExist:
        raise NotFound from None
    others = Membership.objects.of(membership.organization_id).filter(role=Role.OWNER).exclude(id=membership.id)
    if membership.role == Role.OWNER and not unless and not others.exists():
        raise StateConflict("The last owner cannot leave; make somebody else an owner first.")


# Invitations


def invite(*, organization: Organization, email: str, role: str, invited_by: User | None, actor: Actor) -> Invitation:
    """Offer a role by mail. An open invitation to the same address is replaced. The token is only in the mail.

    No mail is sent to an address that has got its day's number of them; the answer is the same, because it may be by others'
    invitations. Raises StateConflict if the address belongs to a member, LimitReached, RateLimited.
    """
    email = User.objects.normalize_email(email)
    if Membership.objects.of(organization).filter(user__email=email).exists():
        raise StateConflict("This person is a member already.")
    organization = caps.lock(organization.id)
    invitation_limits.check_rate(organization)
    open_ones = Invitation.objects.of(organization).filter(accepted_at=None, revoked_at=None)
    open_ones.annotate(address=Lower("email")).filter(address=email).update(revoked_at=timezone.now())
    caps.check(organization, caps.INVITATIONS, caps.open_invitations(organization))
    token = secrets.token_urlsafe(32)
    invitation = Invitation.objects.create(
        organization=organization,
        email=email,
        role=role,
        token_hash=_token_hash(token),
        invited_by=invited_by,
        expires_at=timezone.now() + INVITATION_LIFE,
    )
    audit.note(organization.id, actor, "member.invited", invitation.shown_id, role=role)
    transaction.on_commit(lambda: _send_invitation(invitation, token))
    return invitation


def _send_invitation(invitation: Invitation, token: str) -> None:
    """Raises Unavailable if the mail server does not take it: the invitation stands, and inviting again replaces it.

    It names the organization by its slug: a name is free text, which would bring a stranger's words and links to strangers.
    """
    if not invitation_limits.take_mail(invitation.email):
        return
    slug = invitation.organization.slug
    text = (
        f"You are invited to join the organization {slug} as {invitation.role}.\n\n"
        f"Sign in or sign up with this address, then send this token to\n"
        f'POST {settings.CONFIG.base_url}/api/v1/invitations/accept as {{"token": …}}:\n\n{token}\n\n'
        f"It is good until {invitation.expires_at:%Y-%m-%d %H:%M} UTC. If you did not expect it, ignore it.\n"
    )
    try:
        send_mail(f"Invitation to {slug}", text, None, [invitation.email])
    except OSError as error:  # smtplib's errors are OSErrors too
        log.error("an invitation could not be mailed: %s", error)
        raise Unavailable("The mail could not be sent; invite again later", retry_after=60) from error


def revoke_invitation(invitation: Invitation, *, actor: Actor) -> None:
    """Make an open invitation worthless. Raises StateConflict for one that was accepted or revoked."""
    taken = Invitation.objects.of(invitation.organization_id).filter(id=invitation.id, accepted_at=None, revoked_at=None)
    if not taken.update(revoked_at=timezone.now()):
        raise StateConflict("The invitation is not open any more.")
    audit.note(invitation.organization_id, actor, "invitation.revoked", invitation.shown_id)


def accept_invitation(*, token: str, user: User) -> Membership:
    """Make `user` a member as the invitation to their address says. Raises NotFound for anything but an open one of theirs.

    The transaction's tenant becomes the organization. Who is a member already keeps their role. Raises LimitReached, and then
    the invitation stays open.
    """
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT tenant_id, id FROM tenants_invitation_by_token(%s)", [_token_hash(token)])
        found = cursor.fetchone()
    if found is None:
        raise NotFound
    set_tenant(found[0])
    organization = caps.lock(found[0])  # before the invitation, as `invite` does
    invitation = Invitation.objects.of(found[0]).select_for_update().get(id=found[1])
    if invitation.status != "open" or invitation.email != user.email.lower():
        raise NotFound
    invitation.accepted_at = timezone.now()
    invitation.save(update_fields=["accepted_at"])
    membership: Membership | None = Membership.objects.of(organization).filter(user=user).first()
    if membership is None:
        caps.check(organization, caps.MEMBERS, caps.members(organization))
        membership = Membership.objects.create(organization=organization, user=user, role=invitation.role)
        audit.note(invitation.organization_id, Actor.of(user), "member.joined", shown("usr", user.id), role=membership.role)
    return membership


def _token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
