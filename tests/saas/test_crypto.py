"""saas/lib/crypto.py: what was sealed or wrapped opens in its place, unchanged, or not at all."""

import base64
import os

import pytest

from saas.lib.crypto import (
    KeyRing,
    Tampered,
    kek_version,
    lengths_and_parts,
    new_data_key,
    parse_versions,
    seal,
    sealed_under,
    unseal,
)
from saas.lib.ids import uuid7

pytestmark = pytest.mark.no_servers

TENANT, OTHER, KEY_ID = uuid7().hex, uuid7().hex, uuid7().hex
CONTEXT = (TENANT, "prediction", "output", uuid7().hex)


def ring_text(*versions):
    return ",".join(f"{version}:{base64.b64encode(bytes([version]) * 32).decode()}" for version in versions)


@pytest.mark.parametrize("plaintext", [b"", b"x", os.urandom(100_000)])
def test_what_was_sealed_opens_in_its_place(plaintext):
    key = new_data_key()
    sealed = seal(key, KEY_ID, plaintext, context=CONTEXT)

    assert unseal(key, KEY_ID, sealed, context=CONTEXT) == plaintext
    assert sealed_under(sealed) == KEY_ID
    assert len(sealed) == 2 + 16 + 12 + len(plaintext) + 16
    if len(plaintext) > 8:
        assert plaintext[:8] not in sealed


def test_every_flipped_bit_and_every_cut_is_noticed():
    key = new_data_key()
    sealed = seal(key, KEY_ID, b"a secret payload", context=CONTEXT)

    for position in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(Tampered):
            unseal(key, KEY_ID, bytes(changed), context=CONTEXT)
    for length in range(len(sealed)):
        with pytest.raises(Tampered):
            unseal(key, KEY_ID, sealed[:length], context=CONTEXT)
    with pytest.raises(Tampered):
        unseal(key, KEY_ID, sealed + b"\x00", context=CONTEXT)


@pytest.mark.parametrize("part", range(4))
def test_a_value_that_was_moved_does_not_open(part):
    key = new_data_key()
    sealed = seal(key, KEY_ID, b"mine", context=CONTEXT)
    elsewhere = tuple("else" if position == part else value for position, value in enumerate(CONTEXT))

    with pytest.raises(Tampered):
        unseal(key, KEY_ID, sealed, context=elsewhere)


def test_parts_of_a_place_cannot_be_shifted_into_each_other():
    key = new_data_key()
    sealed = seal(key, KEY_ID, b"mine", context=("ab", "c"))

    for context in (("a", "bc"), ("abc",), ("ab", "c", ""), ("", "ab", "c")):
        with pytest.raises(Tampered):
            unseal(key, KEY_ID, sealed, context=context)
    assert lengths_and_parts(b"ab", b"c") != lengths_and_parts(b"a", b"bc")


def test_another_key_or_another_key_id_does_not_open():
    key = new_data_key()
    sealed = seal(key, KEY_ID, b"mine", context=CONTEXT)
    for wrong_key, wrong_id in ((new_data_key(), KEY_ID), (key, uuid7().hex)):
        with pytest.raises(Tampered):
            unseal(wrong_key, wrong_id, sealed, context=CONTEXT)


def test_nonces_do_not_repeat():
    key = new_data_key()
    nonces = {seal(key, KEY_ID, b"", context=CONTEXT)[18:30] for _ in range(20_000)}

    assert len(nonces) == 20_000


def test_a_wrapped_key_opens_for_its_owner_only():
    ring, key = KeyRing.parse(ring_text(1)), new_data_key()
    wrapped = ring.wrap(key, tenant=TENANT, data_key_id=KEY_ID)

    assert key not in wrapped
    assert ring.unwrap(wrapped) == ring.unwrap(wrapped, tenant=TENANT, data_key_id=KEY_ID) == key
    for place in ({"tenant": OTHER}, {"data_key_id": OTHER}, {"tenant": OTHER, "data_key_id": KEY_ID}):
        with pytest.raises(Tampered):
            ring.unwrap(wrapped, **place)


def test_a_wrapped_key_with_another_owner_written_in_does_not_open():
    ring = KeyRing.parse(ring_text(1))
    wrapped = ring.wrap(new_data_key(), tenant=TENANT, data_key_id=KEY_ID)
    forged = wrapped.replace(bytes.fromhex(TENANT), bytes.fromhex(OTHER))

    with pytest.raises(Tampered):
        ring.unwrap(forged, tenant=OTHER, data_key_id=KEY_ID)
    for position in range(len(wrapped) * 8):
        changed = bytearray(wrapped)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(Tampered):
            ring.unwrap(bytes(changed))
    for length in range(len(wrapped)):
        with pytest.raises(Tampered):
            ring.unwrap(wrapped[:length])


def test_the_highest_version_wraps_and_all_unwrap():
    old, both, new = (KeyRing.parse(ring_text(*versions)) for versions in ((1,), (1, 2), (2,)))
    key = new_data_key()
    by_old, by_both = (ring.wrap(key, tenant=TENANT, data_key_id=KEY_ID) for ring in (old, both))

    assert [kek_version(by_old), kek_version(by_both)] == [1, 2]
    assert both.unwrap(by_old) == both.unwrap(by_both) == new.unwrap(by_both) == key
    with pytest.raises(Tampered):
        new.unwrap(by_old)


@pytest.mark.parametrize("text", ["", "1", "1:", ":a", "a:b", "0:b", "-1:b", "1:a,1:b", "1:a,", "²:a", "99999999999:a"])
def test_a_list_of_versions_in_another_form_is_refused_without_quoting_it(text):
    with pytest.raises(ValueError) as caught:
        parse_versions(text)
    assert "secret" not in str(caught.value).lower() or "VERSION:SECRET" in str(caught.value)


@pytest.mark.parametrize("text", ["1:short", "1:" + base64.b64encode(b"x" * 31).decode(), "1:" + "!" * 44])
def test_a_ring_of_wrong_keys_is_refused_without_quoting_them(text):
    with pytest.raises(ValueError) as caught:
        KeyRing.parse(text)
    assert text[2:] not in str(caught.value)
