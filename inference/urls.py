"""Management endpoints of models, versions and aliases, under /api/v1/."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
