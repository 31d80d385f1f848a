"""The measurements of growth: that they run, on platforms that are large by name only."""

import asyncio
from datetime import date

import pytest
from django.db import connections

from benchmarks.growth import hotpath, ledger
from benchmarks.growth.hotpath import TICK, Size, measured


@pytest.mark.no_servers
def test_every_step_of_a_call_has_a_cost_on_both_platforms():
    small, large = Size(TICK, 2, 1), Size(2 * TICK, 3, 2)

    costs = asyncio.run(measured(small, large, turns=2, ticks=2))

    assert set(costs) == {"books", "lanes", "routing", "look-up"}
    assert all(len(turns) == 2 and min(turns) > 0 for pair in costs.values() for turns in pair)


def test_a_platform_that_grows_in_cost_misses_the_goal(monkeypatch, capsys):
    async def played(*sizes, **options):
        return {"books": ([10.0, 10.0, 10.0], [11.0, 12.5, 12.1]), "lanes": ([5.0], [5.5])}

    monkeypatch.setattr(hotpath, "measured", played)
    monkeypatch.setattr("sys.argv", ["hotpath"])

    assert hotpath.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| books | 10.0 | 12.1 | 1.21 (1.10–1.25) | **missed** |"
    assert lines[3] == "| lanes | 5.0 | 5.5 | 1.10 (1.10–1.10) | met |"


def test_the_ledger_is_filled_by_days_and_each_page_answers(embedded, monkeypatch):
    """The largest organization has a quarter of the rows, and all of them are in the hours."""
    monkeypatch.setattr(ledger, "DAYS", 3)
    monkeypatch.setattr(ledger, "ASKED", 3)
    today = date(2025, 3, 31)
    largest, other = ledger.fill(3000, today)

    with connections["metering"].cursor() as cursor:
        cursor.execute("SELECT tenant_id, count(*) FROM usage_event WHERE period IN ('2025-03') GROUP BY 1 ORDER BY 2 DESC")
        rows = cursor.fetchall()
        cursor.execute("SELECT sum(calls) FROM usage_hour WHERE hour BETWEEN '2025-03-02' AND '2025-04-01'")
        assert cursor.fetchone()[0] == 3000 == sum(count for _, count in rows)
    assert rows[0][1] == 750
    for path in ledger.pages(today).values():
        for customer in (largest, other):
            median, p95 = ledger.timed(path, customer)
            assert 0 < median <= p95
