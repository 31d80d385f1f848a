"""API keys: their form, their check, and their life from issue to revocation.

Form (security.md, section 1): `maas_live_` or `maas_test_`, a public id of 12 characters, `_`, a secret of 32 base62 characters
(190 bits), and 6 characters of CRC-32 over all before, so that a mistyped or made-up key costs no look-up. Kept is the
HMAC-SHA-256 of the whole key under a versioned pepper: at 190 bits a slow password hash would protect nothing, and invite
denial of service.
"""

import hashlib
import hmac
import re
import secrets
import string
import time
import zlib
from collections.abc import Collection
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils import timezone

from saas.lib.crypto import parse_versions
from saas.lib.errors import ApiKeyInvalid, StateConflict
from tenants import audit, caps, events, records, standing
from tenants.access import SYSTEM, Actor
from tenants.models import ApiKey, Mode, Organization, User
from tenants.permissions import DEFAULT_SCOPES
from tenants.principal import TEST_LIMITS, KeyRecord, Limits, pack_key, unpack_key, unpack_terms

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_FORM = re.compile(r"maas_(?:live|test)_([0-9A-Za-z]{12})_[0-9A-Za-z]{32}([0-9A-Za-z]{6})", re.ASCII)
_NO_HASH = bytes(32)

DEFAULT_LIFE = timedelta(days=90)
LONGEST_LIFE = timedelta(days=366)
LONGEST_OVERLAP = timedelta(days=7)
TEST_COLUMNS = ("rate", "burst", "concurrency")  # of TEST_LIMITS


@cache
def peppers() -> dict[int, bytes]:
    """The peppers of this process by version. Raises ImproperlyConfigured if KEY_PEPPERS is not usable."""
    try:
        return {
            version: text.encode() for version, text in parse_versions(settings.CONFIG.key_peppers.get_secret_value()).items()
        }
    except ValueError as error:
        raise ImproperlyConfigured(f"KEY_PEPPERS: {error}") from None


def parse(presented: str) -> str | None:
    """The public id in a key whose form and checksum are right, else None. No I/O."""
    match = _FORM.fullmatch(presented)
    if match is None or not hmac.compare_digest(match[2], _checksum(presented[:-6])):
        return None
    return match[1]


def verify(record: KeyRecord, presented: str) -> None:
    """Raise ApiKeyInvalid, without a reason, unless `presented` is the whole key behind `record`, active and not expired."""
    if not (matches(record, presented) and is_usable(record)):
        raise ApiKeyInvalid


def is_usable(record: KeyRecord) -> bool:
    """Active and not expired."""
    return record.is_active and (record.expires_at is None or record.expires_at > time.time())


def matches(record: KeyRecord, presented: str) -> bool:
    """Whether `presented` is the whole key behind `record`, by a pepper of this process. In the same time for any answer."""
    pepper = peppers().get(record.pepper_version)
    return hmac.compare_digest(record.hash if pepper else _NO_HASH, _hash(presented, pepper or b""))


def missing_peppers() -> list[int]:
    """Versions of peppers that this process lacks and active keys of any organization need. As the operator."""
    active = ApiKey.objects.filter(revoked_at=None).exclude(expires_at__lte=timezone.now())
    return sorted(set(active.values_list("pepper_version", flat=True).distinct()) - peppers().keys())


def verify_nothing(presented: str) -> None:
    """Take as long as `verify` does: for a key that nobody has."""
    hmac.compare_digest(_NO_HASH, _hash(presented, b"none"))


def authenticate(presented: str) -> KeyRecord:
    """The record behind a key, from PostgreSQL. Raises ApiKeyInvalid; an unknown key takes as long as a wrong secret."""
    public_id = parse(presented)
    if public_id is None:
        raise ApiKeyInvalid
    packed = load_key(public_id)
    if packed is None:
        verify_nothing(presented)
        raise ApiKeyInvalid
    record = unpack_key(packed)
    verify(record, presented)
    return record


