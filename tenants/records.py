"""Records: small facts that gateways keep in memory, projected from PostgreSQL to the lanes server and pushed on change.

A record has a name, `key:{public id}` or `route:…`, and a maker: a function that reads PostgreSQL and returns its packed bytes
(None: there is no such thing). A change writes a note into the outbox, in its own transaction. `relay()`, every half second in
the bookkeeper, makes anew, stores and publishes what was noted; `changed(name)` does so at once, too, after the commit.
Gateways read: own memory (at most 5 s old) → the lanes server → the maker. What they make they store only if nothing is there,
so that a late reader never overwrites a newer record. What does not exist (any more) is stored as b"".
"""

import logging
import random
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import redis
from django.conf import settings
from django.db import Error, InterfaceError, OperationalError, connections, transaction
from django.utils import timezone

from saas.lib.valkey import Script, sync_client
from tenants.databases import as_operator, current_alias
from tenants.models import RecordChange

log = logging.getLogger(__name__)

RECORDS_CHANNEL = "records"
"""Where the name of each record that changed is published, after it was stored."""

KEEP = 86_400  # seconds that the lanes server keeps a record
MAKING_SECONDS = 60
BATCH = 1000  # notes that one relay takes
STORED_AT_ONCE = 100  # in one script, half a millisecond of the server that all calls pass
ATTEMPTS = 8  # of a change to be stored before its answer, while others store the same record
LEASE = timedelta(seconds=3)
"""How long a relay holds what it took. One that dies delays a change by so long."""
OUTAGES = (redis.RedisError, OperationalError, InterfaceError)

STORE = Script(Path(__file__).with_name("store.lua"))

makers: dict[str, Callable[[str], bytes | None]] = {}
"""By prefix (`key`, `route`): takes the record's name, returns it packed as PostgreSQL has it now."""

bulk_makers: dict[str, Callable[[Collection[str]], dict[str, bytes]]] = {}
"""The same for many names, in few statements. A name that it leaves out does not exist."""

# What is due is taken by whoever moves it into the future: no lock outlives the statement. By name: keys first, and what was
# noted twice is made once.
_CLAIM = """
UPDATE tenants_recordchange SET next_try_at = %s WHERE id IN (
  SELECT id FROM tenants_recordchange WHERE next_try_at <= %s ORDER BY name LIMIT %s FOR UPDATE SKIP LOCKED
) RETURNING id, name
"""
_DELAY = """
UPDATE tenants_recordchange SET attempts = attempts + 1,
  next_try_at = %s + least(power(2, least(attempts, 9)), 300) * interval '1 second'
WHERE id = ANY(%s)
"""


class Projected(NamedTuple):
    """What became of records: `stored` ones are published, `failed` ones could not be made."""

    stored: set[str]
    failed: set[str]


def changed(name: str) -> None:
    """Say, inside the transaction that changes it, that a record is to be made anew.

    After the commit and before the answer it is stored and published. If that fails, `relay` does it soon after.
    """
    note([name])
    transaction.on_commit(partial(project_now, name), using=current_alias())


def note(names: Iterable[str]) -> None:
    """The same for a change of many records: they are only noted, and `relay` makes them within half a second."""
    RecordChange.objects.bulk_create([RecordChange(name=name) for name in names])


def project(names: Collection[str]) -> set[str]:
    """Make the records from PostgreSQL, store them and publish their names. Returns those that were stored.

    Two that project the same record at the same time cannot leave the older one: each leaves its token before it reads, and
    only the one who left the last token, and so read last, may store. Raises redis.RedisError and what a maker raises.
    """
    token = secrets.token_hex(8)
    tokens = client().pipeline(transaction=False)
    for name in names:
        tokens.set(_making(name), token, ex=MAKING_SECONDS)
    tokens.execute()
    packed = _make(names)
    stored: set[str] = set()
    made = list(packed)
    for start in range(0, len(made), STORED_AT_ONCE):
        some = made[start : start + STORED_AT_ONCE]
        keys = [key for name in some for key in (name, _making(name))]
        accepted = STORE.run_sync(client(), keys, [token, RECORDS_CHANNEL, KEEP, *(packed[name] for name in some)])
        stored.update(name for name, is_stored in zip(some, accepted, strict=True) if is_stored)
    return stored


