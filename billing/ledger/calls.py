"""Single calls from the ledger, a day at a time."""

from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from billing.ledger.usage import money
from billing.models import NIL, UsageEvent
from saas.lib.errors import ValidationFailed
from saas.lib.ids import shown
from tenants.models import ApiKey, Organization

PAGE, MOST = 50, 100
NOBODYS = UUID(int=1)


@dataclass(frozen=True)
class Filters:
    """`before`: only calls with a smaller id, that is older ones. `key`: None for any, NOBODYS for one that is not ours."""

    day: date
    model: str | None
    key: UUID | None
    request_id: str | None
    before: UUID | None
    limit: int

    @classmethod
    def parse(cls, query: Any, organization: Organization, *, today: date) -> "Filters":  # Any: a QueryDict or a dict
        """From a query string. Raises ValidationFailed with every wrong field."""
        errors: list[dict[str, str]] = []
        day, before, limit = today, None, PAGE
        try:
            day = date.fromisoformat(query.get("day") or today.isoformat())
        except ValueError:
            errors.append({"field": "day", "detail": "A date, as 2026-11-21."})
        try:
            before = UUID(hex=query["cursor"]) if "cursor" in query else None
        except ValueError:
            errors.append({"field": "cursor", "detail": "Not a cursor that this list gave."})
        text = query.get("limit", str(PAGE))
        if text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= MOST:
            limit = int(text)
        else:
            errors.append({"field": "limit", "detail": f"A number from 1 to {MOST}."})
        texts = {name: query.get(name) or None for name in ("model", "key", "request_id")}
        if errors:
            raise ValidationFailed("The question is not acceptable", errors=errors)
        return cls(day, texts["model"], _key(organization, texts["key"]), texts["request_id"], before, limit)


def _key(organization: Organization, public_id: str | None) -> UUID | None:
    if public_id is None:
        return None
    found: UUID | None = ApiKey.objects.of(organization).filter(public_id=public_id).values_list("id", flat=True).first()
    return found or NOBODYS


def page(organization: Organization, filters: Filters) -> tuple[list[dict[str, Any]], UUID | None]:  # Any: JSON
    """A page, newest first, and its last call if more follow."""
    found = UsageEvent.objects.filter(tenant_id=organization.id, day=filters.day)
    if filters.model:
        found = found.filter(model_name=filters.model)
    if filters.key:
        found = found.filter(api_key_id=filters.key)
    if filters.request_id:
        found = found.filter(request_id=filters.request_id)
    if filters.before:
        found = found.filter(call_id__lt=filters.before)
    rows = list(found.order_by("-call_id")[: filters.limit + 1])
    names = dict(ApiKey.objects.of(organization).filter(id__in={row.api_key_id for row in rows}).values_list("id", "public_id"))
    last = rows[filters.limit - 1].call_id if len(rows) > filters.limit else None
    return [_row(row, names.get(row.api_key_id)) for row in rows[: filters.limit]], last


def _row(event: UsageEvent, key: str | None) -> dict[str, Any]:
    return {
        "id": shown("call", event.call_id),
        "kind": event.kind,
        "mode": event.mode,
        "endpoint": event.endpoint,
        "model": event.model_name,
        "model_id": shown("mdl", event.model_id),
        "version": event.version_number,
        "version_id": shown("ver", event.version_id),
        "key": key,
        "key_id": None if event.api_key_id == NIL else shown("key", event.api_key_id),
        "rows": event.rows,
        "bytes_in": event.bytes_in,
        "bytes_out": event.bytes_out,
        "queue_us": event.queue_us,
        "compute_us": event.compute_us,
        "amount": money(event.amount_nano),
        "currency": event.currency,
        "price_version": event.price_version,
        "request_id": event.request_id,
        "opened_at": event.opened_at.isoformat().replace("+00:00", "Z"),
        "closed_at": event.closed_at.isoformat().replace("+00:00", "Z"),
    }
