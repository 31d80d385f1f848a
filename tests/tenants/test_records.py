"""tenants/records.py: what was changed is stored and pushed, whatever comes between."""

import threading
from uuid import uuid4

import pytest
import redis
from django.db import DatabaseError, connections, transaction
from django.utils import timezone

from tenants import keys, records
from tenants.databases import as_operator
from tenants.models import RecordChange
from tenants.principal import unpack_key
from tenants.scope import tenant_scope
from tests.waiting import PATIENCE


@pytest.fixture
def facts():
    """Facts that the maker of records `fact:…` reads, instead of rows."""
    found = {}
    records.makers["fact"] = lambda name: found[name]
    yield found
    del records.makers["fact"]


@pytest.fixture
def name():
    return f"fact:{uuid4().hex}"


def waiting(name):
    with as_operator():
        return RecordChange.objects.filter(name=name).count()


def relay_all():
    """Until nothing is due: other tests' changes are in the outbox too."""
    while records.relay():
        pass


def lease_ends(name):
    with as_operator():
        RecordChange.objects.filter(name=name).update(next_try_at="2020-01-01T00:00Z")


def test_a_change_is_stored_and_pushed_after_the_commit(facts, name, lanes):
    pushed = lanes.pubsub(ignore_subscribe_messages=True)
    pushed.subscribe(records.RECORDS_CHANNEL)
    pushed.get_message(timeout=1)
    facts[name] = b"new"
    with transaction.atomic():
        records.changed(name)
        assert lanes.get(name) is None

    assert lanes.get(name) == b"new"
    assert pushed.get_message(timeout=PATIENCE)["data"] == name.encode()
    pushed.close()


def test_a_change_that_is_rolled_back_leaves_nothing(facts, name, lanes):
    facts[name] = b"new"
    with transaction.atomic():
        records.changed(name)
        transaction.set_rollback(True)

    assert (lanes.get(name), waiting(name)) == (None, 0)


def test_what_is_gone_is_stored_as_gone(facts, name, lanes):
    facts[name] = None
    records.changed(name)

    assert lanes.get(name) == b""


def test_the_relay_repeats_what_did_not_get_through(facts, name, lanes):
    facts[name] = b"old"
    with transaction.atomic():
        records.changed(name)
    lanes.delete(name)  # as if the lanes server had lost it
    facts[name] = b"new"

    relay_all()
    assert lanes.get(name) == b"new"


def test_a_record_that_cannot_be_made_is_kept_and_holds_up_no_other(facts, name, lanes, caplog):
    broken = f"fact:{uuid4().hex}"
    with as_operator():
        RecordChange.objects.create(name=broken)
        RecordChange.objects.create(name=name)
    facts[name] = b"fine"
    relay_all()

    assert (lanes.get(name), waiting(name), waiting(broken)) == (b"fine", 0, 1)
    assert "a record could not be made" in caplog.text
    facts[broken] = b"mended"
    lease_ends(broken)
    relay_all()
    assert (lanes.get(broken), waiting(broken)) == (b"mended", 0)


