"""Which version is examined next: organizations take turns, and of each one examination is under way at a time.

So what one of them uploads, and how long it takes to examine, delays nobody else's verdict.
"""

from datetime import datetime

from django.db.models import Exists, F, Max, OuterRef, Subquery
from django.utils import timezone

from inference.models import INTAKE_ATTEMPTS, ModelVersion, VersionQuerySet
from tenants.databases import as_operator


def take_next() -> ModelVersion | None:
    """Claim the version whose turn it is, for INTAKE_LEASE; None if none is due or those that are have to wait.

    Who chooses at the same moment chooses the same version, so that one gets it and the others choose again.
    """
    with as_operator():
        while chosen := in_turn(timezone.now()).values_list("id", flat=True).first():
            taken: ModelVersion | None = ModelVersion.objects.claim(chosen)
            if taken is not None:
                return taken
    return None


def in_turn(now: datetime) -> VersionQuerySet:
    """Due versions of organizations of which nothing is under way: first of whose last turn is longest ago, then the oldest."""
    same = ModelVersion.objects.filter(organization=OuterRef("organization"))
    latest = same.order_by().values("organization").annotate(latest=Max("examined_at")).values("latest")
    due: VersionQuerySet = ModelVersion.objects.due(now).filter(attempts__lt=INTAKE_ATTEMPTS)
    due = due.exclude(Exists(same.in_hands(now))).annotate(last_turn=Subquery(latest))
    return due.order_by(F("last_turn").asc(nulls_first=True), "created_at", "id")
