"""Collects a drill's evidence from the running platform, once it is at rest."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from billing.ledger.records import MARKER
from inference.books.record import unpack_record
from tests.drill.evidence import Burnt, Evidence, Mark, Prediction, Request, Row, Sums, Upset
from tests.drill.hours import Hours
from tests.drill.stage import Stage
from tests.e2e.customers import Customer
from tests.service import Service

REST_WITHIN = 240.0  # seconds until nothing is open and the journal is in the ledger
BURNT_WITHIN = 60.0  # seconds until what the ledger has is taken from the credit
PREDICTIONS_WITHIN = 400.0  # the lease of an attempt whose worker fell is 90 s
HEART = "a gateway's heart has stopped"  # inference/books/reaper.py
REAPED_AFTER = 10.0  # seconds from a last answer to the reap: 3 s of silence, and a poll or two of a slow machine
TERMINAL = {"succeeded", "failed", "canceled"}
COLUMNS = (
    "replace(call_id::text, '-', ''), request_id, replace(tenant_id::text, '-', ''), replace(api_key_id::text, '-', ''), kind, \
endpoint, period, amount_nano, split_part(stream_id, '-', 1)::bigint / 3600000"
)
REMAINING = "SELECT coalesce(sum(remaining_nano), 0)::bigint FROM credit_grant WHERE tenant_id = %s"
BURNT = """
SELECT coalesce(sum(burnt_nano), 0)::bigint, coalesce(sum(overrun_nano), 0)::bigint FROM credit_month WHERE tenant_id = %s
"""


def rest(service: Service, organizations: list[str]) -> None:
    """Wait until predictions have ended, nothing is open and the journal is drained, but not for ever: the checker judges."""
    _wait(lambda: not _unfinished(service, organizations), PREDICTIONS_WITHIN)
    _wait(lambda: not open_calls(service) and not _journal(service), REST_WITHIN)


def hurry_predictions(service: Service, organizations: list[str]) -> None:
    """What the time of a lease would do: let attempts whose worker fell be tried again now."""
    statement = "UPDATE inference_prediction SET next_try_at = now(), sent_at = NULL WHERE tenant_id = ANY(%s::uuid[]) \
AND status IN ('starting', 'processing') RETURNING id"
    service.rows(statement, organizations)


def gather(
    service: Service, stage: Stage, history: list[Request], *, upsets: list[Upset], peaks: dict[str, Sums], rested_at: float
) -> Evidence:
    organizations, hours = [customer.organization for customer in stage.customers], Hours(service)
    return Evidence(
        history,
        rows=_rows(service, organizations),
        predictions=_predictions(service, stage.customers),
        journal=_journal(service),
        open_calls=open_calls(service),
        accounts={organization: account(service, organization) for organization in organizations},
        caps=stage.caps,
        upsets=[*upsets, *reaps(service)],
        quarantined=_quarantined(service),
        purses=stage.purses,
        peaks=peaks,
        burnt={organization: burnt(service, organization) for organization in stage.prepaid},
        rested_at=rested_at,
        seals=hours.seals(organizations),
        subscribed=stage.subscribed,
        told=hours.told(organizations),
        counted=hours.counted(),
    )


def open_calls(service: Service) -> list[str]:
    with service.state() as state:
        keys = [key for pattern in ("open:*", "reaping:*") for key in state.scan_iter(pattern)]
        return [name.decode() for key in keys for name in state.hkeys(key) if len(name) == 32]


def account(service: Service, organization: str) -> Sums:
    with service.state() as state:
        fields = {name.decode(): int(value) for name, value in state.hgetall(f"account:{organization}").items()}
    sums: Sums = {}
    for name, value in fields.items():
        kind, *scope = name.split(":")
        if kind in ("calls", "nano") and value:
            period, key = scope
            calls, nano = sums.get((key, period), (0, 0))
            sums[key, period] = (value, nano) if kind == "calls" else (calls, value)
    return sums


def burnt(service: Service, organization: str) -> Burnt:
    """Once the ledger's charges were taken from the credit, or will not be any more."""

    def found() -> Burnt:
        [(remaining,)], [taken] = service.rows(REMAINING, organization), service.rows(BURNT, organization)
        return Burnt(remaining, *taken)

    charged = account(service, organization).get(("", "ever"), (0, 0))[1]
    _wait(lambda: found().burnt == charged, BURNT_WITHIN)
    return found()


def _rows(service: Service, organizations: list[str]) -> list[Row]:
    statement = f"SELECT {COLUMNS} FROM usage_event WHERE tenant_id = ANY(%s::uuid[])"
    return [Row(*columns) for columns in service.rows(statement, organizations)]


def _journal(service: Service) -> list[Row]:
    """What the ledger does not hold yet."""
    with service.state() as state:
        state.set_response_callback("XRANGE", lambda reply, **options: reply)  # a dict would keep one of many fields called `r`
        entries = state.execute_command("XRANGE", "journal", "-", "+")
    pairs = [pair for _, fields in entries for pair in zip(fields[::2], fields[1::2], strict=True)]
    records = [unpack_record(packed) for name, packed in pairs if name != MARKER]
    return [Row(r.call, r.request_id, r.tenant, r.key, r.kind, r.endpoint, r.period, r.nano) for r in records]


def reaps(service: Service) -> list[Upset]:
    """When sessions were reaped, as the bookkeeper's log tells: a machine that is too busy is a gateway's fall as well."""
    found = re.findall(rf"(\d{{4}}-\S+) warning \S+ {HEART}", (service.data_dir / "log" / "service.log").read_text())
    since_boot = time.time() - time.monotonic()
    stamps = [datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp() - since_boot for stamp in found]
    return [Upset("gateway", "REAPED", stamp - REAPED_AFTER, stamp + 2.0) for stamp in stamps]


def _quarantined(service: Service) -> int:
    with service.state() as state:
        held = state.xlen("journal:quarantine")
    return held + service.rows("SELECT count(*) FROM journal_quarantine", role="owner")[0][0]


def _unfinished(service: Service, organizations: list[str]) -> list[tuple]:
    statement = "SELECT id FROM inference_prediction WHERE tenant_id = ANY(%s::uuid[]) AND status <> ALL(%s) LIMIT 1"
    return service.rows(statement, organizations, sorted(TERMINAL))


def _predictions(service: Service, customers: list[Customer]) -> list[Prediction]:
    """Each with the numbers of its output, as its owner gets them."""
    owners = {customer.organization: customer for customer in customers}
    columns = "replace(id::text, '-', ''), request_id, replace(tenant_id::text, '-', ''), status, error_code"
    statement = f"SELECT {columns} FROM inference_prediction WHERE tenant_id = ANY(%s::uuid[])"
    rows = service.rows(statement, list(owners))

    def told(row: tuple) -> Prediction:
        identity, request_id, organization, status, code = row
        got = _output(owners[organization], f"pred_{identity}") if status == "succeeded" else None
        return Prediction(request_id, organization, status, got, code)

    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(told, rows))


def _output(owner: Customer, shown_id: str) -> Mark:
    answer = owner.get(f"predictions/{shown_id}")
    assert "output" in answer.text, answer.text
    return tuple(answer.json()["output"]["outputs"][0]["data"])


def _wait(is_so: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.2)
