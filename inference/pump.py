"""The speed-critical loop: take all that has accumulated in some lanes, run it, answer each gateway with one message.

A pump has slots (threads), each with a connection of its own, and one token. The slot that holds the token pops. A short
batch it runs itself, and its replies travel with the next pop in one write; before a long batch it hands the token on, so that
another slot serves the other lanes meanwhile. Lanes take turns: the one behind that served last is asked first.

Calls that are slow each on its own run in all slots but one: while these are taken, lanes with such a call at their head are
not asked, so that a fast call always finds a slot that comes to it soon. They wait in the order in which they found no place,
and once there is one, they are asked in that order and before all others. Slow lanes are asked first in every other turn, but
not right after one of them: so that neither kind waits long, even for one slot.
"""

import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import accumulate
from typing import NamedTuple

import msgspec

from inference.engine.residency import Resident
from inference.lane_connection import REPLY_SECONDS, LaneConnection, pack_command
from inference.lanes import Reply, Work, bytes_of, lane_key, pack_work, unpack_work
from inference.replies import publish
from inference.slow import SLOW_US, SlowPlaces

log = logging.getLogger(__name__)

BYTES_AT_ONCE = 64 << 20  # of calls that one pop shall bring
HAND_OVER_US = 2000  # a batch that is expected to take longer does not hold up the other lanes
POP_SECONDS = 1  # a blocking pop ends after so long even if nothing came
RECONNECT_SECONDS = 0.2
WAKE_SECONDS = 60  # a pump that is gone does not read its wake-up
MAX_COMMANDS = 1000  # that are kept ready
BUCKETS = 12  # of the histogram: 1, 2, 4, … 2048 rows and more


class Taken(NamedTuple):
    """A call as it was popped: `frame` is what lay in list `key`."""

    work: Work
    frame: bytes
    key: str


class Counters(msgspec.Struct):
    """What one slot has done since it started. Durations are sums, in microseconds."""

    batches: int = 0
    calls: int = 0
    rows: int = 0
    failed: int = 0
    expired: int = 0
    queue_us: int = 0
    compute_us: int = 0
    batch_rows: list[int] = msgspec.field(default_factory=lambda: [0] * BUCKETS)  # runs by rows, next power of two


Reject = Callable[[list[Taken]], list[tuple[Taken, Reply]]]
"""Takes calls whose version this pump does not serve; gives back the refusals among them."""


