"""Hours become seals: once, complete, chained, signed, and never changed."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import psycopg2
import pytest

from billing.ledger.drain import Drain
from billing.proof.merkle import Tree
from billing.proof.sealer import Sealer
from inference.books.scripts import END_HOURS
from inference.books.statement import leaf
from saas.lib.ids import uuid7
from saas.lib.signing import is_signed, signing_keys
from tests.billing.journal import settle, usage

HOUR = 3_600_000
SEALS = """
SELECT number, hour, seq, n, amount_nano, merkle_root, prev_seal, key_version, sig FROM usage_seal WHERE tenant_id = %s
ORDER BY number
"""


@pytest.fixture
def start():
    """The beginning of an hour some hours ago, in milliseconds."""
    now = int(datetime.now(UTC).timestamp() * 1000)
    return now // HOUR * HOUR - 5 * HOUR


@pytest.fixture
def sealer(state, journal):
    with closing(Sealer(state, stream=journal.name)) as sealer:
        yield sealer


@pytest.fixture
def seals(ledger):
    return lambda tenant: ledger(SEALS, tenant)


def run(sealer):
    steps = 0
    while sealer.step():
        steps += 1
    return steps


def call(tenant, at_ms, nano=5, **given):
    return usage(tenant, opened_ms=at_ms - 3, closed_ms=at_ms, nano=nano, max_nano=nano, **given)


def stated(record):
    """The statement of a call by the words of its definition, not by our function for it."""
    return json.dumps(
        {
            "amount_nano": record.nano, "call": record.call, "closed_ms": record.closed_ms, "compute_us": record.compute_us,
            "currency": "USD", "digests": record.digests, "is_clamped": record.is_clamped,
            "key": record.key or "0" * 32, "kind": record.kind,
            "mode": record.mode, "model": record.model, "opened_ms": record.opened_ms, "price_version": record.price_version,
            "rows": record.rows, "tenant": record.tenant, "version": record.version,
        },
        sort_keys=True, separators=(",", ":"),
    ).encode()  # fmt: skip


def root_of(records):
    tree = Tree()
    for record in sorted(records, key=lambda record: record.call):
        tree.add(leaf(stated(record)))
    return tree.root()


def sealed(tenant, row):
    """The statement of a seal and its parts, again by definition."""
    number, hour, seq, n, amount, root, previous, _, _ = row
    return json.dumps(
        {
            "amount_nano": amount,
            "hour": hour.astimezone(UTC).strftime("%Y-%m-%dT%H:00:00Z"), "merkle_root": bytes(root).hex(),
            "n": n, "number": number, "prev_seal": bytes(previous).hex(), "seq": seq, "tenant": tenant.hex,
        },
        sort_keys=True, separators=(",", ":"),
    ).encode()  # fmt: skip


def test_each_organization_and_hour_gets_one_seal_over_all_of_its_calls(state, journal, start, sealer, seals):
    alice, charlie = uuid7(), uuid7()
    digests = ":".join(hashlib.sha256(word).hexdigest() for word in (b"model", b"in", b"out"))
    first = [call(alice, start + n, nano=n, key="" if n % 2 else uuid7().hex) for n in range(7)]
    first += [call(alice, start + 9, nano=0, kind="reversed"), call(alice, start + 9, nano=0, mode="test", digests=digests)]
    second = [call(alice, start + HOUR + 5, nano=11)]
    strangers = [call(charlie, start + 8, nano=3)]
    journal.add(*first, *strangers, at_ms=start + 10)
    journal.add(*second, at_ms=start + HOUR + 10)
    settle(state, journal.name)

    run(sealer)

    one, two = seals(alice)
    assert [(row[0], row[2], row[3], row[4]) for row in (one, two)] == [(1, 0, 9, 21), (2, 0, 1, 11)]
    assert [row[1] for row in (one, two)] == [datetime.fromtimestamp(at / 1000, UTC) for at in (start, start + HOUR)]
    assert bytes(one[5]) == root_of(first)
    assert bytes(two[5]) == root_of(second)
    assert bytes(one[6]) == bytes(32)
    assert bytes(two[6]) == hashlib.sha256(sealed(alice, one)).digest()
    for row in (one, two):
        assert is_signed(signing_keys().public()[row[7]], b"seal", sealed(alice, row), bytes(row[8]))
    [theirs] = seals(charlie)
    assert bytes(theirs[5]) == root_of(strangers)
    assert run(Sealer(state, stream=journal.name)) == 0
    assert len(seals(alice)) == 2


def test_the_hour_under_way_is_not_sealed(state, journal, tenant, sealer, seals, start):
    journal.add(call(tenant, start), at_ms=start)
    journal.add(usage(tenant))
    settle(state, journal.name)

    run(sealer)

    assert len(seals(tenant)) == 1


def test_nothing_is_sealed_before_the_ledger_has_all_of_it(state, journal, tenant, sealer, seals, start):
    journal.add(call(tenant, start), at_ms=start)
    settle(state, journal.name)
    late = call(tenant, start + HOUR)
    journal.add(late, at_ms=start + HOUR)

    assert run(sealer) == 0
    assert seals(tenant) == []
    settle(state, journal.name)
    run(sealer)

    assert len(seals(tenant)) == 2


def test_an_idle_journal_gets_a_marker_after_which_nothing_older_can_enter(state, journal, tenant, sealer, ledger, start):
    journal.add(call(tenant, start), at_ms=start)
    settle(state, journal.name)

    run(sealer)

    [(marker, fields)] = state.execute_command("XRANGE", journal.name, "-", "+")
    assert fields == [b"m", b""]
    assert int(marker.partition(b"-")[0]) == int(datetime.now(UTC).timestamp() * 1000) // HOUR * HOUR
    with pytest.raises(Exception, match="smaller"):
        journal.add(call(tenant, start), at_ms=start + HOUR)
    drain = Drain(state, stream=journal.name)
    with closing(drain):
        assert drain.step() == 0
    assert len(journal) == 0
    assert ledger("SELECT count(*) FROM journal_quarantine WHERE stream = %s", journal.name) == [(0,)]


def test_a_clock_that_is_ahead_ends_no_hour(state, journal, tenant, start):
    last = journal.add(call(tenant, start), at_ms=start)
    ahead = int(datetime.now(UTC).timestamp() * 1000) + HOUR

    assert END_HOURS.run_sync(state, [journal.name], [ahead, last]) == 0
    assert len(journal) == 1


def test_a_row_that_comes_late_makes_a_seal_of_its_own_and_changes_none(state, journal, tenant, sealer, seals, start, as_role):
    on_time = [call(tenant, start + n) for n in range(3)]
    journal.add(*on_time, at_ms=start + 5)
    journal.add(call(tenant, start + HOUR), at_ms=start + HOUR)
    settle(state, journal.name)
    run(sealer)
    before = seals(tenant)
    state.delete(journal.name)  # as after a restore: the journal's ids begin in the past again
    late = [call(tenant, start - 50), call(tenant, start + 50)]  # by their ids, those on time lie between them
    journal.add(*late, at_ms=start + 60)
    metering = as_role("metering")
    metering.execute("UPDATE journal_position SET position = '0-0' WHERE stream = %s", [journal.name])
    settle(state, journal.name)
    metering.execute("UPDATE seal_progress SET hour = to_timestamp(0) WHERE stream = %s", [journal.name])

    with closing(Sealer(state, stream=journal.name)) as again:
        run(again)

    *others, delta = seals(tenant)
    assert others == before
    assert (delta[0], delta[1], delta[2], delta[3]) == (3, before[0][1], 1, 2)
    assert bytes(delta[5]) == root_of(late)
    assert bytes(delta[6]) == hashlib.sha256(sealed(tenant, before[-1])).digest()


def test_many_sealers_at_once_seal_each_hour_once_and_fork_no_chain(state, journal, seals, start):
    tenants = [uuid7() for _ in range(4)]
    for hour in range(4):
        journal.add(
            *(call(tenant, start + hour * HOUR + n) for tenant in tenants for n in range(20)), at_ms=start + hour * HOUR
        )
        settle(state, journal.name)

    def work(_):
        with closing(Sealer(state, stream=journal.name)) as sealer:
            run(sealer)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    with closing(Sealer(state, stream=journal.name)) as last:
        run(last)

    for tenant in tenants:
        rows = seals(tenant)
        assert [(row[0], row[2], row[3]) for row in rows] == [(number, 0, 20) for number in (1, 2, 3, 4)]
        for before, after in pairwise(rows):
            assert bytes(after[6]) == hashlib.sha256(sealed(tenant, before)).digest()


@pytest.mark.parametrize("role", ["app", "ops", "metering", "owner"])
@pytest.mark.parametrize("change", ["UPDATE usage_seal SET n = n + 1", "DELETE FROM usage_seal", "TRUNCATE usage_seal"])
def test_nobody_changes_a_seal(as_role, role, change):
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        as_role(role).execute(change)


def test_an_organization_sees_its_own_seals_only(state, journal, tenant, sealer, start, as_role):
    journal.add(call(tenant, start), at_ms=start)
    settle(state, journal.name)
    run(sealer)

    counts = []
    for who in (tenant, uuid7(), None):
        session = as_role("app", who)
        session.execute("SELECT count(*) FROM usage_seal")
        counts += session.fetchall()

    assert counts == [(1,), (0,), (0,)]


def test_a_sealer_that_dies_under_way_leaves_the_hour_to_the_next(state, journal, tenant, seals, start):
    journal.add(*(call(tenant, start + n) for n in range(5)), at_ms=start)
    settle(state, journal.name)
    with closing(Sealer(state, stream=journal.name)) as first:
        assert first.step()  # it has collected
        first.link().cursor().execute("SELECT pg_advisory_xact_lock(7301, hashtext(%s))", [str(tenant)])  # and holds the chain
        with closing(Sealer(state, stream=journal.name)) as second:
            run(second)
        assert seals(tenant) == []

    with closing(Sealer(state, stream=journal.name)) as second:
        run(second)

    assert [row[3] for row in seals(tenant)] == [5]


def test_an_hour_is_said_to_be_sealed_only_when_it_is(state, journal, tenant, sealer, start):
    from billing.proof.sealer import sealed_until
    from tenants.scope import tenant_scope

    journal.add(call(tenant, start), at_ms=start)
    settle(state, journal.name)
    sealer.step()
    with tenant_scope(tenant):
        assert sealed_until(journal.name) < datetime.fromtimestamp(start / 1000, UTC)

    run(sealer)

    with tenant_scope(tenant):
        assert sealed_until(journal.name) >= datetime.fromtimestamp(start / 1000, UTC) + timedelta(hours=1)
