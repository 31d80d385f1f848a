"""Guessing passwords is slow, and keeps nobody from their own account."""

import secrets

import pytest
from django.test import Client

from tests.tenants.test_mail_links import sign_in
from tests.tenants.test_signup import PASSWORD, sign_up

TOO_MANY = "too_many_login_attempts"


@pytest.fixture(autouse=True)
def quick_passwords(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # not about their strength


def network_address():
    return "10.{}.{}.{}".format(*secrets.token_bytes(3))


def codes(response):
    return {error["code"] for error in response.json().get("errors", [])} if response.status_code == 400 else set()


def test_wrong_passwords_from_one_address_lock_out_that_address_alone():
    email, home, elsewhere = f"dora-{secrets.token_hex(6)}@example.org", network_address(), network_address()
    sign_up(Client(), email, home)

    refused = [codes(sign_in(email, "not the right one", elsewhere)) for _ in range(25)]

    assert all(TOO_MANY not in each for each in refused[:10])
    assert all(TOO_MANY in each for each in refused[10:])
    assert TOO_MANY in codes(sign_in(email, PASSWORD, elsewhere))
    assert sign_in(email, PASSWORD, home).status_code == 200


def test_an_account_bears_a_hundred_wrong_passwords_from_everywhere():
    email = f"nobody-{secrets.token_hex(6)}@example.org"

    for _ in range(10):
        address = network_address()
        assert all(TOO_MANY not in codes(sign_in(email, "not the right one", address)) for _ in range(10))

    assert TOO_MANY in codes(sign_in(email, "not the right one", network_address()))


def test_right_passwords_are_not_counted():
    email, home = f"dora-{secrets.token_hex(6)}@example.org", network_address()
    sign_up(Client(), email, home)

    assert {sign_in(email, PASSWORD, home).status_code for _ in range(15)} == {200}
