"""Records: small facts that gateways keep in memory, projected from PostgreSQL to the lanes server and pushed on change.

A record has a name, `key:{public id}` or `route:…`, and a maker: a function that reads PostgreSQL and returns its packed bytes
(None: there is no such thing). `changed(name)` is called inside the transaction that changes it: an outbox row is written with
it, and after the commit the record is made anew, stored and its name published; `relay()` repeats what did not get through.
Gateways read: own memory (at most 5 s old) → the lanes server → the maker. What they make they store only if nothing is there,
so that a late reader never overwrites a newer record. What does not exist (any more) is stored as b"".
"""

import logging
import secrets
from collections.abc import Callable
from datetime import timedelta
from functools import cache, partial

import redis
from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from saas.lib.valkey import sync_client
from tenants.databases import as_operator, current_alias
from tenants.models import RecordChange

log = logging.getLogger(__name__)

RECORDS_CHANNEL = "records"
"""Where the name of each record that changed is published, after it was stored."""

KEEP = 86_400  # seconds that the lanes server keeps a record
BATCH = 500

makers: dict[str, Callable[[str], bytes | None]] = {}
"""By prefix (`key`, `route`): takes the record's name, returns it packed as PostgreSQL has it now."""

# KEYS: the record, its making token. ARGV: token, packed record, channel, name, seconds to keep.
_STORE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[5])
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
"""


def changed(name: str) -> None:
    """Say, inside the transaction that changes it, that a record is to be made anew.

    After the commit and before the answer it is stored and published. If that fails, `relay` does it soon after.
    """
    RecordChange.objects.create(name=name)
    transaction.on_commit(partial(_project_now, name), using=current_alias())


def project(name: str) -> bool:
    """Make the record from PostgreSQL, store it and publish its name. False if a later change's projection took over.

    Two that project the same record at the same time cannot leave the older one: each leaves its token before it reads, and
    only the one who left the last token, and so read last, may store. Raises redis.RedisError and what the maker raises.
    """
    token, making = secrets.token_hex(8), f"making:{name}"
    client().set(making, token, ex=60)
    with as_operator(False):
        packed = makers[name.partition(":")[0]](name) or b""
    return bool(client().eval(_STORE, 2, name, making, token, packed, RECORDS_CHANNEL, name, KEEP))


def relay() -> int:
    """Project every change that is due, again where its first projection came through: a lost publication costs 5 s at most.

    Returns how many were done. One that fails is tried again later, ever more rarely, and does not hold up the others; when
    the lanes server cannot be reached, all wait. Two relays share the work.
    """
    with as_operator(), transaction.atomic(using="ops"):
        due = RecordChange.objects.using("ops").filter(next_try_at__lte=timezone.now()).order_by("id")
        rows = list(due.select_for_update(skip_locked=True)[:BATCH])
        done = []
        try:
            for row in rows:
                done += [row.id] if _relay_one(row) else []
        except redis.RedisError as error:
            log.warning("records wait for the lanes server: %s", error)
        RecordChange.objects.using("ops").filter(id__in=done).delete()
    return len(done)


def _relay_one(row: RecordChange) -> bool:
    try:
        return project(row.name)
    except redis.RedisError:
        raise
    except Exception:  # one record that cannot be made must not hold up revocations behind it; it is kept and logged
        log.exception("a record could not be made", extra={"record": row.name})
        delay = timedelta(seconds=min(2 ** min(row.attempts, 8), 300))
        RecordChange.objects.filter(id=row.id).update(attempts=F("attempts") + 1, next_try_at=timezone.now() + delay)
        return False


def _project_now(name: str) -> None:
    try:
        project(name)
    except Exception as error:  # the change is committed: whatever fails here, the relay does it
        log.warning("a record waits for its relay: %s", error, extra={"record": name})


@cache
def client() -> "redis.Redis":
    """The lanes server, for this process."""
    return sync_client(settings.CONFIG.lanes_url, timeout=2.0)
