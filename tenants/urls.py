"""Management endpoints of organizations, members, invitations and keys, under /api/v1/."""

from django.urls import path

from tenants.key_views import KeysView, KeyView, RotateKeyView
from tenants.member_views import AcceptInvitationView, InvitationsView, InvitationView, MembersView, MemberView
from tenants.organization_views import AuditEventsView, MeView, OrganizationView

urlpatterns = [
    path("me", MeView.as_view(), name="me"),
    path("organization", OrganizationView.as_view(), name="organization"),
    path("audit-events", AuditEventsView.as_view(), name="audit-events"),
    path("members", MembersView.as_view(), name="members"),
    path("members/<str:member>", MemberView.as_view(), name="member"),
    path("invitations", InvitationsView.as_view(), name="invitations"),
    path("invitations/accept", AcceptInvitationView.as_view(), name="accept-invitation"),
    path("invitations/<str:invitation>", InvitationView.as_view(), name="invitation"),
    path("keys", KeysView.as_view(), name="keys"),
    path("keys/<str:key>", KeyView.as_view(), name="key"),
    path("keys/<str:key>/rotate", RotateKeyView.as_view(), name="rotate-key"),
]
