"""Usage at Stripe: meter events sent, and what Stripe has counted."""

from datetime import datetime
from decimal import Decimal

from billing.stripe.objects import moment
from billing.stripe_gateway import StripeRefused, ask, client, every

_DUPLICATE = "already exists with identifier"


def send_meter_event(*, event_name: str, customer: str, value: int, identifier: str, at: datetime) -> bool:
    """Report `value`. True if it was new, False if Stripe has had this identifier before: both mean delivered.

    Raises OutcomeUnknown if it may have arrived: send the very same again, within a day.
    """
    params = {
        "event_name": event_name,
        "payload": {"stripe_customer_id": customer, "value": str(value)},
        "identifier": identifier,
        "timestamp": int(at.timestamp()),
    }
    try:
        ask(client().v1.billing.meter_events.create, params=params, retries=0)  # a repeated key would replay a saved 500
    except StripeRefused as error:
        # There is no stable code for it (billing.md §2): message and type are matched.
        if error.http_status == 400 and _DUPLICATE in error.detail and identifier in error.detail:
            return False
        raise
    return True


def cancel_meter_event(*, event_name: str, identifier: str) -> None:
    """Take back one that was sent within the last 24 hours."""
    params = {"event_name": event_name, "type": "cancel", "cancel": {"identifier": identifier}}
    ask(client().v1.billing.meter_event_adjustments.create, params=params)


def usage_by_hour(*, meter: str, customer: str, start: datetime, end: datetime) -> dict[datetime, int]:
    """What Stripe has counted, by the hour's start; hours without usage are missing. It may lag behind what was sent."""
    params = {
        "customer": customer,
        "start_time": int(start.timestamp()),
        "end_time": int(end.timestamp()),
        "value_grouping_window": "hour",
    }
    found: dict[datetime, int] = {}
    for row in every(client().v1.billing.meters.event_summaries.list, meter, params=params):
        hour = moment(row["start_time"])
        assert hour is not None
        found[hour] = int(Decimal(str(row["aggregated_value"])))  # a float, of whole numbers below 2^53
    return found


def usage_of(*, meter: str, customer: str, start: datetime, end: datetime) -> int:
    """What Stripe has counted in all of that time, which one request tells. It may lag behind what was sent."""
    params = {"customer": customer, "start_time": int(start.timestamp()), "end_time": int(end.timestamp())}
    rows = every(client().v1.billing.meters.event_summaries.list, meter, params=params)
    return sum(int(Decimal(str(row["aggregated_value"]))) for row in rows)


def rejected_usage(event: str) -> dict[str, str]:
    """Of a thin event that tells of usage which was taken and then not counted: why, by identifier. Only samples are named."""
    json = ask(client().v2.core.events.retrieve, event)
    kinds = ((json.get("data") or {}).get("reason") or {}).get("error_types") or ()
    samples = [sample for kind in kinds for sample in kind.get("sample_errors") or ()]
    named = {(sample.get("request") or {}).get("identifier"): sample.get("error_message") or "" for sample in samples}
    return {identifier: why for identifier, why in named.items() if identifier}
