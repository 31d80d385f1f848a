"""Any order of opening, closing, undoing, dying, draining, granting, expiring, budgeting, forgetting and rebuilding.

The real scripts on a real Valkey, the real ledger and credit on a real PostgreSQL, and beside them a plain account of what must
be there. CAPS_RUNS=5000 runs so many lives.
"""

import os
from contextlib import closing
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from billing.caps import budgets, credit, quotas
from billing.caps.models import CreditGrant
from billing.ledger import writing
from billing.ledger.drain import Drain
from billing.ledger.rebuild import read_snapshot, rebuild
from billing.sale import plans
from inference.books import accounts
from inference.books.batch import OPEN_VERDICTS, pack_batch
from inference.books.open_call import OpenCall
from inference.books.reaper import Reaper
from inference.books.record import UNENDED, UsageRecord, pack_ended, pack_opened, unpack_record
from inference.books.scripts import BOOKS, FULL, JOURNAL, SESSION, open_key
from saas.lib import clock
from saas.lib.errors import NotFound
from saas.lib.ids import uuid7
from tenants.access import SYSTEM
from tenants.databases import as_operator
from tenants.models import ApiKey
from tenants.scope import tenant_scope

RUNS = int(os.environ.get("CAPS_RUNS", "100"))
STEPS = 40
AMOUNTS = st.sampled_from([0, 1, 7, 40, 250])
ANY = st.integers(0, 1 << 30)


