"""/members and /invitations."""

from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from saas.lib.errors import NotFound, ScopeMissing
from saas.lib.ids import parse_id
from tenants import actions, grants
from tenants.access import access_to
from tenants.bodies import Body, ShownId
from tenants.models import Invitation, Membership, Organization, Role
from tenants.pagination import page
from tenants.permissions import SIGNED_IN
from tenants.views import ManagementView, TenantView


class MemberOut(serializers.Serializer):  # type: ignore[type-arg]  # bound to no model
    id = ShownId("usr", source="user_id")
    email = serializers.CharField(source="user.email")
    name = serializers.CharField(source="user.name")
    role = serializers.CharField()
    joined_at = serializers.DateTimeField(source="created_at")


class MemberBody(Body):
    role = serializers.ChoiceField(Role.choices)


class InvitationOut(serializers.Serializer):  # type: ignore[type-arg]  # bound to no model
    id = ShownId("invt")
    email = serializers.CharField()
    role = serializers.CharField()
    status = serializers.CharField()
    expires_at = serializers.DateTimeField()
    created_at = serializers.DateTimeField()


class InvitationBody(Body):
    email = serializers.EmailField(max_length=254)
    role = serializers.ChoiceField(Role.choices, default=Role.DEVELOPER)


class AcceptBody(Body):
    token = serializers.CharField(max_length=200)


def resolve_member(organization: Organization, shown_id: str) -> Membership:
    """The member with this `usr_…`. Raises NotFound for anybody who is none."""
    membership = Membership.objects.of(organization).select_related("user").filter(user_id=_id("usr", shown_id)).first()
    if membership is None:
        raise NotFound
    return membership  # type: ignore[no-any-return]  # the shared queryset is typed Any


def resolve_invitation(organization: Organization, shown_id: str) -> Invitation:
    """The organization's invitation `invt_…`. Raises NotFound."""
    invitation = Invitation.objects.of(organization).filter(id=_id("invt", shown_id)).first()
    if invitation is None:
        raise NotFound
    return invitation  # type: ignore[no-any-return]  # the shared queryset is typed Any


def _id(prefix: str, shown_id: str) -> UUID:
    value = parse_id(prefix, shown_id)
    if value is None:
        raise NotFound
    return value


class MembersView(TenantView):
    required_scope = {"GET": "members:read"}

    @extend_schema(responses=MemberOut(many=True))
    def get(self, request: Request) -> Response:
        rows = Membership.objects.of(self.organization).select_related("user")
        return page(request, rows, lambda membership: MemberOut(membership).data)


class MemberView(TenantView):
    required_scope = {"GET": "members:read", "PATCH": "members:write", "DELETE": SIGNED_IN}
    when_closed = frozenset({"DELETE"})

    @extend_schema(responses=MemberOut)
    def get(self, request: Request, member: str) -> Response:
        return Response(MemberOut(resolve_member(self.organization, member)).data)

    @extend_schema(request=MemberBody, responses=MemberOut)
    def patch(self, request: Request, member: str) -> Response:
        role = MemberBody.parse(request.data)["role"]
        membership = resolve_member(self.organization, member)
        grants.check_role(self.access, membership.role)
        grants.check_role(self.access, role)
        actions.change_role(membership, role=role, actor=self.actor)
        return Response(MemberOut(membership).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, member: str) -> Response:
        membership = resolve_member(self.organization, member)
        grants.check_may_remove(self.access, membership)
        actions.remove_member(membership, actor=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)


class InvitationsView(TenantView):
    required_scope = {"GET": "members:read", "POST": "members:write"}

    @extend_schema(responses=InvitationOut(many=True))
    def get(self, request: Request) -> Response:
        return page(request, Invitation.objects.of(self.organization), lambda invitation: InvitationOut(invitation).data)

    @extend_schema(request=InvitationBody, responses={201: InvitationOut})
    def post(self, request: Request) -> Response:
        body = InvitationBody.parse(request.data)
        grants.check_role(self.access, body["role"])
        invitation = actions.invite(organization=self.organization, invited_by=self.access.user, actor=self.actor, **body)
        return Response(InvitationOut(invitation).data, status=status.HTTP_201_CREATED)


class InvitationView(TenantView):
    required_scope = {"GET": "members:read", "DELETE": "members:write"}
    when_closed = frozenset({"DELETE"})

    @extend_schema(responses=InvitationOut)
    def get(self, request: Request, invitation: str) -> Response:
        return Response(InvitationOut(resolve_invitation(self.organization, invitation)).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, invitation: str) -> Response:
        actions.revoke_invitation(resolve_invitation(self.organization, invitation), actor=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)


class AcceptInvitationView(ManagementView):
    """For whoever is signed in with the address that was invited; they need be in no organization yet."""

    required_scope = SIGNED_IN

    @extend_schema(request=AcceptBody, responses=MemberOut)
    def post(self, request: Request) -> Response:
        access = access_to(request)
        if access.user is None:
            raise ScopeMissing("A person accepts an invitation, signed in; a key cannot.")
        membership = actions.accept_invitation(token=AcceptBody.parse(request.data)["token"], user=access.user)
        return Response(MemberOut(membership).data)
