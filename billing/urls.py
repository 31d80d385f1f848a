"""Billing's part of /api/v1/."""

from django.urls import path

from billing.seal_views import SigningKeysView
from billing.views import CallsView, LimitsView, UsageView

urlpatterns = [
    path("usage", UsageView.as_view(), name="usage"),
    path("usage/calls", CallsView.as_view(), name="usage-calls"),
    path("limits", LimitsView.as_view(), name="limits"),
    path("billing/signing-keys", SigningKeysView.as_view(), name="signing-keys"),
]
