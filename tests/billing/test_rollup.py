"""Hours and sums: always what the rows add up to."""

import random
import time

from billing.drain import Drain
from saas.lib.ids import uuid7
from tests.billing.journal import usage

HOURS = """
SELECT hour, api_key_id, model_id, version_id, mode, calls, reversed, rows, bytes_in, bytes_out, queue_us, compute_us, total_ms,
  amount_nano FROM usage_hour WHERE tenant_id = %s ORDER BY 1, 2, 3, 4, 5
"""
HOURS_OF_EVENTS = """
SELECT date_trunc('hour', opened_at), api_key_id, model_id, version_id, mode,
  count(*) FILTER (WHERE kind = 'usage'), count(*) FILTER (WHERE kind = 'reversed'),
  coalesce(sum(rows) FILTER (WHERE kind = 'usage'), 0), coalesce(sum(bytes_in) FILTER (WHERE kind = 'usage'), 0),
  coalesce(sum(bytes_out) FILTER (WHERE kind = 'usage'), 0), coalesce(sum(queue_us) FILTER (WHERE kind = 'usage'), 0),
  coalesce(sum(compute_us) FILTER (WHERE kind = 'usage'), 0),
  coalesce(sum(round(extract(epoch FROM closed_at - opened_at) * 1000)) FILTER (WHERE kind = 'usage'), 0),
  coalesce(sum(amount_nano) FILTER (WHERE kind = 'usage'), 0)
FROM usage_event WHERE tenant_id = %s GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
"""


def test_hours_and_sums_equal_the_events(state, journal, tenant, ledger):
    chance = random.Random(7)
    keys, models = ["", uuid7().hex, uuid7().hex], [(uuid7().hex, uuid7().hex) for _ in range(3)]
    now = int(time.time() * 1000)
    drain, records = Drain(state, stream=journal.name), []
    for _ in range(30):
        tick = []
        for _ in range(chance.randint(1, 12)):
            model, version = chance.choice(models)
            kind = chance.choices(["usage", "reversed"], [9, 1])[0]
            opened = now - chance.randrange(3 * 3_600_000)
            tick.append(
                usage(
                    tenant, key=chance.choice(keys), model=model, version=version, kind=kind, opened_ms=opened,
                    closed_ms=opened + chance.randrange(50), mode=chance.choice(["live", "test"]),
                    nano=chance.randrange(1000) if kind == "usage" else 0, rows=chance.randrange(5),
                )
            )  # fmt: skip
        journal.add(*tick)
        records += tick
        if chance.random() < 0.3:
            drain.step()
    while drain.step():
        pass

    assert ledger(HOURS, tenant) == ledger(HOURS_OF_EVENTS, tenant)
    counted = [r for r in records if r.kind == "usage" and r.mode == "live"]
    expected = {}
    for scope, mine in [("organization", counted), *((key, [r for r in counted if r.key == key]) for key in keys[1:])]:
        for period, those in [("ever", mine), *((p, [r for r in mine if r.period == p]) for p in {r.period for r in mine})]:
            expected[scope, period] = (len(those), sum(r.nano for r in those))
    sums = ledger("SELECT scope, period, calls, amount_nano FROM usage_sum WHERE tenant_id = %s", tenant)
    assert {(scope, period): (calls, nano) for scope, period, calls, nano in sums} == expected


def test_a_reversed_call_is_shown_and_costs_nothing(state, journal, tenant, ledger):
    journal.add(usage(tenant, kind="reversed", nano=0))
    Drain(state, stream=journal.name).step()

    assert ledger("SELECT calls, reversed, rows, amount_nano FROM usage_hour WHERE tenant_id = %s", tenant) == [(0, 1, 0, 0)]
    assert ledger("SELECT 1 FROM usage_sum WHERE tenant_id = %s", tenant) == []


def test_test_calls_raise_no_sum(state, journal, tenant, ledger):
    journal.add(usage(tenant, mode="test", nano=0))
    Drain(state, stream=journal.name).step()

    assert ledger("SELECT mode, calls FROM usage_hour WHERE tenant_id = %s", tenant) == [("test", 1)]
    assert ledger("SELECT 1 FROM usage_sum WHERE tenant_id = %s", tenant) == []
