"""Columns of limits, as organizations and keys have them."""

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

MIB, GIB = 1 << 20, 1 << 30


class LimitColumns(models.Model):
    """Columns of an organization's or a key's limits."""

    monthly_calls = models.BigIntegerField(
        null=True, blank=True, validators=[MinValueValidator(0)], help_text="Calls a month at most; empty: no cap."
    )

    class Meta:
        abstract = True


def _cap(default: int, help_text: str, least: int = 0) -> "models.PositiveBigIntegerField[int, int]":
    """A default in the database too: code of before the column inserts rows without it."""
    return models.PositiveBigIntegerField(
        default=default, db_default=default, validators=[MinValueValidator(least)], help_text=help_text
    )


class CapColumns(models.Model):
    """How much of each kind an organization may have at a time (tenants/caps.py, inference/caps.py)."""

    max_keys = _cap(100, "API keys that are neither revoked nor expired.")
    max_members = _cap(100, "Members.", least=1)
    max_invitations = _cap(50, "Open invitations.")
    max_models = _cap(100, "Models.")
    max_versions_per_model = _cap(100, "Versions of one model.")
    max_validating = _cap(10, "Versions in validation at once.")
    max_aliases_per_model = _cap(50, "Aliases of one model.")
    max_artifact_bytes = _cap(512 * MIB, "Bytes of one artifact; never more than ARTIFACT_MAX_BYTES.", least=1)
    max_stored_bytes = _cap(20 * GIB, "Bytes of all artifacts together.")
    max_data_bytes = _cap(GIB, "Bytes of kept inputs and answers: of predictions, and for Idempotency-Keys.")

    class Meta:
        abstract = True


CAPS_IN_RANGE = Q(
    max_keys__gte=0,
    max_members__gte=1,
    max_invitations__gte=0,
    max_models__gte=0,
    max_versions_per_model__gte=0,
    max_validating__gte=0,
    max_aliases_per_model__gte=0,
    max_artifact_bytes__gte=1,
    max_stored_bytes__gte=0,
    max_data_bytes__gte=0,
)
