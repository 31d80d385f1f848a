"""Signatures under versioned keys."""

import base64

import pytest

from saas.lib.signing import SigningKeys, is_signed

pytestmark = pytest.mark.no_servers
SEED, OTHER = bytes(32), bytes(range(32))


def text(**seeds):
    return ",".join(f"{version[1:]}:{base64.b64encode(seed).decode()}" for version, seed in seeds.items())


def test_the_highest_version_signs_and_older_ones_still_verify():
    old, both = SigningKeys.parse(text(v1=SEED)), SigningKeys.parse(text(v1=SEED, v2=OTHER))
    first, second = old.sign(b"receipt", b"x"), both.sign(b"receipt", b"x")

    assert both.current == 2
    assert is_signed(both.public()[1], b"receipt", b"x", first)
    assert is_signed(both.public()[2], b"receipt", b"x", second)
    assert not is_signed(both.public()[1], b"receipt", b"x", second)


def test_a_signature_is_of_one_statement_for_one_purpose():
    keys = SigningKeys({1: SEED})
    signature = keys.sign(b"receipt", b"x")

    assert not is_signed(keys.public()[1], b"receipt", b"y", signature)
    assert not is_signed(keys.public()[1], b"seal", b"x", signature)
    assert not is_signed(keys.public()[1], b"receipt", b"x", bytes(64))


def test_the_public_key_is_that_of_rfc_8032():
    """Section 7.1, test 1."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")

    assert SigningKeys({1: seed}).public()[1].hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


@pytest.mark.parametrize("wrong", ["", "1", "1:abc", "1:" + base64.b64encode(bytes(31)).decode(), "0:x"])
def test_what_are_no_keys_is_refused(wrong):
    with pytest.raises(ValueError):
        SigningKeys.parse(wrong)
