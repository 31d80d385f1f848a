"""Somebody with an address, at a browser."""

import secrets

import pytest
from django.test import Client


@pytest.fixture
def email():
    return f"dora-{secrets.token_hex(6)}@example.org"


@pytest.fixture
def address():
    """A network address of its own: signing up and in is limited by address."""
    return "10.{}.{}.{}".format(*secrets.token_bytes(3))


@pytest.fixture
def browser():
    """As strict about forms as a real service."""
    return Client(enforce_csrf_checks=True)
