"""Caps on models, their versions and aliases, and the bytes of artifacts (tenants/caps.py)."""

import sys
from typing import NamedTuple
from uuid import UUID

from django.conf import settings
from django.db.models import Count, Max, Q, QuerySet, Sum

from inference import disk
from inference.models import Alias, MLModel, ModelVersion, State
from inference.predictions.models import KeptData
from saas.lib.errors import ArtifactTooLarge, LimitReached
from tenants.caps import Cap, check, lock, refusal
from tenants.models import CATALOG_ID, Organization

MODELS = Cap("models", "models", "delete one")
VERSIONS = Cap("versions_per_model", "versions of one model", "delete one that no alias points at")
VALIDATING = Cap("validating", "versions in validation at once", "wait for their verdicts")
ALIASES = Cap("aliases_per_model", "aliases of one model", "delete or move one")
ARTIFACT = Cap("artifact_bytes", "bytes in one artifact", "make the model smaller")
STORED = Cap("stored_bytes", "bytes of artifacts", "delete versions, whose space is free soon after")

DATA = Cap("data_bytes", "bytes of kept inputs and answers", "wait until older ones expire")


class Room(NamedTuple):
    """How large an artifact may be, in bytes: each alone, and beside the `used` ones of all that may be stored."""

    artifact: int
    stored: int
    used: int

    def check(self, size: int) -> None:
        """Raises ArtifactTooLarge or LimitReached for an artifact of (at least) `size` bytes."""
        if size > self.artifact:
            raise refusal(ArtifactTooLarge, ARTIFACT, self.artifact, f"may have {self.artifact} {ARTIFACT.noun}")
        if self.used + size > self.stored:
            reason = f"may have {self.stored} {STORED.noun} and has {self.used}"
            raise refusal(LimitReached, STORED, self.stored, reason, used=self.used)


def lock_for_model(organization_id: UUID) -> None:
    """A place for one more model, for this transaction. Raises LimitReached."""
    organization = lock(organization_id)
    check(organization, MODELS, live_models(organization).count())


def lock_for_version(model: MLModel) -> Room:
    """A place for one more version of a locked model, for this transaction; what it may bring. Raises LimitReached."""
    organization = lock(model.organization_id)
    check(organization, VERSIONS, model.versions.live().count())
    check(organization, VALIDATING, validating(organization))
    if organization.id == CATALOG_ID:
        return Room(sys.maxsize, sys.maxsize, 0)
    return Room(largest_artifact(organization), STORED.of(organization), stored_bytes(organization))


def lock_for_data(organization_id: UUID, size: int) -> None:
    """Room for `size` more bytes of inputs or answers, for this transaction. Raises LimitReached, Unavailable."""
    disk.DATABASE.check()
    organization = lock(organization_id)
    check(organization, DATA, data_bytes(organization), size)


def check_data(organization_id: UUID) -> None:
    """Raises LimitReached or Unavailable if there is no room for any, as far as one sees without a lock."""
    disk.DATABASE.check()
    organization = Organization.objects.get(id=organization_id)
    check(organization, DATA, data_bytes(organization))


def check_alias(model: MLModel) -> None:
    """Whether a locked model may have one more alias. Raises LimitReached."""
    check(Organization.objects.get(id=model.organization_id), ALIASES, model.aliases.count())


def largest_artifact(organization: Organization) -> int:
    """Bytes: the platform's setting, or less."""
    return min(ARTIFACT.of(organization), settings.CONFIG.artifact_max_bytes)


def live_models(organization: Organization) -> "QuerySet[MLModel]":
    models: QuerySet[MLModel] = MLModel.objects.of(organization).live()
    return models


def validating(organization: Organization) -> int:
    return int(ModelVersion.objects.of(organization).live().filter(state=State.VALIDATING).count())


def stored_bytes(organization: Organization) -> int:
    """Of all artifacts that are in the store: a deleted version's too, until the sweeper has removed it."""
    kept = ModelVersion.objects.of(organization).filter(removed_at__isnull=True)
    return kept.aggregate(bytes=Sum("size", default=0))["bytes"]  # type: ignore[no-any-return]  # the shared queryset is typed Any


def data_bytes(organization: Organization) -> int:
    """Of all that is kept of predictions, and of answers that were too large for the books; sealed."""
    return KeptData.objects.filter(organization=organization).values_list("bytes", flat=True).first() or 0


def used(organization: Organization) -> dict[Cap, int]:
    """What there is just now of each; of the caps per model, what the fullest one has."""
    versions = live_models(organization).annotate(n=Count("versions", filter=Q(versions__deleted_at__isnull=True)))
    aliases = Alias.objects.of(organization).values("model").annotate(n=Count("id"))
    return {
        MODELS: live_models(organization).count(),
        VERSIONS: versions.aggregate(most=Max("n", default=0))["most"],
        VALIDATING: validating(organization),
        ALIASES: aliases.aggregate(most=Max("n", default=0))["most"],
        STORED: stored_bytes(organization),
        DATA: data_bytes(organization),
    }
