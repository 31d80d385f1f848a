"""Management endpoints of organizations, members, invitations and keys, under /api/v1/."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
