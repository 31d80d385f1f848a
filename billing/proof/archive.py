"""Receipts after the fact: for any call of the ledger, with the seal that its row is in."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connection

from billing.models import UsageSeal
from billing.proof.bill import seal_of
from billing.proof.receipts import SELECTED, of_row
from billing.proof.seals import day_of_call
from inference.gateway import receipts
from saas.lib.errors import ValidationFailed
from saas.lib.ids import parse_id, shown
from tenants.models import Organization

MOST = 100
ENDS_MS = 1 << 47  # of the times in the ids of calls; below it everything is a day that the calendar has

ONE = """
SELECT columns, stream_id, batch FROM usage_event WHERE tenant_id = %(tenant)s AND day = %(day)s AND call_id = %(call)s
ORDER BY seq LIMIT 1
""".replace("columns", SELECTED)


def parse_calls(texts: Sequence[str]) -> list[UUID]:
    """Ids as `call_…`, or as statements have them. Raises ValidationFailed."""
    calls = [parse_id("call", text) or parse_id("call", f"call_{text}") for text in texts]
    if len(calls) > MOST or None in calls:
        detail = f"Ids of calls, as call_01a2165d165a7200abc52b16b89dc89a, at most {MOST}."
        raise ValidationFailed(f"call: {detail}", errors=[{"field": "call", "detail": detail}])
    return [call for call in calls if call is not None]


def receipt_of(organization: Organization, call: UUID) -> dict[str, Any] | None:  # Any: JSON
    """Statement and receipt, signed now, and the seal, None before the hour is sealed. None if there is no such call.

    Inside a transaction of that tenant.
    """
    if call.int >> 80 >= ENDS_MS:
        return None
    with connection.cursor() as cursor:
        cursor.execute(ONE, {"tenant": organization.id, "call": call, "day": day_of_call(call)})
        row = cursor.fetchone()
    if row is None:
        return None
    *columns, stream_id, batch = row
    stated = of_row(tuple(columns))
    hour = datetime.fromtimestamp(int(stream_id.partition("-")[0]) // 3_600_000 * 3600, UTC)
    seals = UsageSeal.objects.filter(tenant_id=organization.id, hour=hour, after_batch__lt=batch, last_batch__gte=batch)
    seal = seals.first()
    return {
        "id": shown("call", call),
        "statement": json.loads(stated),
        "receipt": receipts.signed(stated).decode(),
        "seal": None if seal is None else seal_of(seal).shown(),
    }