class Pump:
    """Serves the lanes of `residents`, and `pools` if given, with `slots` threads."""

    def __init__(
        self,
        name: str,
        url: str,
        *,
        reject: Reject,
        slots: int = 1,
        max_calls: int = 64,
        pools: tuple[str, ...] = (),
        priorities: tuple[bool, ...] = (False, True),
        is_pool_open: Callable[[], bool] = lambda: True,
    ) -> None:
        """`name` is unique. `pools` are a normal and a low-priority list; they are popped while `is_pool_open()`.

        `priorities`: whether it serves its versions' normal lanes (False), their low-priority ones (True) or both.
        """
        self.name, self.url, self.max_calls = name, url, max_calls
        self.wake_key = f"wake:{name}"
        self.counters = [Counters() for _ in range(slots)]
        self._priorities = priorities
        self._reject, self._pools, self._is_pool_open = reject, pools, is_pool_open
        self._residents: dict[str, Resident] = {}
        self._commands: dict[tuple[int, int, bool, bool, int], bytes] = {}
        self._versions: tuple[str, ...] = ()
        self._turn = self._slow_turn = 0  # whose lane and slow lane is asked first: places in `versions`, behind these the pool
        self._is_slow_turn = False  # slow lanes are asked before the others
        self._was_slow = False  # the last pop brought what lay in a slow lane
        self._asked: list[str] = []  # by the pop under way, if a lane waited for a place that is free
        self._largest = 0  # bytes of a call, of those that came lately
        self._token = threading.Lock()
        self._slow = SlowPlaces(slots)
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, args=(counters,), name=f"{name}-{slot}", daemon=True)
            for slot, counters in enumerate(self.counters)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Pop no more; what runs is finished. The caller wakes the pump (`wake_key`) and joins it."""
        self._stopping.set()

    def join(self, timeout: float) -> bool:
        """Wait for the slots to end; whether they did within `timeout` seconds."""
        until = time.monotonic() + timeout
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def add(self, resident: Resident) -> None:
        """Serve a version's lane, from the next pop on: wake the pump to make that now."""
        self._set(self._residents | {resident.source.version: resident})

    def remove(self, version: str) -> None:
        """Serve it no more. The pop under way may still bring some of its work, which is then rejected."""
        self._set({name: resident for name, resident in self._residents.items() if name != version})

    def _set(self, residents: dict[str, Resident]) -> None:
        self._residents, self._versions = residents, tuple(residents)
        self._commands = {}  # replaced, not cleared: the leader may be reading it

    # --- the loop

    def _serve(self, counters: Counters) -> None:
        """One slot's life: keep a connection, and lose no reply if it breaks."""
        unsent: list[bytes] = []
        was_lost = False
        while not self._stopping.is_set() or unsent:
            try:
                with closing(LaneConnection(self.url)) as connection:
                    was_lost = False
                    self._work(connection, counters, unsent)
            except OSError as error:
                if not was_lost:
                    log.warning("%s: the lanes server is lost: %s", self.name, error)
                was_lost = True
                time.sleep(RECONNECT_SECONDS)

    def _work(self, connection: LaneConnection, counters: Counters, unsent: list[bytes]) -> None:
        """Pop and run until the pump stops. `unsent` holds replies that the server has not acknowledged. Raises OSError."""
        while not self._stopping.is_set():
            if unsent:
                connection.ask(unsent)
                unsent.clear()
            with self._token:
                batch, is_slow = self._lead(connection, counters, unsent)
            if batch:
                unsent += self._run(batch, counters)
            if is_slow:
                unsent += self._free_place()
        if unsent:
            connection.ask(unsent)
            unsent.clear()

    def _lead(self, connection: LaneConnection, counters: Counters, unsent: list[bytes]) -> tuple[dict[str, list[Taken]], bool]:
        """Pop, and run what is short; the first long batch is returned, to be run without the token, and whether it is slow."""
        while not self._stopping.is_set():
            key, frames = self._pop(connection, unsent)
            if not frames:
                continue
            if self._stopping.is_set():  # it came while the pump was told to stop: let others have it
                connection.ask([pack_command(("LPUSH", key, *reversed(frames)))])
                break
            batch = self._sort(key.decode(), frames, counters, unsent)
            expected_us = sum(self._expected_us(taken) for taken in batch.values())
            if expected_us <= HAND_OVER_US:
                unsent += self._run(batch, counters)
                continue
            batch, is_slow = self._bounded(batch, connection, unsent) if expected_us > SLOW_US else (batch, False)
            if batch:
                return batch, is_slow
        return {}, False

    def _bounded(
        self, batch: dict[str, list[Taken]], connection: LaneConnection, unsent: list[bytes]
    ) -> tuple[dict[str, list[Taken]], bool]:
        """Of a batch for more than SLOW_US what may run now, perhaps nothing, and whether it is a slow call, which has taken a
        place then. The rest goes back to the head of its lanes.
        """
        calls = [taken for own in batch.values() for taken in own]
        until_us = list(accumulate(self._expected_us([taken]) for taken in calls))
        count, is_slow = max(1, bisect_right(until_us, SLOW_US)), until_us[0] > SLOW_US
        if is_slow and not self._slow.take(lane_of(calls[0])):
            count, is_slow = 0, False
        self._commands = {}  # other lanes are asked now
        if count < len(calls):
            unsent += _returned(calls[count:])
            try:
                connection.ask(unsent)
                unsent.clear()
            except OSError:
                connection.close()  # the next pop finds it lost, and what is unsent is sent again; what is here is run
        mine: dict[str, list[Taken]] = {}
        for taken in calls[:count]:
            mine.setdefault(taken.work.version, []).append(taken)
        return mine, is_slow

    def _free_place(self) -> list[bytes]:
        """A slow call has ended: the commands that wake the slot that pops, if a lane waits for the place."""
        if not self._slow.free():
            return []
        self._commands = {}
        return [pack_command(("LPUSH", self.wake_key, "")), pack_command(("EXPIRE", self.wake_key, str(WAKE_SECONDS)))]

    def _pop(self, connection: LaneConnection, unsent: list[bytes]) -> tuple[bytes, list[bytes]]:
        """A list and what has accumulated in it, within max_calls; nothing if nothing came. `unsent` travels with the pop.

        It is one command, which can count calls but not bytes: it asks for as many as fit into BYTES_AT_ONCE if they are as
        large as those before. When large calls come for the first time it brings more, but never more than gateways let wait.
        """
        popped = connection.ask([*unsent, self._pop_command()], POP_SECONDS + REPLY_SECONDS)
        unsent.clear()
        if popped is None or popped[0] == self.wake_key.encode():
            return b"", []
        key, frames = popped
        if self._asked:
            self._slow.forget(self._asked[: self._asked.index(key.decode())])
        self._was_slow = b":slow" in key
        self._end_turn(key.decode())
        self._largest = max(self._largest // 2, *map(len, frames))  # forgotten slowly: other lanes come in between
        return key, frames

    def _end_turn(self, key: str) -> None:
        version = key.split(":")[1]
        place = self._versions.index(version) if version in self._versions else len(self._versions)
        if self._was_slow:
            self._slow_turn = place + 1
        else:
            self._turn = place + 1

    def _count(self) -> int:
        """How many calls the next pop may bring: max_calls, or a power of two, so that few commands are made."""
        fit = BYTES_AT_ONCE // max(self._largest, 1)
        return self.max_calls if fit >= self.max_calls else 1 << max(0, fit.bit_length() - 1)

    def _pop_command(self) -> bytes:
        commands = self._commands  # before what they are made of, so that none is kept that is outdated
        held, first = self._slow.lanes()
        is_open, calls, places = self._is_pool_open(), self._count(), len(self._versions) + 1
        self._is_slow_turn = not self._is_slow_turn
        slow_first = self._is_slow_turn and not self._was_slow
        self._asked = []
        state = (self._turn % places, self._slow_turn % places, slow_first, is_open, calls)
        command = None if first else commands.get(state)
        if command is None:
            keys = [self.wake_key]
            for low in self._priorities:
                lanes = self._lanes(*state[:4], low=low)
                keys += [key for key in first if key in lanes]
                keys += [key for key in lanes if key not in held and key not in first]
            command = pack_command(("BLMPOP", str(POP_SECONDS), str(len(keys)), *keys, "LEFT", "COUNT", str(calls)))
            if first:
                self._asked = keys
            elif len(commands) < MAX_COMMANDS:
                commands[state] = command
        return command

    def _lanes(self, turn: int, slow_turn: int, slow_first: bool, is_open: bool, *, low: bool) -> list[str]:
        """The lists of one priority in the order of this turn."""
        lanes = [lane_key(version, low=low) for version in _turned(self._versions, turn)]
        if is_open and self._pools:
            place = len(lanes) if low else len(lanes) - turn  # the pool takes its turn like a lane
            lanes.insert(place, self._pools[low])
        behind = _turned(self._versions, slow_turn)
        slow = [lane_key(version, low=low, slow=True) for version in behind if self._has_slow_lanes(version)]
        return slow + lanes if slow_first else lanes + slow

    def _has_slow_lanes(self, version: str) -> bool:
        resident = self._residents.get(version)
        return resident is not None and resident.source.has_slow_lanes

    def _sort(self, key: str, frames: list[bytes], counters: Counters, unsent: list[bytes]) -> dict[str, list[Taken]]:
        """The popped calls by version, for those that are served here; expired and foreign ones are dealt with."""
        now = time.time()
        mine: dict[str, list[Taken]] = {}
        foreign: list[Taken] = []
        refused: list[tuple[Taken, Reply]] = []
        for frame in frames:
            try:
                taken = Taken(unpack_work(frame), frame, key)
            except msgspec.DecodeError:
                log.exception("what lay in %s cannot be read; nobody can be told", key)
                continue
            work = taken.work
            if work.deadline <= now:
                counters.expired += 1
                refused.append((taken, Reply(work.number, "deadline_exceeded", "The deadline passed while the call waited")))
            elif work.version in self._residents:
                mine.setdefault(work.version, []).append(taken)
            else:
                foreign.append(taken)
        if foreign:
            refused += self._reject(foreign)
        unsent += publish([(taken.work, reply) for taken, reply in refused])
        return mine

    def _expected_us(self, batch: list[Taken]) -> float:
        resident = self._residents.get(batch[0].work.version)
        if resident is None:
            return 0.0
        return resident.us_per_row * sum([taken.work.rows for taken in batch]) + sum([taken.work.prepare_us for taken in batch])

    def _run(self, batches: dict[str, list[Taken]], counters: Counters) -> list[bytes]:
        """Run each version's calls; the commands that publish the replies."""
        answers: list[tuple[Work, Reply]] = []
        for version, batch in batches.items():
            resident = self._residents.get(version)
            if resident is None:  # it left between the pop and here
                answers += [(taken.work, reply) for taken, reply in self._reject(batch)]
                continue
            began = time.time()
            works = [taken.work for taken in batch]
            replies = _replies(resident, works)
            counters.batches += 1
            again: list[Taken] = []
            for taken, reply in zip(batch, replies, strict=True):
                work = taken.work
                if reply is None:
                    again.append(taken._replace(frame=pack_work(work)))
                    continue
                self._largest = max(self._largest, bytes_of(reply))
                reply.queue_us = max(0, int((began - work.sent) * 1e6))
                counters.queue_us += reply.queue_us
                counters.compute_us += reply.compute_us
                counters.rows += work.rows
                if reply.code:
                    counters.failed += 1
                answers.append((work, reply))
            if again:
                answers += [(taken.work, reply) for taken, reply in self._reject(again)]
            counters.calls += len(works) - len(again)
            rows = sum([work.rows for work in works])
            counters.batch_rows[min(BUCKETS - 1, max(0, rows - 1).bit_length())] += 1
        return publish(answers)


def lane_of(taken: Taken) -> str:
    """The list of its version where it waits."""
    return lane_key(taken.work.version, low=taken.key.endswith(":low"), slow=taken.work.is_slow)


def _turned(versions: tuple[str, ...], turn: int) -> tuple[str, ...]:
    return versions[turn:] + versions[:turn]


def _returned(calls: list[Taken]) -> list[bytes]:
    """The commands that put the calls in front of the lanes of their versions, in their order."""
    frames: dict[str, list[bytes]] = {}
    for taken in calls:
        frames.setdefault(lane_of(taken), []).append(taken.frame)
    return [pack_command(("LPUSH", key, *reversed(mine))) for key, mine in frames.items()]


def _replies(resident: Resident, works: list[Work]) -> Sequence[Reply | None]:
    """What the version answers; a mistake of ours fails these calls and is logged, but does not end the pump."""
    try:
        return resident.run(works)
    except Exception:
        log.exception("a batch of %s failed inside the engine", resident.source.version)
        return [Reply(work.number, "internal_error", "The platform failed on this call; nothing was charged") for work in works]
