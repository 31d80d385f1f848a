"""`Prefer: wait`: who waits for a prediction, and for how long. A place is a thread of the process, so there are few.

Between two looks nothing is open but the thread's own connection, which it has whether it waits or not.
"""

import time
from collections.abc import Callable
from uuid import UUID

from inference.predictions.models import TERMINAL, Prediction
from saas.lib.places import Places
from tenants.scope import tenant_scope

FIRST_PAUSE = 0.03  # seconds between looks: short while most answers come, then longer
LONGEST_PAUSE = 0.5
GROWTH = 1.3


PLACES = Places(overall=4, per_organization=2)


def wait_until_finished(organization_id: UUID, pk: UUID, seconds: float, has_left: Callable[[], bool]) -> None:
    """Return when the prediction is finished or gone, `seconds` have passed or its client left; at once if too many wait."""
    until = time.monotonic() + seconds
    pause = FIRST_PAUSE
    with PLACES.take(organization_id) as has_place:
        while has_place and not has_left() and not _is_finished(organization_id, pk):
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(pause, left))
            pause = min(pause * GROWTH, LONGEST_PAUSE)


def _is_finished(organization_id: UUID, pk: UUID) -> bool:
    with tenant_scope(organization_id):
        status = Prediction.objects.of(organization_id).filter(pk=pk).values_list("status", flat=True).first()
    return status is None or status in TERMINAL
