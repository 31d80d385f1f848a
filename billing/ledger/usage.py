"""Questions to the roll-ups: what an organization used, by period and by model, key, version or mode."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import redis
from django.db.models import Max, Sum
from django.db.models.functions import Trunc

from billing.models import NIL, JournalPosition, UsageHour, UsageRollup
from inference.books import accounts
from inference.books.scripts import JOURNAL
from saas.lib.errors import ValidationFailed
from saas.lib.ids import shown
from tenants.models import ApiKey, Organization

LONGEST = {"hour": timedelta(days=31), "day": timedelta(days=366), "month": timedelta(days=5 * 366)}
DEFAULT = timedelta(days=30)
MOST_ROWS = 20_000
GROUPS = {
    "model": ("model_id",),
    "version": ("model_id", "version_id"),
    "key": ("api_key_id",),
    "mode": ("mode",),
}
SUMS = ("calls", "reversed", "rows", "bytes_in", "bytes_out", "queue_us", "compute_us", "total_ms")
FORMS = {"hour": "%Y-%m-%dT%H:00:00Z", "day": "%Y-%m-%d", "month": "%Y-%m"}
SETTLED = timedelta(seconds=1)  # a call that has ended is in the journal within 20 ms; this is ample


@dataclass(frozen=True)
class Question:
    """Hours that begin in [start, end), grouped. `groups` are names from GROUPS."""

    start: datetime
    end: datetime
    granularity: str
    groups: tuple[str, ...]

    @classmethod
    def parse(cls, query: Any, *, now: datetime) -> "Question":  # Any: a QueryDict or a dict
        """From a query string. Raises ValidationFailed with every wrong field."""
        errors: list[dict[str, str]] = []
        granularity = query.get("granularity", "day")
        if granularity not in FORMS:
            errors.append({"field": "granularity", "detail": f"One of {', '.join(FORMS)}."})
            granularity = "day"
        groups = tuple(dict.fromkeys(name.strip() for name in query.get("group_by", "").split(",") if name.strip()))
        if unknown := [name for name in groups if name not in GROUPS]:
            errors.append({"field": "group_by", "detail": f"{unknown[0]!r} is not one of {', '.join(GROUPS)}."})
        end = _moment(query.get("to"), "to", errors, is_end=True) or now
        start = _moment(query.get("from"), "from", errors) or _floor(end - DEFAULT).replace(hour=0)
        end = _floor(end + timedelta(hours=1, microseconds=-1))
        if not errors and start >= end:
            errors.append({"field": "from", "detail": "It must be before `to`."})
        if not errors and end - start > LONGEST[granularity] + timedelta(days=1):
            detail = f"At most {LONGEST[granularity].days} days by {granularity}: ask for less, or coarser."
            errors.append({"field": "from", "detail": detail})
        if errors:
            raise ValidationFailed("The question is not acceptable", errors=errors)
        return cls(start, end, granularity, groups)


def _moment(text: str | None, field: str, errors: list[dict[str, str]], *, is_end: bool = False) -> datetime | None:
    """A date (as an end it includes its whole day) or a datetime, UTC if it names no zone, to the hour below."""
    if not text:
        return None
    try:
        if len(text) == len("2026-11-21"):
            moment = datetime.combine(date.fromisoformat(text), time(), UTC) + timedelta(days=int(is_end))
        else:
            moment = datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped + of a zone arrives as a space
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        if not 2000 <= moment.year < 3000:
            raise ValueError(text)
    except (ValueError, OverflowError):
        errors.append({"field": field, "detail": "A date (2026-11-21) or a time (2026-11-21T10:00:00Z)."})
        return None
    return moment if is_end else _floor(moment)


def _floor(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def answer(organization: Organization, question: Question) -> list[dict[str, Any]]:
    """One row per period and group that had calls, oldest first; two queries whatever is asked.

    Raises ValidationFailed if there would be more than MOST_ROWS.
    """
    columns = list(dict.fromkeys(column for name in question.groups for column in GROUPS[name]))
    found = list(
        UsageHour.objects.filter(tenant_id=organization.id, hour__gte=question.start, hour__lt=question.end)
        .annotate(period=Trunc("hour", question.granularity, tzinfo=UTC))
        .values("period", "currency", *columns)
        .annotate(
            a_model=Max("model_name"),
            a_version=Max("version_number"),
            amount=Sum("amount_nano"),
            **{f"sum_{name}": Sum(name) for name in SUMS},
        )
        .order_by("period", *columns, "currency")[: MOST_ROWS + 1]
    )
    if len(found) > MOST_ROWS:
        raise ValidationFailed(f"That is more than {MOST_ROWS} rows: ask for a shorter time, or fewer groups")
    keys = _keys(organization, {row["api_key_id"] for row in found}) if "key" in question.groups else {}
    return [_row(row, question, keys) for row in found]


def _keys(organization: Organization, ids: set[UUID]) -> dict[UUID, ApiKey]:
    return {key.id: key for key in ApiKey.objects.of(organization).filter(id__in=ids).only("id", "public_id", "name")}


def columns(question: Question) -> list[str]:
    """The names in a row, in order."""
    columns = ["period"]
    if {"model", "version"} & set(question.groups):
        columns += ["model", "model_id"]
    if "version" in question.groups:
        columns += ["version", "version_id"]
    if "key" in question.groups:
        columns += ["key", "key_id", "key_name"]
    if "mode" in question.groups:
        columns += ["mode"]
    return [*columns, *SUMS, "amount", "currency"]


def _row(found: dict[str, Any], question: Question, keys: dict[UUID, ApiKey]) -> dict[str, Any]:
    """A row as it is shown. A call without key (a session's) has none; one of a deleted key keeps the key's id."""
    row: dict[str, Any] = {"period": found["period"].strftime(FORMS[question.granularity])}
    if "model_id" in found:
        row |= {"model": found["a_model"], "model_id": shown("mdl", found["model_id"])}
    if "version_id" in found:
        row |= {"version": found["a_version"], "version_id": shown("ver", found["version_id"])}
    if "api_key_id" in found:
        key = keys.get(found["api_key_id"])
        row |= {
            "key": key.public_id if key else None,
            "key_id": None if found["api_key_id"] == NIL else shown("key", found["api_key_id"]),
            "key_name": key.name if key else None,
        }
    if "mode" in found:
        row["mode"] = found["mode"]
    row |= {name: found[f"sum_{name}"] for name in SUMS}
    return row | {"amount": money(found["amount"]), "currency": found["currency"]}


def money(nano: int) -> str:
    """Billionths as a decimal number: 1500000000 is 1.500000000."""
    return f"{Decimal(nano).scaleb(-9):f}"


def complete_until(now: datetime) -> datetime | None:
    """Until when every ended call is in the hours. Asked before the hours are, which may then hold more, never less.

    While the roll-up is behind the ledger, that is a second before the last entry it has taken. Else a second ago if the
    journal is empty, or a second before its oldest entry was written; with the state server away, the time of the last entry
    that the ledger holds. None if there has never been one.
    """
    rolled, drained = _rolled_up()
    if rolled != drained:
        return _settled(rolled)
    try:
        waiting: Any = accounts.shared_client().xrange(JOURNAL, min=f"({drained}", count=1)
    except redis.RedisError:
        return _written_at(drained)
    if _rolled_up() != (rolled, drained):  # what was waiting may be trimmed already, and not be in the hours yet
        return _settled(rolled)
    return _settled(waiting[0][0].decode()) if waiting else now - SETTLED


def _rolled_up() -> tuple[str, str]:
    """The last journal entry in the hours, and in the ledger."""
    drained = JournalPosition.objects.filter(stream=JOURNAL).first()
    if drained is None:
        return "0-0", "0-0"
    rolled = UsageRollup.objects.filter(stream=JOURNAL).first()
    if rolled and rolled.batch == drained.batch:
        return drained.position, drained.position
    return rolled.position if rolled else "0-0", drained.position


def _settled(position: str) -> datetime | None:
    written = _written_at(position)
    return written - SETTLED if written else None


def _written_at(position: str) -> datetime | None:
    """When a stream entry was written, by its id; None for `0-0`."""
    at_ms = int(position.partition("-")[0])
    return datetime.fromtimestamp(at_ms / 1000, UTC) if at_ms else None
