"""Uploads on their way in: without a thread, bounded in number and bytes, nothing left behind."""

import asyncio
import os
import stat

import pytest

from saas import spools
from saas.lib.errors import CapacityExhausted, ConcurrencyLimited, LimitReached, Unavailable
from saas.spools import Admitted, Spools
from tests.waiting import PATIENCE, until_async

pytestmark = pytest.mark.no_servers


class Upload:
    """One that is received in a task of its own; `outcome` is its body, None where the client left, or the error."""

    def __init__(self, room, organization="alice", check=lambda size: None):
        self.messages, self.goes, self.file = asyncio.Queue(), asyncio.Event(), None
        self.task = asyncio.create_task(self._receive(room, Admitted(organization, check)))

    async def _receive(self, room, admitted):
        async with room.received(admitted, self.messages.get) as file:
            if file is None:
                return None
            self.file = file
            await self.goes.wait()
            return file.read()

    def send(self, body, *, more=True):
        self.messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self):
        self.messages.put_nowait({"type": "http.disconnect"})

    async def outcome(self):
        self.goes.set()
        async with asyncio.timeout(PATIENCE):
            return await self.task


@pytest.fixture
async def started(monkeypatch):
    """Starts uploads, and ends those that are left."""
    monkeypatch.setattr(spools, "WRITTEN", 10)
    uploads = []

    def start(*arguments, **options):
        uploads.append(Upload(*arguments, **options))
        return uploads[-1]

    yield start
    for upload in uploads:
        upload.task.cancel()
    await asyncio.gather(*(upload.task for upload in uploads), return_exceptions=True)


def is_open(room):
    """Whether anything is held: a place, bytes, or an open file."""
    done = room._writer.submit(lambda: None)
    done.result(PATIENCE)
    return bool(room._of)


async def arrived(room, size):
    await until_async(lambda: room._bytes() == size)


async def test_a_body_comes_whole_into_a_nameless_file_of_ours_alone(started):
    room = Spools(1 << 20)
    upload = started(room)
    for part in (b"0123456789ab", b"cd", b"", b"efghijklmnop"):
        upload.send(part)
    upload.send(b"q", more=False)
    await until_async(lambda: upload.file)

    found = os.fstat(upload.file.fileno())
    assert (found.st_nlink, stat.S_IMODE(found.st_mode), found.st_size) == (0, 0o600, 27)
    assert await upload.outcome() == b"0123456789abcdefghijklmnopq"
    assert not is_open(room)
    assert upload.file.closed


@pytest.mark.parametrize("end", ["leaves", "is cancelled", "sends too much", "finds no disk"])
async def test_nothing_is_left_of_one_that_does_not_come_to_its_end(started, monkeypatch, end):
    def check(size):
        if size > 30:
            raise LimitReached

    room = Spools(1 << 20)
    upload = started(room, check=check)
    upload.send(b"x" * 20)
    await arrived(room, 20)
    (spool,) = room._of["alice"]
    file = spool.file
    if end == "leaves":
        upload.leave()
        assert await upload.outcome() is None
    elif end == "is cancelled":
        upload.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload.outcome()
    elif end == "sends too much":
        upload.send(b"x" * 20)
        with pytest.raises(LimitReached):
            await upload.outcome()
    else:
        monkeypatch.setattr("inference.disk.FULL", 0.0)
        upload.send(b"x" * 10)
        with pytest.raises(Unavailable):
            await upload.outcome()

    assert not is_open(room)
    assert file.closed


async def test_any_number_of_slow_ones_block_nobody(started):
    room = Spools(1 << 20)
    slow = [started(room, f"slow{n // spools.PRESENT_EACH}") for n in range(4 * spools.PRESENT_EACH)]
    for upload in slow:
        upload.send(b"x" * 10)
    await arrived(room, 10 * len(slow))

    quick = started(room, "alice")
    quick.send(b"y" * 100, more=False)

    assert await quick.outcome() == b"y" * 100
    assert not any(upload.task.done() for upload in slow)


