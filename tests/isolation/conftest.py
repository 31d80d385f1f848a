"""One world for all tests of a module."""

import pytest

from tests.isolation.world import World


@pytest.fixture(scope="module")
def world(embedded, module_fixtures):
    return World(**module_fixtures)


@pytest.fixture(scope="module")
def module_fixtures(embedded):
    """What tests/conftest.py has for single tests, for a whole module."""
    from tests import conftest

    names = ("make_user", "make_organization", "join", "make_key")
    return {name: getattr(conftest, name).__wrapped__(embedded) for name in names}
