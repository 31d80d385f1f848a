"""Periodic work on the `ops` queue (CELERY_BEAT_SCHEDULE)."""

from datetime import timedelta

from celery import shared_task
from django.utils import timezone

from tenants import keys
from tenants.crypto import add_data_key
from tenants.databases import as_operator
from tenants.models import DataKey
from tenants.scope import tenant_scope

DATA_KEY_AGE = timedelta(days=30)
"""At 400 sealed values a second one data key would seal 2^30 in that time, a quarter of the bound of random nonces."""


@shared_task
def rotate_data_keys() -> None:
    """Give a new data key to every organization whose current one is DATA_KEY_AGE old; the old one still decrypts."""
    with as_operator():
        old = DataKey.objects.filter(retired_at=None, created_at__lt=timezone.now() - DATA_KEY_AGE)
        organizations = list(old.values_list("organization_id", "purpose"))
    for organization_id, purpose in organizations:
        with tenant_scope(organization_id):
            add_data_key(organization_id, purpose=purpose)
            keys.changed_all(organization_id)