def load_key(public_id: str) -> bytes | None:
    """The packed KeyRecord of whichever organization has this key; None if nobody has. Goes through a door, needs no tenant."""
    return load_keys([public_id]).get(public_id)


def load_keys(public_ids: Collection[str]) -> dict[str, bytes]:
    """The same of many, by public id, in one statement; those that nobody has are not in it."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT k.* FROM unnest(%s) AS id, tenants_key_by_public_id(id) AS k", [list(public_ids)])
        columns = [column.name for column in cursor.description]
        rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    return {row["public_id"]: pack_key(_record(row)) for row in rows}


def make_records(names: Collection[str]) -> dict[str, bytes]:
    """The packed records of these names (`key:…`) that are there. A bulk maker of tenants.records."""
    found = load_keys([name.removeprefix("key:") for name in names])
    return {f"key:{public_id}": packed for public_id, packed in found.items()}


def _record(row: dict[str, Any]) -> KeyRecord:  # Any: columns of the door
    terms = unpack_terms(row["terms"])
    columns = Limits(row["organization_rate"], row["organization_burst"], row["organization_concurrency"])
    organization_limits = standing.limits_in(terms.state, columns)
    if row["mode"] == Mode.TEST:  # calls that nobody pays for stay few, whatever the keys' owner sets, and however many keys
        organization_limits = organization_limits.within(TEST_LIMITS)
    limits = Limits(
        row["rate"] or organization_limits.rate,
        row["burst"] or organization_limits.burst,
        row["concurrency"] or organization_limits.concurrency,
    ).within(organization_limits)
    has_quota = row["monthly_calls"] is not None or row["organization_monthly_calls"] is not None
    return KeyRecord(
        public_id=row["public_id"],
        id=row["id"].hex,
        organization=row["tenant_id"].hex,
        slug=row["slug"],
        mode=row["mode"],
        hash=bytes(row["hash"]),
        pepper_version=row["pepper_version"],
        scopes=row["scopes"],
        models=row["models"],
        expires_at=row["expires_at"].timestamp() if row["expires_at"] else None,
        is_active=row["is_active"],
        limits=limits,
        organization_limits=organization_limits,
        is_capped=(has_quota or terms.is_capped) and row["mode"] == Mode.LIVE,  # test calls raise no sum
        data_key_id=row["data_key_id"].hex if row["data_key_id"] else "",
        data_key=bytes(row["data_key"] or b""),
        terms=terms,
    )


def _limits(limits: Limits) -> tuple[float, int, int]:
    return limits.rate, limits.burst, limits.concurrency


def issue(
    *,
    organization: Organization,
    name: str,
    scopes: list[str] | tuple[str, ...] = DEFAULT_SCOPES,
    mode: str = Mode.LIVE,
    models: list[str] | None = None,
    expires_at: datetime | None = None,
    created_by: User | None = None,
    actor: Actor = SYSTEM,
    replaces: UUID | None = None,
    **limits: Any,  # rate, burst, concurrency, monthly_calls
) -> tuple[ApiKey, str]:
    """A new key and its text, which exists only here and is never seen again. `expires_at` None means never.

    A test key has TEST_LIMITS where it is given none. Inside a transaction whose tenant is the organization.
    Raises LimitReached.
    """
    _lock_for_one_more(organization.id)
    if mode == Mode.TEST:
        limits = dict.fromkeys(TEST_COLUMNS) | limits
        limits |= _within_test_limits(limits)
    public_id, presented = _new_text(mode)
    version = max(peppers())
    key = ApiKey.objects.create(
        organization=organization,
        name=name,
        public_id=public_id,
        mode=mode,
        hash=_hash(presented, peppers()[version]),
        pepper_version=version,
        scopes=list(scopes),
        models=models,
        created_by=created_by,
        replaces=replaces,
        expires_at=expires_at,
        **limits,
    )
    audit.note(organization.id, actor, "key.created", key.shown_id, name=name, mode=mode, scopes=list(scopes))
    _changed(key)
    return key, presented


def rotate(
    key: ApiKey, *, overlap: timedelta, expires_at: datetime | None, created_by: User | None, actor: Actor
) -> tuple[ApiKey, str]:
    """A new key that may do what `key` may; `key` itself goes on for `overlap`, so that clients can be changed meanwhile.

    Raises StateConflict for a key that is not active, so also for the second of two rotations without overlap, and
    LimitReached if there is no place for both.
    """
    caps.lock(key.organization_id)  # before the key: `change` takes them in this order too
    key = ApiKey.objects.of(key.organization_id).select_for_update().get(id=key.id)
    if key.status != "active":
        raise StateConflict(f"The key is {key.status}; make a new one.")
    ends = timezone.now() + overlap
    if key.expires_at is None or key.expires_at > ends:
        key.expires_at = ends
        key.save(update_fields=["expires_at"])
    limits = {name: getattr(key, name) for name in ("rate", "burst", "concurrency", "monthly_calls")}
    successor = issue(
        organization=key.organization,
        name=key.name,
        scopes=key.scopes,
        mode=key.mode,
        models=key.models,
        expires_at=expires_at,
        created_by=created_by,
        actor=actor,
        replaces=key.id,
        **limits,
    )
    audit.note(key.organization_id, actor, "key.rotated", key.shown_id, successor=successor[0].shown_id)
    _changed(key)
    return successor


def revoke(key: ApiKey, *, actor: Actor) -> None:
    """Refuse the key from now on, everywhere. Revoking it again changes nothing."""
    if ApiKey.objects.of(key.organization_id).filter(id=key.id, revoked_at=None).update(revoked_at=timezone.now()):
        audit.note(key.organization_id, actor, "key.revoked", key.shown_id)
        _changed(key)
    key.refresh_from_db()


def change(key: ApiKey, *, actor: Actor, **values: Any) -> None:  # Any: columns of ApiKey
    """Set columns that its owners may set: name, scopes, models, expires_at, limits.

    Raises StateConflict for a revoked key, LimitReached if an expired one would live again and there is no place for it.
    """
    if key.revoked_at is not None:
        raise StateConflict("The key is revoked.")
    if key.status == "expired" and "expires_at" in values:
        _lock_for_one_more(key.organization_id)
    if key.mode == Mode.TEST:
        values |= _within_test_limits(values)
    for column, value in values.items():
        setattr(key, column, value)
    key.save(update_fields=list(values))
    audit.note(key.organization_id, actor, "key.changed", key.shown_id, fields=sorted(values))
    _changed(key)


def _within_test_limits(values: dict[str, Any]) -> dict[str, Any]:  # Any: numbers, None
    """Those of `values` that bound a test key, no higher than what binds it anyway, so that it is shown what holds."""
    highest = {name: getattr(TEST_LIMITS, name) for name in TEST_COLUMNS if name in values}
    return {name: most if values[name] is None else min(values[name], most) for name, most in highest.items()}


def _lock_for_one_more(organization_id: UUID) -> None:
    organization = caps.lock(organization_id)
    caps.check(organization, caps.KEYS, caps.active_keys(organization))


def changed_all(organization_id: UUID) -> None:
    """Something that all keys of the organization carry was changed: its limits, its state, its data key."""
    public_ids = ApiKey.objects.of(organization_id).filter(revoked_at=None).values_list("public_id", flat=True)
    records.note([f"key:{public_id}" for public_id in public_ids])


def _changed(key: ApiKey) -> None:
    records.changed(f"key:{key.public_id}")
    events.fire(events.quota_changed, key.organization_id)


def _new_text(mode: str) -> tuple[str, str]:
    public_id = "".join(secrets.choice(BASE62) for _ in range(12))
    text = f"maas_{mode}_{public_id}_" + "".join(secrets.choice(BASE62) for _ in range(32))
    return public_id, text + _checksum(text)


def _checksum(text: str) -> str:
    """CRC-32 of `text` in 6 base62 digits, as in GitHub's tokens."""
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = BASE62[digit] + digits
    return digits


def _hash(presented: str, pepper: bytes) -> bytes:
    return hmac.digest(pepper, presented.encode(), hashlib.sha256)