def test_two_relays_share_the_work(facts):
    names = [f"fact:{uuid4().hex}" for _ in range(20)]
    made = []
    both = threading.Barrier(2)
    facts.update(dict.fromkeys(names, b"x"))
    records.makers["fact"] = lambda name: made.append(name) or b"x"
    with as_operator():
        RecordChange.objects.bulk_create([RecordChange(name=name) for name in names])

    def relay():
        both.wait(PATIENCE)
        while records.relay():
            pass
        connections.close_all()

    threads = [threading.Thread(target=relay) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert sorted(name for name in made if name in names) == sorted(names)


def test_a_slow_projection_does_not_overwrite_a_later_one(facts, name, lanes):
    reading, may_store = threading.Event(), threading.Event()

    def slow(name):
        value = facts[name]
        if not reading.is_set():
            reading.set()
            assert may_store.wait(PATIENCE)
        return value

    records.makers["fact"] = slow
    facts[name] = b"old"
    results = []
    thread = threading.Thread(target=lambda: results.append(records.project([name])))
    thread.start()
    assert reading.wait(PATIENCE)
    facts[name] = b"new"
    assert records.project([name]) == {name}
    may_store.set()
    thread.join(10)

    assert (results, lanes.get(name)) == ([set()], b"new")


def test_a_change_is_seen_when_it_is_answered_though_a_relay_took_it_over(facts, name, lanes):
    """The relay found the note, and goes on to read, between the change's own reading and storing."""
    facts[name], took_over, go_on = b"old", threading.Event(), threading.Event()
    reads = []

    def make(_):
        reads.append(facts[name])
        if len(reads) == 1:  # the change's own
            relay.start()
            assert took_over.wait(PATIENCE)
        elif threading.current_thread() is relay:
            took_over.set()
            assert go_on.wait(PATIENCE)
        return facts[name]

    def in_relay():
        records.project([name])
        connections.close_all()

    relay = threading.Thread(target=in_relay)
    records.makers["fact"] = make
    with transaction.atomic():
        facts[name] = b"new"
        records.changed(name)
    seen = lanes.get(name)
    go_on.set()
    relay.join()
    assert seen == b"new"
    assert lanes.get(name) == b"new"


def test_when_the_lanes_server_is_away_the_change_is_made_and_waits(facts, name, lanes, monkeypatch):
    facts[name] = b"new"
    monkeypatch.setattr(records, "client", lambda: redis.Redis.from_url("unix:///nowhere/at-all.sock"))
    with transaction.atomic():
        records.changed(name)
    with pytest.raises(redis.ConnectionError):
        records.relay()
    assert (lanes.get(name), waiting(name)) == (None, 1)

    monkeypatch.undo()
    relay_all()
    assert (lanes.get(name), waiting(name)) == (b"new", 0)


def test_nothing_is_locked_and_no_transaction_is_open_while_records_are_made_and_published(facts, name):
    found = []

    def look():
        with as_operator(), transaction.atomic(using="ops"):
            found.append(RecordChange.objects.using("ops").select_for_update(nowait=True).filter(name=name).count())
        connections.close_all()

    def make(name):
        found.append(connections["ops"].in_atomic_block)
        other = threading.Thread(target=look)
        other.start()
        other.join(60)
        return b"made"

    records.makers["fact"] = make
    records.note([name])
    relay_all()

    assert found == [False, 1]


def test_what_a_relay_that_died_had_taken_is_made_by_the_next(facts, name, lanes):
    def die(name):
        raise SystemExit

    records.makers["fact"] = die
    records.note([name])
    before = timezone.now()
    with pytest.raises(SystemExit):
        relay_all()
    with as_operator():
        assert RecordChange.objects.get(name=name).next_try_at >= before + records.LEASE

    records.makers["fact"] = lambda name: b"made"
    lease_ends(name)
    relay_all()
    assert (lanes.get(name), waiting(name)) == (b"made", 0)


def test_what_a_later_projection_took_over_stays_until_it_is_seen_to_be_stored(facts, name, lanes):
    def overtaken(name):
        lanes.set(f"making:{name}", "another's token")
        return b"late"

    records.makers["fact"] = overtaken
    records.note([name])
    assert records.relay() >= 1
    assert (lanes.get(name), waiting(name)) == (None, 1)

    records.makers["fact"] = lambda name: b"made"
    relay_all()
    assert (lanes.get(name), waiting(name)) == (b"made", 0)


def test_a_thousand_notes_take_a_few_statements(alice, make_key, lanes):
    """Each a round trip would keep a revocation that is among them from taking effect for a second."""
    key = make_key(alice.organization)[0]
    with as_operator():
        RecordChange.objects.all().delete()  # those that other tests let fail may fall due at any time
    records.note([f"key:{uuid4().hex[:12]}" for _ in range(999)] + [f"key:{key.public_id}"])
    statements = []

    def count(execute, *arguments):
        statements.append(arguments[0])
        return execute(*arguments)

    scripts = lanes.info("commandstats")["cmdstat_evalsha"]["calls"]
    with connections["ops"].execute_wrapper(count), connections["default"].execute_wrapper(count):
        assert records.relay() == 1000

    assert len(statements) == 3  # taken, read, removed
    assert lanes.info("commandstats")["cmdstat_evalsha"]["calls"] - scripts <= 11
    assert unpack_key(lanes.get(f"key:{key.public_id}")).id == key.id.hex
    assert waiting(f"key:{key.public_id}") == 0


def test_one_of_many_that_cannot_be_made_fails_alone(lanes):
    names = [f"fact:{uuid4().hex}" for _ in range(5)]
    records.makers["fact"] = lambda name: {}[name] if name == names[2] else b"alone"
    records.bulk_makers["fact"] = lambda names: {}["broken"]
    records.note(names)
    try:
        relay_all()
    finally:
        del records.makers["fact"], records.bulk_makers["fact"]

    assert [lanes.get(name) for name in names] == [b"alone"] * 2 + [None] + [b"alone"] * 2
    assert [waiting(name) for name in names] == [0, 0, 1, 0, 0]


def test_the_application_cannot_read_the_outbox(name):
    with pytest.raises(DatabaseError):
        RecordChange.objects.filter(name=name).count()


def test_the_record_of_a_key_has_what_gateways_need(make_organization, make_key):
    organization = make_organization(rate=10.0, monthly_calls=1000)
    key = make_key(organization, rate=99.0, models=["iris"], scopes=["predictions:write"])[0]
    record = unpack_key(keys.load_key(key.public_id))

    assert (record.organization, record.slug, record.id) == (organization.id.hex, organization.slug, key.id.hex)
    assert (record.limits.rate, record.organization_limits.rate, record.is_capped) == (10.0, 10.0, True)
    assert (record.models, record.scopes) == (["iris"], ["predictions:write"])
    assert keys.load_key("nobodyhasit1") is None
    with tenant_scope(uuid4()):  # whatever the tenant
        assert keys.load_key(key.public_id) is not None
