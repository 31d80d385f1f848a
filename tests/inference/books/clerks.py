"""The bookkeeper's part of a simulated world: the real drain, roll-up and rebuild on a real PostgreSQL, step by step."""

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from psycopg2.extensions import connection as Connection

from billing.ledger.drain import Drain, Taken
from billing.ledger.hours import catch_up
from billing.ledger.rebuild import Snapshot, read_snapshot
from billing.ledger.writing import Writer, read_position
from inference.books import accounts
from inference.books.scripts import JOURNAL

if TYPE_CHECKING:
    from tests.inference.books.world import World

NO_KEY = "0" * 32
NEW_ROWS = """
SELECT replace(call_id::text, '-', ''), replace(tenant_id::text, '-', ''), replace(api_key_id::text, '-', ''), period, mode,
  kind, amount_nano FROM usage_event JOIN journal_position p USING (batch) WHERE p.stream = %s
"""
HOURS = "SELECT sum(calls), sum(reversed), sum(amount_nano) FROM usage_hour WHERE tenant_id = %s"


class Row(NamedTuple):
    call: str
    tenant: str
    key: str
    period: str
    mode: str
    kind: str
    nano: int


class Ledger:
    """What the real ledger holds of a world: `rows` by call, and the account's sums that follow from them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.rows: dict[str, Row] = {}
        self.position = read_position(connection, JOURNAL)
        self._sums: dict[str, dict[tuple[str, str], tuple[int, int]]] = {}

    def read_batch(self, position: str) -> list[Row]:
        """The rows of the batch that was committed last."""
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(NEW_ROWS, [JOURNAL])
            new = [Row(*values) for values in cursor.fetchall()]
        for row in new:
            assert row.call not in self.rows, f"two rows of one call: {row}, {self.rows[row.call]}"
            self.rows[row.call] = row
            if row.kind == "usage" and row.mode == "live":
                self._add(row)
        self.position = position
        return new

    def _add(self, row: Row) -> None:
        sums = self._sums.setdefault(row.tenant, {})
        for scope in {accounts.ORGANIZATION, row.key} - {NO_KEY}:
            for period in (row.period, "ever"):
                calls, nano = sums.get((scope, period), (0, 0))
                sums[scope, period] = (calls + 1, nano + row.nano)

    def sums(self, tenant: str) -> dict[tuple[str, str], tuple[int, int]]:
        return self._sums.get(tenant, {})

    def roll_up(self) -> None:
        catch_up(self.connection, JOURNAL)

    def check_hours(self, tenant: str) -> None:
        """After a roll-up: hours are what rows add up to."""
        mine = [row for row in self.rows.values() if row.tenant == tenant]
        kinds = Counter(row.kind for row in mine)
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(HOURS, [tenant])
            found = tuple(number or 0 for number in cursor.fetchone())
        assert found == (kinds["usage"], kinds["reversed"], sum(row.nano for row in mine))


class Clerk:
    """A drain whose steps may lie far apart, and which may be killed between any two of them."""

    def __init__(self, world: "World", ledger: Ledger) -> None:
        self.world, self.ledger, self.is_dead, self.is_busy = world, ledger, False, False
        self.drain = Drain(world.client, batch_records=world.random.choice((1, 3, 100)))
        self.drain.writer = Writer(ledger.connection)

    def step(self) -> None:
        if self.is_dead or self.is_busy:
            return
        taken = self.drain.take()
        if taken is not None:
            self.is_busy = True
            self.world.later(self._write, taken)

    def _write(self, taken: Taken) -> None:
        if self.is_dead:
            return
        self.is_busy = False
        if self.drain.write(taken):
            assert self.drain.quarantined == 0, "the ledger refused a record"
            self.world.check_rows(self.ledger.read_batch(taken.new))
            self.world.later(self._trim)

    def _trim(self) -> None:
        if not self.is_dead:
            self.drain.trim()
            self.world.is_changed = True


class Rebuilder:
    """The rebuild, with time between snapshot and installation: a drain may come between."""

    def __init__(self, world: "World", ledger: Ledger) -> None:
        self.world, self.ledger = world, ledger

    def step(self) -> None:
        for tenant in accounts.wanted(state=self.world.client):
            self.begin(tenant)

    def begin(self, tenant: str) -> None:
        snapshot = read_snapshot(self.ledger.connection, UUID(hex=tenant), state=self.world.client)
        self.world.at(self.world.now + self.world.random.choice((0.0, 0.3, 3.0)), self._install, tenant, snapshot)

    def _install(self, tenant: str, snapshot: Snapshot) -> None:
        accounts.install(tenant, snapshot.sums, self.world.limits[tenant], snapshot.position, state=self.world.client)
        self.world.is_changed = True
