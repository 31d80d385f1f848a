"""Which version is examined next: organizations take turns, and of each one examination is under way at a time.

The turn is of whose examinations took least time lately. Each version has a short examination first; those that do not end in
it wait for a long one, apart from the others. So an ordinary model waits for short examinations only, however slow others' are.
"""

from datetime import datetime, timedelta

from django.db.models import Exists, F, Max, OuterRef, Subquery, Sum, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from inference.models import INTAKE_ATTEMPTS, ModelVersion, VersionQuerySet
from tenants.databases import as_operator

LATELY = timedelta(minutes=10)


def take_next(*, is_long: bool) -> ModelVersion | None:
    """Claim the version whose turn it is, for INTAKE_LEASE; None if none is due or those that are have to wait.

    Who chooses at the same moment chooses the same version, so that one gets it and the others choose again.
    """
    with as_operator():
        while chosen := in_turn(timezone.now(), is_long=is_long).values_list("id", flat=True).first():
            taken: ModelVersion | None = ModelVersion.objects.claim(chosen)
            if taken is not None:
                return taken
    return None


def in_turn(now: datetime, *, is_long: bool) -> VersionQuerySet:
    """Due versions of organizations of which nothing is under way: first of whose examinations took least lately, then of whose
    last turn is longest ago, then the oldest."""
    same = ModelVersion.objects.filter(organization=OuterRef("organization"))
    of_organization = same.order_by().values("organization")
    latest = of_organization.annotate(latest=Max("examined_at")).values("latest")
    used = of_organization.filter(examined_at__gt=now - LATELY).annotate(used=Sum("examined_seconds")).values("used")
    due: VersionQuerySet = ModelVersion.objects.due(now).filter(attempts__lt=INTAKE_ATTEMPTS, needs_long=is_long)
    due = due.exclude(Exists(same.in_hands(now)))
    due = due.annotate(last_turn=Subquery(latest), used=Coalesce(Subquery(used), Value(0.0)))
    return due.order_by("used", F("last_turn").asc(nulls_first=True), "created_at", "id")