async def test_beyond_its_share_an_organization_is_told_to_wait(started):
    room = Spools(1 << 20)
    for _ in range(spools.PRESENT_EACH):
        started(room).send(b"x" * 10)
    await arrived(room, 10 * spools.PRESENT_EACH)

    with pytest.raises(ConcurrencyLimited) as refused:
        await started(room).outcome()
    assert refused.value.retry_after == 5
    other = started(room, "bob")
    other.send(b"y", more=False)
    assert await other.outcome() == b"y"


async def test_where_all_places_are_taken_who_has_most_makes_way(started, monkeypatch):
    monkeypatch.setattr(spools, "PRESENT", 4)
    room = Spools(1 << 20)
    greedy = [started(room, "mallory") for _ in range(3)]
    one = started(room, "bob")
    for size, upload in enumerate((*greedy, one), 10):
        upload.send(b"x" * size)
    await arrived(room, 10 + 11 + 12 + 13)

    other = started(room, "alice")
    other.send(b"y" * 10, more=False)
    assert await other.outcome() == b"y" * 10

    greedy[2].send(b"x" * 20)  # its largest was ended; it hears of it when it sends on
    with pytest.raises(CapacityExhausted):
        await greedy[2].outcome()
    for upload in (*greedy[:2], one):
        upload.send(b"z", more=False)
    assert [len(await upload.outcome()) for upload in (*greedy[:2], one)] == [11, 12, 14]
    assert not is_open(room)


async def test_where_everybody_has_one_the_newcomer_is_refused(started, monkeypatch):
    monkeypatch.setattr(spools, "PRESENT", 2)
    room = Spools(1 << 20)
    for name in ("alice", "bob"):
        started(room, name).send(b"x" * 10)
    await arrived(room, 20)

    with pytest.raises(CapacityExhausted):
        await started(room, "charlie").outcome()


async def test_where_all_bytes_are_taken_who_has_most_makes_way(started):
    room = Spools(100)
    first, second, small = started(room, "mallory"), started(room, "mallory"), started(room, "bob")
    for upload, size in ((first, 30), (second, 40), (small, 20)):
        upload.send(b"x" * size)
    await arrived(room, 90)
    (taken,) = [spool.file for spool in room._of["mallory"] if spool.size == 40]

    small.send(b"x" * 30, more=False)

    assert len(await small.outcome()) == 50
    second.send(b"x" * 10)
    with pytest.raises(CapacityExhausted):
        await second.outcome()
    first.send(b"x", more=False)
    assert len(await first.outcome()) == 31
    assert not is_open(room)
    assert taken.closed


async def test_who_has_most_is_refused_more_where_all_bytes_are_taken(started):
    room = Spools(100)
    large, small = started(room, "mallory"), started(room, "bob")
    large.send(b"x" * 60)
    small.send(b"x" * 30)
    await arrived(room, 90)

    large.send(b"x" * 20)
    with pytest.raises(CapacityExhausted):
        await large.outcome()
    small.send(b"x" * 60, more=False)
    assert len(await small.outcome()) == 90


async def test_one_alone_may_be_larger_than_all_may_be_together(started):
    upload = started(Spools(100))
    upload.send(b"x" * 90)
    upload.send(b"x" * 90, more=False)

    assert len(await upload.outcome()) == 180


async def test_nothing_waits_for_a_thread_while_bodies_arrive(started):
    """Hundreds of organizations send at once, and one thread writes for all of them."""
    room = Spools(1 << 20)
    uploads = [started(room, f"organization{n}") for n in range(200)]
    for part in range(3):
        for upload in uploads:
            upload.send(b"%010d" % part, more=part < 2)
    assert {await upload.outcome() for upload in uploads} == {b"000000000000000000010000000002"}
    assert not is_open(room)