def _making(name: str) -> str:
    return f"making:{name}"


def _make(names: Iterable[str]) -> dict[str, bytes]:
    """The packed records, b"" for what does not exist."""
    packed: dict[str, bytes] = {}
    with as_operator(False):
        for prefix, group in groupby(sorted(names), _prefix):
            mine = list(group)
            if len(mine) > 1 and prefix in bulk_makers:
                found = bulk_makers[prefix](mine)
                packed |= {name: found.get(name, b"") for name in mine}
            else:
                packed |= {name: makers[prefix](name) or b"" for name in mine}
    return packed


def _prefix(name: str) -> str:
    return name.partition(":")[0]


def relay() -> int:
    """Project every change that is due, again where its first projection came through: a lost publication costs 5 s at most.

    Returns how many notes were taken. They are taken for LEASE and removed when their record is stored; nothing is locked, and
    no transaction is open, meanwhile. A record that cannot be made is tried again later, ever more rarely, and does not hold up
    the others. Any number of relays share the work. Raises OUTAGES: then all is due again.
    """
    notes = _claim()
    ids: dict[str, list[UUID]] = {}
    for identity, name in notes:
        ids.setdefault(name, []).append(identity)
    try:
        for _, group in groupby(sorted(ids), _prefix):  # a kind that is slow to make comes after, not before, what is quick
            _settle(list(group), ids)
    except OUTAGES:
        with suppress(Error):  # else the lease ends
            _due_now([identity for identity, _ in notes])
        raise
    return len(notes)


def _settle(names: list[str], ids: dict[str, list[UUID]]) -> None:
    """Project, and note down what came of it. What a later projection took over stays until it is seen to be stored."""
    projected = _project_each(names)
    delayed = _ids_of(projected.failed, ids)
    with as_operator():
        RecordChange.objects.filter(id__in=_ids_of(projected.stored, ids)).delete()
    if delayed:
        with connections["ops"].cursor() as cursor:
            cursor.execute(_DELAY, [timezone.now(), delayed])
    _due_now(_ids_of(set(names) - projected.stored - projected.failed, ids))


def _project_each(names: list[str]) -> Projected:
    """All at once; if one of them cannot be made, each alone, so that it fails alone. Raises OUTAGES."""
    try:
        return Projected(project(names), set())
    except OUTAGES:
        raise
    except Exception:
        if len(names) == 1:  # one record that cannot be made must not hold up revocations behind it; it is kept and logged
            log.exception("a record could not be made", extra={"record": names[0]})
            return Projected(set(), set(names))
    alone = [_project_each([name]) for name in names]
    return Projected(set().union(*(each.stored for each in alone)), set().union(*(each.failed for each in alone)))


def _ids_of(names: Iterable[str], ids: dict[str, list[UUID]]) -> list[UUID]:
    return [identity for name in names for identity in ids[name]]


def _claim() -> list[tuple[UUID, str]]:
    now = timezone.now()
    with connections["ops"].cursor() as cursor:
        cursor.execute(_CLAIM, [now + LEASE, now, BATCH])
        notes: list[tuple[UUID, str]] = cursor.fetchall()
    return notes


def _due_now(notes: list[UUID]) -> None:
    if notes:
        with as_operator():
            RecordChange.objects.filter(id__in=notes).update(next_try_at=timezone.now())


def project_now(name: str) -> None:
    """Back when a change that is committed is stored and published, or when that has to be left to the relay.

    Whoever took the projection over may not have stored it yet, so it is taken back.
    """
    try:
        for attempt in range(ATTEMPTS):
            if project([name]):
                return
            time.sleep(random.uniform(0, 0.01 * attempt))  # noqa: S311  # no secret; so that two do not go on taking turns
    except Exception as error:  # the change is committed: whatever fails here, the relay does it
        log.warning("a record waits for its relay: %s", error, extra={"record": name})


@cache
def client() -> "redis.Redis":
    """The lanes server, for this process."""
    return sync_client(settings.CONFIG.lanes_url, timeout=2.0)
