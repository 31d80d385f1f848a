"""The drain under load: rows per second and CPU time a row, all told.

    python -m benchmarks.growth.drain --rows 500000 --rounds 3

Fills the journal as gateways do (entries of `--tick` records), then moves it into the ledger with the bookkeeper's own drain
and roll-up, beside PostgreSQL and Valkey, durable as in production. Two shapes: `few` (20 organizations, 3 models each) and
`many` (10,000 organizations, 200 models each: nearly every record of a batch is of another hour). CPU time counts the drain's
process, PostgreSQL with all its helpers and a last checkpoint, and the state Valkey, divided by the rows; filling is not
counted. The roll-up is part of it; rows/s are the drain's alone, beside which it works in the bookkeeper. `--batches` tries
several sizes of the drain's batch.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from benchmarks.growth.servers import cpu_us, servers

SHAPES = {"few": (20, 3), "many": (10_000, 200)}
PERIOD = time.strftime("%Y-%m", time.gmtime())
CHUNK = 100_000  # records that wait in the journal at once


class Round(NamedTuple):
    """Seconds that drain and roll-up worked, and CPU time in microseconds by process."""

    rows: int
    seconds: float
    rollup_seconds: float
    drain: int
    postgres: int
    state: int

    @property
    def total(self) -> float:
        return (self.drain + self.postgres + self.state) / self.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--batches", type=int, nargs="*", default=[], help="records in a batch; default: as the bookkeeper does"
    )
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tick", type=int, default=64, help="records in a journal entry")
    given = parser.parse_args()
    with servers() as pids:
        _run(given, pids)


def _run(given: argparse.Namespace, pids: dict[str, int]) -> None:
    from billing.ledger import drain

    sizes = given.batches or [drain.BATCH_RECORDS]
    print(
        "| shape | batch | rows/s | CPU µs a row | drain | PostgreSQL | Valkey | roll-up |\n|---|---|---|---|---|---|---|---|"
    )
    for shape in given.shapes:
        for size in sizes:
            rounds = [_round(given, SHAPES[shape], size, pids) for _ in range(given.rounds)]
            middle = sorted(rounds, key=lambda one: one.total)[len(rounds) // 2]
            rate = statistics.median(one.rows / one.seconds for one in rounds)
            parts = (middle.drain, middle.postgres, middle.state)
            shown = " | ".join(f"{part / middle.rows:.1f}" for part in parts)
            print(
                f"| {shape} | {size} | {rate:,.0f} | {middle.total:.1f} | {shown} | {middle.rollup_seconds:.1f} s |", flush=True
            )


class Course:
    """Drain and roll-up taking turns; while the journal is being filled, time stands still for them."""

    def __init__(self, pids: dict[str, int], batch: int) -> None:
        from billing.ledger.drain import Drain
        from billing.ledger.hours import RollUp
        from saas.lib.valkey import sync_client

        self.pids, self.seconds, self.rollup_seconds, self.used = pids, 0.0, 0.0, [0, 0, 0]
        self.since: float | None = None
        self.drain = Drain(sync_client(os.environ["STATE_URL"]), batch_records=batch)
        self.rollup = RollUp(clock=self.clock)
        self.drain.step()

    def clock(self) -> float:
        return self.seconds + self.rollup_seconds + (time.perf_counter() - self.since if self.since else 0.0)

    def empty_journal(self) -> int:
        """Move what is there; how many rows."""
        rows = 0
        with self._counted():
            while moved := self._timed("seconds", self.drain.step):
                rows += moved
                self._timed("rollup_seconds", self.rollup.step)
        return rows

    def finish(self) -> None:
        """The hours are brought up to date, and PostgreSQL writes its pages: that belongs to the price."""
        from billing.ledger.hours import catch_up

        with self._counted():
            self._timed("rollup_seconds", lambda: catch_up(self.rollup.link(), self.rollup.stream))
            _checkpoint()
        self.rollup.close()
        self.drain.close()

    def _timed(self, name: str, step: Callable[[], int]) -> int:
        self.since = time.perf_counter()
        try:
            return step()
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - self.since)
            self.since = None

    @contextmanager
    def _counted(self) -> Iterator[None]:
        before = _usage(self.pids)
        yield
        self.used = [used + now - then for used, now, then in zip(self.used, _usage(self.pids), before, strict=True)]


def _round(given: argparse.Namespace, shape: tuple[int, int], batch: int, pids: dict[str, int]) -> Round:
    from saas.lib.valkey import sync_client

    state = sync_client(os.environ["STATE_URL"])
    course, records, rows = Course(pids, batch), _records(*shape), 0
    while rows < given.rows:
        _fill(state, records, min(CHUNK, given.rows - rows), given.tick)
        rows += course.empty_journal()
    course.finish()
    return Round(rows, course.seconds, course.rollup_seconds, *course.used)


def _usage(pids: dict[str, int]) -> list[int]:
    return [int(time.process_time() * 1_000_000), cpu_us(pids["postgres"]), cpu_us(pids["state"])]


def _checkpoint() -> None:
    """What PostgreSQL has still to do for the rows: write their pages."""
    from contextlib import closing
    from pathlib import Path

    from saas.local.servers import embedded_servers

    with closing(embedded_servers(Path(os.environ["DATA_DIR"]))[0].connect()) as session:
        session.cursor().execute("CHECKPOINT")


def _records(tenants: int, models: int) -> Iterator[Any]:
    """Usage records of random organizations and models, each organization with one key, opened now."""
    from inference.books.record import UsageRecord, pack_record
    from saas.lib.ids import uuid7

    chance = random.Random(7)  # noqa: S311  # the same records in every run
    all_tenants = [(uuid7().hex, uuid7().hex) for _ in range(tenants)]
    all_models = [(uuid7().hex, uuid7().hex, f"catalog/model-{n}") for n in range(models)]
    while True:
        tenant, key = chance.choice(all_tenants)
        model, version, name = chance.choice(all_models)
        now = int(time.time() * 1000)
        yield pack_record(
            UsageRecord(
                call=uuid7(now).hex, tenant=tenant, key=key, model=model, version=version, model_name=name,
                version_number="1.0.0", endpoint="infer", mode="live", kind="usage", period=PERIOD, price_version=0, rows=1,
                max_nano=5, opened_ms=now, request_id=uuid7().hex, closed_ms=now + 3, nano=5,
                bytes_in=100, bytes_out=50, queue_us=20, compute_us=chance.randrange(1000),
            )
        )  # fmt: skip


def _fill(state: Any, records: Iterator[Any], count: int, tick: int) -> None:
    from inference.books.scripts import JOURNAL

    with state.pipeline(transaction=False) as pipeline:
        for first in range(0, count, tick):
            fields = [part for _ in range(min(tick, count - first)) for part in (b"r", next(records))]
            pipeline.execute_command("XADD", JOURNAL, "*", *fields)
            if len(pipeline) >= 100:
                pipeline.execute()
        pipeline.execute()


if __name__ == "__main__":
    main()
