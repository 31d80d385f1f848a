"""Room for bytes that threads share: who waits, and what is free again."""

import threading
from uuid import uuid4

import pytest

from saas.lib.places import Bytes
from tests.waiting import PATIENCE

pytestmark = pytest.mark.no_servers


def has_room(room, organization, size):
    with room.take(organization, size, within=0) as is_mine:
        return is_mine


def test_one_has_its_share_and_all_have_what_there_is():
    room, one, other = Bytes(overall=10, per_organization=6), uuid4(), uuid4()
    with room.take(one, 4, within=0):
        assert has_room(room, one, 2)
        assert not has_room(room, one, 3)
        assert has_room(room, other, 6)
        assert not has_room(room, other, 7)
    assert not room._taken


def test_what_is_larger_than_all_has_room_alone():
    room = Bytes(overall=10, per_organization=6)
    assert has_room(room, uuid4(), 100)


def test_who_waits_has_the_room_that_another_gives_back():
    room, organization, got, holds = Bytes(overall=10, per_organization=6), uuid4(), [], threading.Event()

    def take():
        holds.set()
        with room.take(organization, 6, within=PATIENCE) as is_mine:
            got.append(is_mine)

    waiting = threading.Thread(target=take)
    with room.take(organization, 6, within=0):
        waiting.start()
        assert holds.wait(PATIENCE)
        assert got == []
    waiting.join(PATIENCE)

    assert got == [True]
    assert not room._taken
