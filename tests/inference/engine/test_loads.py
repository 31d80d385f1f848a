"""Whose version a loader gets next."""

import threading

import pytest

from inference.loads import LOADERS, Load, Loads

pytestmark = pytest.mark.no_servers


@pytest.fixture
def loads():
    return Loads()


def own(loads, owner, *versions):
    for version in versions:
        loads.put(version, owner, is_public=False)


def catalogue(loads, *versions):
    for version in versions:
        loads.put(version, "catalogue", is_public=True)


def is_idle(loads):
    return loads._next() is None


def test_an_organization_has_one_loader_and_its_versions_are_all_loaded_in_their_order(loads):
    own(loads, "a", "a1", "a2", "a3")
    for version in ("a1", "a2", "a3"):
        load = loads.take()
        assert load == Load(version, "a", is_public=False)
        assert is_idle(loads)
        loads.done(load)
    assert is_idle(loads)
    assert loads.places == 0


def test_organizations_take_turns(loads):
    own(loads, "a", "a1", "a2", "a3")
    first = loads.take()
    own(loads, "b", "b1", "b2")
    own(loads, "c", "c1")
    own(loads, "a", "a4")
    order = []
    while first is not None:
        order.append(first.version)
        loads.done(first)
        first = None if is_idle(loads) else loads.take()
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_whoever_comes_while_another_is_loaded_comes_before_the_others_next(loads):
    own(loads, "a", "a1", "a2")
    own(loads, "b", "b1")
    first = loads.take()
    assert loads.take().version == "b1"
    own(loads, "c", "c1")
    loads.done(first)
    assert loads.take().version == "c1"


def test_own_models_leave_a_loader_to_the_catalogue(loads):
    for owner in "abcd":
        own(loads, owner, owner + "1")
    for _ in range(LOADERS - 1):
        loads.take()
    assert is_idle(loads)

    catalogue(loads, "iris")

    assert loads.take() == Load("iris", "iris", is_public=True)


def test_the_catalogue_leaves_a_loader_to_own_models(loads):
    own(loads, "a", "a1")
    catalogue(loads, "iris", "digits", "language")

    assert [loads.take().version for _ in range(LOADERS)] == ["iris", "digits", "a1"]


def test_a_version_that_is_asked_for_again_while_it_is_loaded_comes_again_after_it(loads):
    catalogue(loads, "iris")
    load = loads.take()
    catalogue(loads, "iris")
    assert is_idle(loads)

    loads.done(load)

    assert loads.take() == load


def test_one_organization_is_one_place(loads):
    own(loads, "a", *"123456")
    catalogue(loads, "iris", "digits")
    loads.take()
    assert loads.places == 3


def test_those_that_wait_are_told_the_end(loads):
    taken = []
    waiting = [threading.Thread(target=lambda: taken.append(loads.take())) for _ in range(2)]
    for thread in waiting:
        thread.start()

    loads.end()

    for thread in waiting:
        thread.join(10)
    assert taken == [None, None]
