"""The prediction object as callers see it. Its input and output are put in as the JSON texts that they are."""

from collections.abc import Mapping
from typing import Any

import orjson
from django.conf import settings
from django.db.models import BigIntegerField, F, Func, QuerySet
from django.db.models.functions import Coalesce
from rest_framework.renderers import JSONRenderer

from inference.predictions.models import Prediction, PredictionQuerySet
from saas.lib.errors import CapacityExhausted, NotFound
from saas.lib.places import Bytes
from tenants.crypto import unseal_for
from tenants.scope import tenant_scope

ROOM = Bytes(overall=64 << 20, per_organization=32 << 20)  # data that is being read; each byte is several times in memory
READ_WITHIN = 10.0  # seconds that a thread waits for room


class TextRenderer(JSONRenderer):
    """JSON in which orjson.Fragments stand as they are."""

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:  # Any: JSON, and as DRF declares it
        return b"" if data is None else orjson.dumps(data, option=orjson.OPT_UTC_Z)


def without_data(rows: PredictionQuerySet) -> QuerySet[Prediction, Any]:  # Any: a value that is annotated
    """`rows` without what may be large, of which they have the size in bytes as `data_bytes`."""
    sizes = [Func(F(column), function="octet_length", output_field=BigIntegerField()) for column in ("input", "output")]
    return rows.defer("input", "output").annotate(data_bytes=Coalesce(sizes[0], 0) + Coalesce(sizes[1], 0))  # type: ignore[no-any-return]  # the base class is Any


def read(row: Any) -> dict[str, Any]:  # Any: a Prediction of `without_data`; JSON
    """The object of that row as it is now, with its data. Raises NotFound, and CapacityExhausted if too many are being read."""
    organization = row.organization_id
    with ROOM.take(organization, row.data_bytes, within=READ_WITHIN) as has_room:
        if not has_room:
            raise CapacityExhausted("Too many large predictions are being read", retry_after=1, source="platform")
        with tenant_scope(organization):
            now: Prediction | None = Prediction.objects.of(organization).filter(pk=row.pk).first()
            if now is None:
                raise NotFound(f"There is no prediction {row.shown_id}")
            return shown(now)


def shown(row: Prediction) -> dict[str, Any]:  # Any: JSON
    """The prediction object with its input and output. Inside a transaction of its organization."""
    return {**listed(row), "input": _text(row, "input"), "output": _text(row, "output")}


def _text(row: Prediction, column: str) -> orjson.Fragment | None:
    sealed = getattr(row, column)
    if sealed is None:
        return None
    return orjson.Fragment(unseal_for(row.organization_id, sealed, context=("prediction", column, row.id.hex)))


def listed(row: Prediction) -> dict[str, Any]:  # Any: JSON
    """The same without its data, as in lists."""
    url = f"{settings.CONFIG.base_url}/api/v1/predictions/{row.shown_id}"
    error = {"code": row.error_code, "detail": row.error_detail} if row.error_code else None
    total = (row.completed_at - row.created_at).total_seconds() if row.completed_at else None
    return {
        "id": row.shown_id,
        "model": row.model_name,
        "version": row.version_number,
        "endpoint": row.endpoint,
        "status": row.status,
        "error": error,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "completed_at": row.completed_at,
        "expires_at": row.expires_at,
        "data_removed": row.data_removed_at is not None,
        "attempts": row.attempts,
        "cost": row.cost or None,
        "metrics": {"predict_time": row.compute_us / 1e6, "queue_time": row.queue_us / 1e6, "total_time": total},
        "urls": {"get": url, "cancel": f"{url}/cancel"},
    }
