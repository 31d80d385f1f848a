"""Uploads on their way in: the loop writes them to nameless files, so that none of them holds a thread until it is here whole.

Each organization may send many at the same time, as slowly as the protocol lets it. All together are bounded in number and in
bytes; at the bound the organization that has most makes way for those that have less. A nameless file is gone with its process.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import IO, Any, NamedTuple, TypeVar

from inference import artifacts
from saas.lib.errors import AppError, CapacityExhausted, ConcurrencyLimited, Unavailable

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
R = TypeVar("R")

PRESENT, PRESENT_EACH = 256, 16  # uploads that arrive, wait or are taken in: of all organizations, of one
WRITTEN = 128 << 10  # bytes that are collected before they are written
FULL_SECONDS = 60  # until it is worth to try again where the disk is full


class Admitted(NamedTuple):
    """What may be sent: `check` takes the number of bytes so far and raises AppError where that is too many."""

    organization: str
    check: Callable[[int], None]


class Spool:
    """One upload. Its file is opened, written and closed in the writer's thread alone."""

    def __init__(self, organization: str) -> None:
        self.organization = organization
        self.size = 0  # bytes that were written, or are about to be
        self.is_whole = False
        self.refused: AppError | None = None  # it had to make way
        self.file: IO[bytes] | None = None

    def open(self) -> None:
        self.file = tempfile.TemporaryFile(dir=artifacts.quarantine())  # noqa: SIM115  # mode 0600; closed by `close`

    def write(self, chunks: list[bytes]) -> None:
        """Raises Unavailable where the disk is almost full."""
        if self.file is None:
            return  # it made way
        if not artifacts.has_room():
            raise _no_room()
        self.file.writelines(chunks)

    def rewind(self) -> None:
        if self.file is not None:
            self.file.seek(0)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


class Spools:
    """All uploads of one process, of `most_bytes` together; a single one may be larger. Lives on one event loop."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._of: dict[str, list[Spool]] = {}  # by organization
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="spools")

    @asynccontextmanager
    async def received(self, admitted: Admitted, receive: Receive) -> AsyncIterator[IO[bytes] | None]:
        """The whole body as a file at its beginning; None if the client left.

        Raises ConcurrencyLimited, CapacityExhausted, Unavailable, and what `admitted.check` does.
        """
        spool = self._enter(admitted.organization)
        try:
            if await self._fill(spool, admitted, receive):
                yield spool.file
            else:
                yield None
        finally:
            self._leave(spool)

    async def _fill(self, spool: Spool, admitted: Admitted, receive: Receive) -> bool:
        await self._in_writer(spool.open)
        chunks: list[bytes] = []
        waiting, more = 0, True
        while more:
            message = await receive()
            if spool.refused is not None:
                raise spool.refused
            if message["type"] == "http.disconnect":
                return False
            chunks.append(message.get("body", b""))
            waiting += len(chunks[-1])
            more = message.get("more_body", False)
            if waiting >= WRITTEN or not more:
                admitted.check(spool.size + waiting)
                self._grow(spool, waiting)
                await self._in_writer(lambda: spool.write(chunks))  # noqa: B023  # awaited before the next round
                chunks, waiting = [], 0
        spool.is_whole = True
        await self._in_writer(spool.rewind)
        if spool.refused is not None:
            raise spool.refused
        return True

    async def _in_writer(self, work: Callable[[], R]) -> R:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._writer, work)
        except OSError as error:
            raise _no_room() from error

    def _enter(self, organization: str) -> Spool:
        if len(self._of.get(organization, ())) >= PRESENT_EACH:
            detail = f"{PRESENT_EACH} uploads are under way: wait until one is received"
            raise ConcurrencyLimited(detail, retry_after=5)
        if sum(map(len, self._of.values())) >= PRESENT:
            self._make_way(organization, 1, len)
        spool = Spool(organization)
        self._of.setdefault(organization, []).append(spool)
        return spool

    def _grow(self, spool: Spool, size: int) -> None:
        """Take `size` bytes more."""
        while self._bytes() + size > self._most_bytes and self._bytes() > spool.size:
            self._make_way(spool.organization, size, _size)
        spool.size += size

    def _bytes(self) -> int:
        return sum(map(_size, self._of.values()))

    def _make_way(self, organization: str, added: int, weigh: Callable[[list[Spool]], int]) -> None:
        """End the largest upload of the organization that has most. Raises CapacityExhausted if that is who asks for more."""
        most = max(self._of, key=lambda name: weigh(self._of[name]))
        arriving = [spool for spool in self._of[most] if not spool.is_whole]
        if not arriving or weigh(self._of[most]) <= weigh(self._of.get(organization, [])) + added:
            raise _no_place()
        spool = max(arriving, key=lambda found: found.size)
        spool.refused = _no_place()
        self._leave(spool)

    def _leave(self, spool: Spool) -> None:
        """Give back what it has. Twice does no harm."""
        mine = self._of.get(spool.organization, [])
        if spool in mine:
            mine.remove(spool)
            if not mine:
                del self._of[spool.organization]
            self._writer.submit(spool.close)


def _size(spools: list[Spool]) -> int:
    return sum(spool.size for spool in spools)


def _no_place() -> CapacityExhausted:
    return CapacityExhausted("Too many uploads are under way", retry_after=5, source="platform")


def _no_room() -> Unavailable:
    return Unavailable("There is no room for uploads right now", retry_after=FULL_SECONDS)
