"""The drill in short: a fault at each kind of point and in each part, under load; then the checker. `make drill` is long."""

import asyncio

import pytest

from tests.drill.checker import totals
from tests.drill.drill import Drill, tapped_service
from tests.drill.faults import Fault

pytestmark = [pytest.mark.no_servers, pytest.mark.timeout(900)]

SEED, CAP, CALLS = 5, 100, 2000
FAULTS = [
    Fault(1, "gateway", "KILL", "answer.after", nth=7),
    Fault(2, "state", "KILL", "close.sent", nth=5),
    Fault(3, "lanes", "KILL", "push.sent", nth=5),
    Fault(4, "bookkeeper", "KILL", "ledger.committed"),
    Fault(5, "worker", "KILL", "batch.run", nth=5),
    Fault(6, "postgres", "KILL", "ledger.moved"),
    Fault(7, "gateway", "STOP", "open.heard", nth=5, seconds=5.0),
    Fault(8, "stripe", "KILL", "usage.counted"),
    Fault(9, "stripe", "STOP", "usage.sent", seconds=4.0),
    Fault(10, "ops", "KILL", "usage.heard"),
    Fault(11, "stripe", "TERM"),
    Fault(12, "ops", "TERM"),
    Fault(13, "beat", "KILL"),
]


def test_faults_lose_double_leak_and_overcharge_nothing():
    with tapped_service() as (service, directory):
        drill = Drill(service, directory, FAULTS, seed=SEED, cap=CAP)
        drill.prepare()
        drilled = asyncio.run(drill.run(calls=CALLS, in_flight=12, is_hurried=True))

    statuses = drilled.evidence.statuses()
    assert drilled.failure == ""
    assert not drilled.findings, (totals(drilled.findings), drilled.findings[:20])
    assert all(statuses[kind, "200"] for kind in ("json", "shared", "binary", "friendly", "keyed")), statuses
    assert statuses["again", "200 replayed"], statuses
    assert any(what.startswith("429") for _, what in statuses), statuses  # the caps were met
    met = {(cap.name, cap.source) for request in drilled.evidence.requests if (cap := request.cap)}
    assert met == {("budget", "organization"), ("budget", "key"), ("credit", "organization")}
    assert len(drilled.evidence.counted) >= len(FAULTS)  # each hour's usage was told while something fell
