"""Meter events: taken, told apart by their identifiers for a day, added up later."""

from typing import Any

from saas.local.stripe import faults
from saas.local.stripe.catalogue import need
from saas.local.stripe.refusals import Refusal, invalid
from saas.local.stripe.routes import route
from saas.local.stripe.store import Json, page
from saas.local.stripe.world import World

DAY = 86_400
OLDEST, NEWEST = 35 * DAY, 300  # seconds before and after now
LONGEST_IDENTIFIER, MOST_DIGITS = 100, 15


@route("POST", "/v1/billing/meter_events")
def create(world: World, params: Json) -> Json:
    need(params, "event_name", "payload")
    now = world.now()
    event_name, payload = params["event_name"], params["payload"]
    meters = world.store.all("billing.meter", event_name=event_name, status="active")
    at = int(params.get("timestamp", now))
    if at < now - OLDEST or at > now + NEWEST:
        raise invalid("timestamp", "The timestamp must be within the past 35 days and not more than 5 minutes in the future")
    customer, value = str(payload.get("stripe_customer_id", "")), str(payload.get("value", ""))
    if not value.lstrip("-").isdigit() or len(value.lstrip("-")) > MOST_DIGITS:
        raise invalid("payload[value]", f"The value must be a whole number of at most {MOST_DIGITS} digits, not {value!r}")
    identifier = params.get("identifier") or f"auto_{now}_{id(params)}"
    if len(identifier) > LONGEST_IDENTIFIER:
        raise invalid("identifier", f"The identifier may have {LONGEST_IDENTIFIER} characters")
    _refuse_known(world, event_name, identifier, now)
    answer = {
        "object": "billing.meter_event",
        "created": now,
        "event_name": event_name,
        "identifier": identifier,
        "livemode": False,
        "payload": payload,
        "timestamp": at,
    }
    if not meters:
        _report(world, "v1.billing.meter.no_meter_found", None, f"No meter found for the event name {event_name}", answer)
        return answer
    if not world.store.all("customer", customer=customer) or faults.take(world, "reject_usage") is not None:
        reason = f"Cannot find the customer {customer}"
        _report(world, "v1.billing.meter.error_report_triggered", meters[0], reason, answer)
        return answer
    world.store.db.execute(
        "INSERT INTO usage (event_name, customer, identifier, value, at, received_at, visible_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (event_name, customer, identifier, int(value), at, now, world.exact_now() + world.store.setting("late_summaries")),
    )
    return answer


def _refuse_known(world: World, event_name: str, identifier: str, now: int) -> None:
    """An identifier is remembered for 24 hours after it came, or until the fault script forgets it."""
    since = max(now - DAY, world.store.setting("forgotten_before", -1.0))
    row = world.store.db.execute(
        "SELECT 1 FROM usage WHERE event_name = ? AND identifier = ? AND received_at > ?", (event_name, identifier, since)
    ).fetchone()
    if row:
        raise Refusal(400, f"An event already exists with identifier {identifier}.")


@route("POST", "/v1/billing/meter_event_adjustments")
def cancel(world: World, params: Json) -> Json:
    need(params, "event_name", "type")
    identifier = (params.get("cancel") or {}).get("identifier", "")
    done = world.store.db.execute(
        "DELETE FROM usage WHERE event_name = ? AND identifier = ? AND received_at > ?",
        (params["event_name"], identifier, world.now() - DAY),
    )
    if not done.rowcount:
        raise invalid("cancel[identifier]", f"No event of the last 24 hours has the identifier {identifier}")
    return {
        "object": "billing.meter_event_adjustment",
        "cancel": {"identifier": identifier},
        "event_name": params["event_name"],
        "livemode": False,
        "status": "pending",
        "type": "cancel",
    }


@route("GET", "/v1/billing/meters/{id}/event_summaries")
def summaries(world: World, params: Json, id: str) -> Json:
    """By hour, by day or whole; hours without usage are left out."""
    need(params, "customer", "start_time", "end_time")
    meter = world.store.get("billing.meter", id)
    start, end = int(params["start_time"]), int(params["end_time"])
    window = {"hour": 3600, "day": DAY}.get(params.get("value_grouping_window", ""), 0)
    if start >= end or any(time % (window or 60) for time in (start, end)):
        raise invalid("start_time", "Times must be in order and whole windows (minutes without one)")
    sums: dict[int, int] = {}
    for at, value in _visible(world, meter, params["customer"], start, end):
        begin = at - at % window if window else start
        sums[begin] = sums.get(begin, 0) + value
    rows = [
        {
            "id": f"mtrusg_test_{meter['id'][-8:]}{begin}",
            "object": "billing.meter_event_summary",
            "aggregated_value": float(total),
            "start_time": begin,
            "end_time": begin + window if window else end,
            "livemode": False,
            "meter": id,
        }
        for begin, total in sorted(sums.items())
    ]
    return page(rows, params, f"/v1/billing/meters/{id}/event_summaries")


def used(world: World, meter: Json, customer: str, start: int, end: int) -> int:
    """The total of a period as Stripe sees it now; never below 0."""
    return max(0, sum(value for _, value in _visible(world, meter, customer, start, end)))


def _visible(world: World, meter: Json, customer: str, start: int, end: int) -> list[tuple[int, int]]:
    rows: list[tuple[int, int]] = world.store.db.execute(
        """SELECT at, value FROM usage
           WHERE event_name = ? AND customer = ? AND at >= ? AND at < ? AND visible_at <= ? ORDER BY seq""",
        (meter["event_name"], customer, start, end, world.exact_now()),
    ).fetchall()
    formula = meter["default_aggregation"]["formula"]
    if formula == "count":
        return [(at, 1) for at, _ in rows]
    return rows[-1:] if formula == "last" else rows


def _report(world: World, type: str, meter: Json | None, reason: str, event: Json) -> None:
    """What Stripe refuses after it took it is told by a thin event only, with a sample."""
    related: Any = None
    if meter is not None:
        related = {"id": meter["id"], "type": "billing.meter", "url": f"/v1/billing/meters/{meter['id']}"}
    sample = {"error_message": reason, "request": {"identifier": event["identifier"]}}
    kind = "no_meter" if meter is None else "meter_event_customer_not_found"
    data = {
        "developer_message_summary": reason,
        "reason": {"error_count": 1, "error_types": [{"code": kind, "error_count": 1, "sample_errors": [sample]}]},
        "validation_start": world.now(),
        "validation_end": world.now(),
    }
    world.emit_thin(type, related=related, data=data)
