"""Work before admission is limited: by organization, and for keys that nobody has."""

import pytest

from inference.gateway import allowance
from saas.lib.errors import ApiKeyInvalid, RateLimited, Unavailable
from tenants import keys, records
from tenants.principal import Limits, pack_key
from tests.inference.gateway.test_line import desk  # noqa: F401  # a fixture


async def test_replays_are_limited_before_the_books_are_asked(desk):  # noqa: F811
    desk.key.organization_limits = Limits(0.001, 1, 10)
    keyed = {"idempotency_key": "k", "fingerprint": b"f" * 32}
    _, first = desk.ask(**keyed)
    await desk.reply(await desk.take())
    await first
    _, second = desk.ask(**keyed)
    assert (await second).status == 200

    _, third = desk.ask(**keyed)

    error = third.result()
    assert (error.status, error.code, error.source) == (429, "rate_limited", "organization")
    assert error.retry_after >= 1


@pytest.fixture
def lookups(desk, monkeypatch):  # noqa: F811
    """Names that PostgreSQL is asked for; only Alice's key is there. Slow refills: what is used up stays so."""
    asked = []
    public_id, desk.presented = keys._new_text("live")
    desk.key.public_id, desk.key.hash = public_id, keys._hash(desk.presented, keys.peppers()[max(keys.peppers())])
    desk.key.pepper_version = max(keys.peppers())

    def make(name):
        asked.append(name)
        return pack_key(desk.key) if name == f"key:{public_id}" else None

    monkeypatch.setitem(records.makers, "key", make)
    for name, value in {"ADDRESS_RATE": 0.001, "ADDRESS_BURST": 3, "ALL_RATE": 0.001, "ALL_BURST": 5}.items():
        monkeypatch.setattr(allowance, name, value)
    return asked


async def guess(access, address):
    with pytest.raises((ApiKeyInvalid, RateLimited, Unavailable)) as refusal:
        await access.fetch_principal(keys._new_text("live")[1], address)
    return refusal.value.code


async def test_guessed_keys_are_refused_without_a_look_up_by_address_and_in_all(desk, lookups):  # noqa: F811
    access = desk.gateway.access

    assert [await guess(access, "a") for _ in range(5)] == ["api_key_invalid"] * 3 + ["rate_limited"] * 2
    assert [await guess(access, "b") for _ in range(3)] == ["api_key_invalid"] * 2 + ["unavailable"]
    assert len(lookups) == 5


async def test_known_keys_go_on_however_many_are_guessed(desk, lookups):  # noqa: F811
    access = desk.gateway.access
    for _ in range(4):  # a key that exists counts for nothing, even if memory has to learn it again
        desk.gateway.records.drop(f"key:{desk.key.public_id}")
        await access.fetch_principal(desk.presented, "a")
    for address in "abcdef":
        await guess(access, address)
    name = f"key:{desk.key.public_id}"
    record, read = desk.gateway.records._known[name]
    desk.gateway.records._known[name] = (record, read - 3600)  # it was not used for an hour

    assert (await access.fetch_principal(desk.presented, "a")).id == desk.key.id


async def test_a_key_that_nobody_has_is_looked_up_once(desk, lookups):  # noqa: F811
    presented = keys._new_text("live")[1]
    for _ in range(10):
        with pytest.raises(ApiKeyInvalid):
            await desk.gateway.access.fetch_principal(presented, "a")

    assert len(lookups) == 1