class Machine(RuleBasedStateMachine):
    """One organization on a prepaid plan, whose gateway dies now and then. `made` are calls: open, answered or neither."""

    def __init__(self, state, connection, make_organization, make_key) -> None:
        super().__init__()
        self.state, self.connection, self.drain = state, connection, Drain(state)
        self.organization = make_organization()
        self.tenant = self.organization.id.hex
        plans.change(self.organization.id, "prepaid", actor=SYSTEM)
        self.keys: list[ApiKey | None] = [make_key(self.organization)[0] for _ in range(2)]
        self.now, self.granted, self.has_overrun = clock.now(), 0, False
        self.period = f"{self.now:%Y-%m}"
        self.open: dict[str, OpenCall] = {}
        self.answered: list[tuple[str, int]] = []  # (key, nano) of live calls
        self._begin_session()

    def _begin_session(self) -> None:
        self.session = uuid7().hex
        SESSION.run_sync(self.state, [open_key(self.session)], [self.session, self.session])

    def _book(self, closes: list[OpenCall], opens: list[OpenCall]) -> str:
        batch = pack_batch(closes, opens)
        reply = BOOKS.run_sync(self.state, [open_key(self.session), JOURNAL, FULL], batch.arguments)
        return reply[0].decode()

    def _call(self, key: str, most: int, mode: str) -> OpenCall:
        call = uuid7().hex
        record = UsageRecord(
            call=call, tenant=self.tenant, key=key, model="d" * 32, version="e" * 32, model_name="catalog/iris",
            version_number="1.0.0", endpoint="infer", mode=mode, kind="usage", period=self.period, price_version=0, rows=1,
            max_nano=most, opened_ms=clock.now_ms(), request_id="r",
        )  # fmt: skip
        return OpenCall(call, self.tenant, key, self.period, most, mode, pack_opened(record), lambda verdict, note: None)

    def _take(self, which: int) -> OpenCall | None:
        names = list(self.open)
        return self.open.pop(names[which % len(names)]) if names else None

    def _is_known(self) -> bool:
        return accounts.read(self.tenant) is not None

    @rule(key=st.integers(0, 2), count=st.integers(1, 4), most=AMOUNTS, mode=st.sampled_from(["live", "live", "test"]))
    def opens(self, key, count, most, mode):
        """Exactly so many open as every limit allows."""
        name = "" if key == 2 else self.keys[key].id.hex
        calls = [self._call(name, most, mode) for _ in range(count)]
        caps = accounts.caps(self.tenant, self.period, name)
        verdicts = self._book([], calls)
        told = [OPEN_VERDICTS[ord(letter)] for letter in verdicts]
        if mode == "test":
            assert told == ["open"] * count
        elif caps is None:
            assert told == ["unknown"] * count
        else:
            fits = [
                cap.left // (most if cap.verdict.startswith(("budget", "credit")) else 1) for cap in caps if _counts(cap, most)
            ]
            expected = min([count, *fits])
            assert told.count("open") == expected, (told, caps)
        self.open |= {call.call: call for call, verdict in zip(calls, told, strict=True) if verdict == "open"}

    @rule(which=ANY, part=st.sampled_from([0, 1, 2]))
    def answers(self, which, part):
        call = self._take(which)
        if call is None:
            return
        nano = call.max_nano * part // 2
        record = unpack_record(call.record + UNENDED)
        record.closed_ms, record.nano = clock.now_ms(), nano
        call.nano, call.outcome = nano, pack_ended(record, call.record)
        assert self._book([call], []) == "c"
        assert self._book([call], []) == "g"
        if call.mode == "live":
            self.answered.append((call.key, nano))

    @rule(which=ANY)
    def fails(self, which):
        if call := self._take(which):
            call.outcome = b""
            assert self._book([call], []) == "c"

    @rule()
    def dies(self):
        """A reaper takes its session and reverses what was open; another session begins."""
        reaper = Reaper(self.state)
        assert reaper.take(self.session, self.state.hget(open_key(self.session), "beat"))
        while reaper.undo(self.session):
            pass
        self.open.clear()
        self._begin_session()

    @rule()
    def drains(self):
        for _ in range(2):  # another test's drain may have been first
            while self.drain.step():
                pass

    @rule()
    def settles(self):
        with self.connection, self.connection.cursor() as cursor:
            assert credit.settle(cursor, self.organization.id) == 0, "more was charged than the credit covers"

    @rule(nano=st.integers(1, 600), hours=st.sampled_from([None, 1, 2, 5]), is_paid=st.booleans(), priority=st.integers(0, 2))
    def grants(self, nano, hours, is_paid, priority):
        credit.grant(
            self.organization.id,
            amount_nano=nano,
            category="paid" if is_paid else "promotional",
            reason="test",
            actor=SYSTEM,
            expires_at=None if hours is None else self.now + timedelta(hours=hours),
            priority=priority,
        )
        self.granted += nano

    @rule(hours=st.sampled_from([0, 1, 3]))
    def time_passes(self, hours):
        self.now += timedelta(hours=hours)
        credit.expire_due(self.connection, self.now)

    @rule(key=st.integers(0, 2), nano=st.sampled_from([None, 0, 50, 300, 2000]))
    def budgets(self, key, nano):
        whose = None if key == 2 else self.keys[key]
        with tenant_scope(self.organization.id):
            if nano is not None:
                budgets.put(self.organization, whose, nano, actor=SYSTEM)
            else:
                try:
                    budgets.remove(self.organization, whose, actor=SYSTEM)
                except NotFound:
                    return

    @rule()
    def forgets(self):
        self.state.delete(f"account:{self.tenant}")

    @rule()
    def rebuilds(self):
        assert rebuild(self.connection, self.organization.id)

    @invariant()
    def the_account_is_what_happened(self):
        account = accounts.read(self.tenant)
        if account is None:
            return
        charged = [*self.answered, *((call.key, call.max_nano) for call in self.open.values() if call.mode == "live")]
        for scope in (accounts.ORGANIZATION, *(key.id.hex for key in self.keys)):
            mine = [nano for key, nano in charged if scope in (accounts.ORGANIZATION, key)]
            assert account.sums.get((scope, self.period), (0, 0)) == (len(mine), sum(mine))
        snapshot = read_snapshot(self.connection, self.organization.id)
        assert accounts.compare(self.tenant, snapshot.sums, snapshot.position) == {}

    @invariant()
    def what_is_charged_is_within_the_credit(self):
        account = accounts.read(self.tenant)
        if account is not None:
            assert account.sums.get((accounts.ORGANIZATION, "ever"), (0, 0))[1] <= account.limits.credit_nano

    @invariant()
    def limits_hold_as_they_are_stored(self):
        account = accounts.read(self.tenant)
        stored = quotas.read_quota(self.connection, self.organization.id).limits
        if account is not None and account.limits.version == stored.version:
            assert account.limits == stored

    @invariant()
    def no_credit_comes_from_nowhere_or_goes_there(self):
        with as_operator():
            grants = list(CreditGrant.objects.of(self.organization))
        used = sum(grant.amount_nano - grant.remaining_nano - grant.expired_nano for grant in grants)
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT coalesce(sum(spent_nano), 0), coalesce(sum(burnt_nano), 0), coalesce(sum(overrun_nano), 0) "
                "FROM credit_month WHERE tenant_id = %s",
                [str(self.organization.id)],
            )
            assert cursor.fetchone() == (used, used, 0)
        assert sum(grant.amount_nano for grant in grants) == self.granted

    def teardown(self):
        """All ends: the ledger has what was answered, and the credit has paid for it."""
        self.dies()
        if not self._is_known():
            self.rebuilds()
        self.drains()
        self.settles()
        snapshot = read_snapshot(self.connection, UUID(hex=self.tenant))
        live = [nano for _, nano in self.answered]
        assert snapshot.sums.get((accounts.ORGANIZATION, "ever"), (0, 0)) == (len(live), sum(live))
        self.the_account_is_what_happened()
        self.no_credit_comes_from_nowhere_or_goes_there()
        self.drain.close()


def _counts(cap: accounts.Cap, most: int) -> bool:
    return most > 0 or not cap.verdict.startswith(("budget", "credit"))


@pytest.mark.timeout(300 + 3 * RUNS)
def test_no_order_of_things_breaks_a_limit_or_loses_an_amount(state, make_organization, make_key):
    with closing(writing.connect()) as connection:
        run_state_machine_as_test(
            lambda: Machine(state, connection, make_organization, make_key),
            settings=settings(
                max_examples=RUNS,
                stateful_step_count=STEPS,
                deadline=None,
                phases=[Phase.generate],  # ids are new in each life: what failed would not fail the same way when shrunk
                suppress_health_check=list(HealthCheck),
                database=None,
                print_blob=True,
            ),
        )
