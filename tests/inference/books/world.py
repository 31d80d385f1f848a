"""A world that runs the real books, reapers, drains, roll-up, rebuild and scripts on a real Valkey and a real PostgreSQL, in
simulated time, in an order that a seed decides.

Gateways open, answer, fail, die, sleep and lose their connections; commands and replies are late or lost; a lost socket may
still deliver what it held; the server stalls, forgets its scripts, or says LOADING; reapers and drains die between two steps,
or take a step long after the one before. The world keeps its own history of what clients were told. Everything must agree with
it after every step that changed the books, and once more at the end.
"""

import heapq
import itertools
import random
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import hiredis
import redis
from psycopg2.extensions import connection as Connection

from inference.books import accounts
from inference.books.client import Books
from inference.books.open_call import OpenCall
from inference.books.pruning import Pruner
from inference.books.reaper import Reaper
from inference.books.record import UsageRecord, pack_opened
from inference.books.scripts import BEAT, JOURNAL
from tests.inference.books.clerks import Clerk, Ledger, Rebuilder, Row

PERIODS = ("2026-11", "2026-12")
FAULTS = (
    "drop",
    "drop",
    "kill",
    "sleep",
    "sleep",
    "stall",
    "flush",
    "kill_drain",
    "loading",
    "lose_account",
    "old_limits",
    "kill_reaper",
    "month_ends",
)


class Line:
    """A blocking connection that shows replies as they are: what stands behind every simulated one."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.reader = hiredis.Reader()

    def __call__(self, *command: Any) -> Any:
        self.socket.sendall(hiredis.pack_command(command))
        while (reply := self.reader.gets()) is False:
            self.reader.feed(self.socket.recv(1 << 20))
        return reply

    def close(self) -> None:
        self.socket.close()


class Handle:
    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """What Books needs of an event loop; it can sleep, as a stopped process does, or die."""

    def __init__(self, world: "World") -> None:
        self.world, self.is_dead, self.asleep_until = world, False, 0.0

    def call_soon(self, callback: Callable, *what: Any) -> Handle:
        return self.call_later(0.0, callback, *what)

    def call_later(self, delay: float, callback: Callable, *what: Any) -> Handle:
        return self.call_at(self.world.now + delay, callback, *what)

    def call_at(self, time: float, callback: Callable, *what: Any) -> Handle:
        handle = Handle()
        self.world.at(time, self._run, handle, callback, what)
        return handle

    def _run(self, handle: Handle, callback: Callable, what: tuple) -> None:
        if self.is_dead or handle.is_cancelled:
            return
        if self.world.now < self.asleep_until:
            self.world.at(self.asleep_until, self._run, handle, callback, what)
            return
        callback(*what)

    def call_exception_handler(self, context: dict) -> None:
        raise context["exception"]


class Wire:
    """A connection with delays, whose commands are heard in order, and replies in order, unless it is dropped."""

    def __init__(self, world: "World", loop: Loop, on_lost: Callable[[], None]) -> None:
        self.world, self.loop, self.on_lost = world, loop, on_lost
        self.is_lost = False  # its owner knows
        self.is_broken = False
        self.waiting: list[Callable | None] = []
        self.outbox: list[tuple] = []
        self.inbox: list[Any] = []
        self.heard_at = self.replied_at = world.now

    def send(self, done: Callable | None, *command: Any) -> None:
        if self.is_lost:
            if done:
                self.loop.call_soon(done, ConnectionError())
            return
        self.waiting.append(done)
        self.heard_at = max(self.heard_at, self.world.now + self.world.delay())
        self.outbox.append(command)
        self.world.at(self.heard_at, self._heard)

    def _heard(self) -> None:
        """The server takes the next command, late perhaps, and even if its sender is gone."""
        if self.world.now < self.world.stalled_until:
            self.world.at(self.world.stalled_until, self._heard)
            return
        command = self.outbox.pop(0)
        self.world.is_changed |= command[1] != BEAT.sha
        if self.is_broken and self.world.random.random() < 0.3:
            return  # it was never written
        if self.world.random.random() < self.world.fragility / 2:
            self.is_broken = True  # before it is heard, or before its reply is
            self.loop.call_soon(self.drop)
            if self.world.random.random() < 0.5:
                return
        if self.world.now < self.world.loading_until:
            reply = hiredis.ReplyError("LOADING the dataset is being loaded")
        else:
            reply = self.world.line(*command)
        if not self.is_broken:
            self.replied_at = max(self.replied_at, self.world.now + self.world.delay())
            self.inbox.append(reply)
            self.loop.call_at(self.replied_at, self._replied)

    def _replied(self) -> None:
        if not self.is_lost:
            done, reply = self.waiting.pop(0), self.inbox.pop(0)
            if done:
                done(reply)

    def drop(self) -> None:
        if self.is_lost:
            return
        self.is_lost = self.is_broken = True
        waiting, self.waiting = self.waiting, []
        for done in waiting:
            if done:
                done(ConnectionError())
        self.on_lost()

    def close(self) -> None:
        self.is_lost = self.is_broken = True
        self.waiting = []


class Gateway:
    """A gateway without lanes: each call's result comes after a while, or its client leaves, or its deadline passes."""

    def __init__(self, world: "World") -> None:
        self.world, self.loop, self.wire = world, Loop(world), None
        self.books = Books("", dial=self._dial, loop=self.loop, clock=lambda: world.now, new_session=world.new_session)
        self.books.begin()

    def _dial(self, on_connected: Callable, on_failed: Callable, on_lost: Callable) -> None:
        def connect() -> None:
            if self.world.random.random() < 0.1:
                on_failed()
            else:
                self.wire = Wire(self.world, self.loop, on_lost)
                on_connected(self.wire)

        self.loop.call_later(self.world.delay() * self.world.random.choice((1, 1, 1, 4)), connect)

    def call(self) -> None:
        call = SimulatedCall(self)
        self.world.calls[call.id] = call
        self.books.open(call.open_call)

    def drop(self) -> None:
        if self.wire is not None:
            self.loop.call_soon(self.wire.drop)

    def kill(self) -> None:
        self.loop.is_dead = True
        if self.wire is not None:
            self.wire.close()


class SimulatedCall:
    """One call, and what its client was told: `told` is "", "answer", "failure" or "replay"."""

    def __init__(self, gateway: Gateway) -> None:
        world, self.gateway = gateway.world, gateway
        self.world, self.told, self.is_open, self.is_done, self.is_stored = world, "", False, False, False
        self.is_failed = self.is_closing = False
        rng = world.random
        world.number += 1
        self.id = f"{world.began_ms:012x}7{world.salt}{world.number:07x}"
        tenant = rng.choice(world.tenants)
        mode = rng.choice(("live", "live", "live", "test"))
        most = rng.choice((0, 5, 1000, 2**40))
        self.claim = f"{tenant}:{rng.randrange(6)}".encode() if rng.random() < 0.4 else None
        self.record = UsageRecord(
            call=self.id, tenant=tenant, key=rng.choice((*world.keys[tenant], "")), model="c" * 32, version="d" * 32,
            model_name="catalog/iris", version_number="1.0.0", endpoint="infer", mode=mode, kind="usage",
            period=rng.choice(PERIODS), price_version=0, rows=1, max_nano=most, opened_ms=world.began_ms, request_id="r",
        )  # fmt: skip
        record = self.record
        self.open_call = OpenCall(
            record.call, record.tenant, record.key, record.period, most, mode, pack_opened(record), self.on_open,
            self.claim, rng.choice((b"one", b"one", b"two")),
        )  # fmt: skip
        gateway.loop.call_later(rng.random() * world.patience, self.on_result, rng.random() < 0.8)
        if rng.random() < 0.15:
            gateway.loop.call_later(rng.random() * world.patience, self.fail)

    def on_open(self, verdict: str, stored: bytes | None) -> None:
        self.world.verdicts[verdict] += 1
        assert not self.is_open or verdict == "lost"
        if verdict == "open":
            self.is_open = True
            if self.is_done:
                self.answer()
        else:
            self.is_open = False
            if verdict == "replay":
                owner = self.world.calls[stored.decode()]
                assert owner.is_stored
                assert owner.claim == self.claim
                assert owner.open_call.fingerprint == self.open_call.fingerprint
            self.tell("replay" if verdict == "replay" else "failure")

    def on_result(self, is_good: bool) -> None:
        if self.told or self.is_failed:
            return
        if not is_good:
            self.fail()
            return
        self.is_done = True
        if self.is_open:
            self.answer()

    def fail(self) -> None:
        if self.told or self.is_closing:
            return
        self.tell("failure")
        self.gateway.books.undo(self.open_call)

    def answer(self) -> None:
        if self.told:
            return
        if not self.gateway.books.may_answer():
            self.fail()
            return
        self.world.check_open(self.id)
        self.record.nano = self.world.random.choice(
            (0, self.record.max_nano, self.record.max_nano // 2, self.record.max_nano * 2)
        )
        if self.claim is None:
            self.tell("answer")
            self.gateway.books.close(self.open_call, self.record)
        else:
            self.is_closing = self.is_stored = True  # it may be, from now on
            self.gateway.books.close(self.open_call, self.record, self.id.encode(), self.on_close)

    def on_close(self, verdict: str) -> None:
        self.world.verdicts[f"close {verdict}"] += 1
        assert verdict in ("closed", "done", "gone")
        self.tell("failure" if verdict == "gone" else "answer")

    def tell(self, what: str) -> None:
        assert not self.told, f"{self.told}, then {what}"
        self.told = what
        self.is_failed = what == "failure"


class Watcher:
    """A reaper whose polls take time, and which may die between two of its scripts."""

    def __init__(self, world: "World") -> None:
        self.world, self.is_dead, self.sent = world, False, 0.0
        self.times: list[float] = []
        self.reaper = Reaper(world.client, clock=lambda: self.times.pop(0))
        world.at(world.now + world.random.random(), self.poll)

    def poll(self) -> None:
        if not self.is_dead:
            self.sent = self.world.now
            self.world.at(max(self.world.now + self.world.delay(), self.world.stalled_until), self.look)

    def look(self) -> None:
        if self.is_dead:
            return
        self.times = [self.sent, self.world.now]
        dead, reaping = self.reaper.watch()
        for session, beat in dead:
            self.world.at(self.world.now + self.world.delay(), self.take, session, beat)
        for session in reaping:
            self.world.at(self.world.now + self.world.delay(), self.undo, session)
        self.world.at(self.world.now + 0.5, self.poll)

    def take(self, session: str, beat: bytes) -> None:
        if not self.is_dead:
            self.world.taken += self.reaper.take(session, beat)
            self.world.is_changed = True

    def undo(self, session: str) -> None:
        if not self.is_dead:
            self.reaper.undo(session)
            self.world.is_changed = True


class World:
    def __init__(self, seed: int, client: redis.Redis, path: str, connection: Connection) -> None:
        self.random, self.client, self.line = random.Random(seed), client, Line(path)
        self.now, self.number, self.taken, self.checks, self.is_changed = 1000.0, 0, 0, 0, False
        self.events: list[tuple] = []
        self.order = itertools.count()
        self.stalled_until = self.loading_until = 0.0
        self.slowness = self.random.choice((0.001, 0.1, 1.0))  # seconds that a command or a reply travels at most
        self.fragility = self.random.choice((0.0, 0.0, 0.02, 0.1))  # how often a command costs its connection
        self.patience = self.random.choice((0.05, 2.0))  # seconds until a call has its result
        self.began_ms, self.salt = int(time.time() * 1000), secrets.token_hex(6)  # the ledger is never emptied: ids of its own
        self.tenants = (f"{self.salt}{'a' * 20}", f"{self.salt}{'b' * 20}")
        self.keys = {tenant: (tenant[:16] + "1" * 16, tenant[:16] + "2" * 16) for tenant in self.tenants}
        self.calls: dict[str, SimulatedCall] = {}
        self.verdicts: Counter[str] = Counter()
        self.ledger = Ledger(connection)
        for tenant in self.tenants:
            accounts.create(tenant, state=client)
        self.limits = {tenant: self._limits() for tenant in self.tenants}
        for tenant in self.tenants:
            accounts.set_limits(tenant, self.limits[tenant], state=client)
        self.gateways = [Gateway(self) for _ in range(3)]
        self.watchers = [Watcher(self) for _ in range(2)]
        self.clerks = [Clerk(self, self.ledger) for _ in range(2)]
        self.rebuilder = Rebuilder(self, self.ledger)
        self.kept = PERIODS

    def _limits(self) -> accounts.AccountLimits:
        """Of calls, of a plan's calls, of money, of all, or none."""
        keys = [keys[0] for keys in self.keys.values()]
        calls = {"organization_calls": 12, "key_calls": dict.fromkeys(keys, 5)}
        money = {"organization_nano": 3000, "key_nano": dict.fromkeys(keys, 1005), "credit_nano": 2**40 + 2500}
        single = ({"included_calls": 10}, {"credit_nano": 2500})
        kinds = (calls, *single, money, calls | {"included_calls": 11} | money, {}, {}, {})
        return accounts.NO_LIMITS._replace(version=1, **self.random.choice(kinds))

    def at(self, moment: float, what: Callable, *arguments: Any) -> None:
        heapq.heappush(self.events, (moment, next(self.order), what, arguments))

    def later(self, what: Callable, *arguments: Any) -> None:
        """In a while; now and then in a long one, as after a stop."""
        self.at(self.now + self.delay() + self.random.choice((0.0, 0.0, 0.0, 1.5)), what, *arguments)

    def new_session(self) -> str:
        return f"{self.random.getrandbits(128):032x}"

    def delay(self) -> float:
        return self.random.random() ** 3 * self.slowness

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.events and self.events[0][0] <= until:
            moment, _, what, arguments = heapq.heappop(self.events)
            self.now = max(self.now, moment)
            what(*arguments)
            if self.is_changed:
                self.is_changed = False
                self.check_accounts()
        self.now = until

    # what happens

    def live(self, calls: int, faults: int, seconds: float) -> None:
        """Some time with calls and faults."""
        for _ in range(calls):
            self.at(self.now + self.random.random() * seconds, lambda: self.random.choice(self.gateways).call())
        for _ in range(faults):
            fault = self.random.choice(FAULTS)
            self.at(self.now + self.random.random() * seconds, getattr(self, fault))
        for _ in range(self.random.choice((5, 40))):
            for what in (self.drain, self.drain, self.rebuilder.step):
                self.at(self.now + self.random.random() * seconds, what)
        self.at(self.now + self.random.random() * seconds, self.ledger.roll_up)
        self.run(seconds)

    def drain(self) -> None:
        self.random.choice(self.clerks).step()

    def kill_drain(self) -> None:
        place = self.random.randrange(len(self.clerks))
        self.clerks[place].is_dead = True
        self.clerks[place] = Clerk(self, self.ledger)

    def drop(self) -> None:
        self.random.choice(self.gateways).drop()

    def kill(self) -> None:
        place = self.random.randrange(len(self.gateways))
        self.gateways[place].kill()
        self.gateways[place] = Gateway(self)

    def sleep(self) -> None:
        loop = self.random.choice(self.gateways).loop
        loop.asleep_until = self.now + self.random.choice((0.3, 1.9, 3.2, 5.0))

    def stall(self) -> None:
        self.stalled_until = self.now + self.random.choice((0.1, 1.0, 2.5, 4.5))

    def loading(self) -> None:
        self.loading_until = self.now + self.random.random()

    def flush(self) -> None:
        self.line("SCRIPT", "FLUSH")

    def lose_account(self) -> None:
        tenant = self.random.choice(self.tenants)
        account = f"account:{tenant}"
        if self.random.random() < 0.5:
            self.rebuilder.begin(tenant)  # by an operator, say
        if self.random.random() < 0.5:
            self.client.delete(account)
        elif self.client.exists(account):
            self.client.hset(account, f"calls:{PERIODS[0]}:", "what?")

    def old_limits(self) -> None:
        """They come late, and must not overwrite."""
        accounts.set_limits(self.random.choice(self.tenants), accounts.AccountLimits(0, {}, -1), state=self.client)

    def month_ends(self) -> None:
        """The older period is kept no more, though calls that name it are open, in the journal, or yet to come."""
        self.kept = PERIODS[1:]
        self._prune(Pruner(self.client, now=lambda: datetime(2027, 1, 15, tzinfo=UTC)))

    def _prune(self, pruner: Pruner) -> None:
        if pruner.step():
            self.at(self.now + self.delay(), self._prune, pruner)

    def kill_reaper(self) -> None:
        place = self.random.randrange(2)
        self.watchers[place].is_dead = True
        self.watchers[place] = Watcher(self)

    def kept_sums(self, sums: dict) -> dict[tuple[str, str], tuple[int, int]]:
        """Those of periods that accounts keep, without zeros."""
        return {name: values for name, values in sums.items() if name[1] in (*self.kept, "ever") and values != (0, 0)}

    # what must hold at any time

    def check_accounts(self) -> None:
        """Account = ledger + journal + open, where the account is known and sound; now and then: no sum passes its limit."""
        for tenant in self.tenants:
            version, sum_ = self.line("HMGET", f"account:{tenant}", "limits_version", f"calls:{PERIODS[0]}:")
            if version is None or sum_ == b"what?":
                continue
            found = accounts.compare(tenant, self.ledger.sums(tenant), self.ledger.position, state=self.client)
            assert found == {}, f"account {found} of {tenant}"
            self.checks += 1
            if self.checks % 4 == 0:
                self.check_limits(tenant)

    def check_rows(self, rows: list[Row]) -> None:
        """A charged row has an answer sent or stored."""
        for row in rows:
            call = self.calls[row.call]
            if row.kind == "usage":
                assert call.told == "answer" or call.is_stored, f"a charge without an answer: told {call.told!r}"

    def check_limits(self, tenant: str) -> None:
        account = accounts.read(tenant, state=self.client)
        limits = self.limits[tenant]
        assert account.limits == limits
        assert min((number for values in account.sums.values() for number in values), default=0) >= 0
        for (scope, period), (calls, nano) in account.sums.items():
            is_whole, is_month = scope == accounts.ORGANIZATION, period != "ever"
            most_calls = [limits.organization_calls, limits.included_calls] if is_whole else [limits.key_calls.get(scope)]
            most_nano = limits.organization_nano if is_whole else limits.key_nano.get(scope)
            if is_month:
                assert all(most is None or calls <= most for most in most_calls)
                assert most_nano is None or nano <= most_nano
            elif is_whole:
                assert limits.credit_nano is None or nano <= limits.credit_nano

    def check_open(self, call: str) -> None:
        """An answer may leave: its call is in the books, and no reaper has it."""
        sessions = self.client.smembers("sessions")
        assert any(self.client.hexists(b"open:" + session, call) for session in sessions)

    # the end

    def settle(self) -> None:
        """No more faults: calls end, then the gateways die, and reapers and drains do the rest."""
        self.stalled_until = self.loading_until = self.fragility = 0.0
        self.slowness = 0.01
        self.run(10.0)
        self.check_nothing_is_open()
        for gateway in self.gateways:
            gateway.kill()
        self.run(12.0)
        while self.client.execute_command("XRANGE", JOURNAL, f"({self.ledger.position}", "+", "COUNT", 1):
            self.drain()
            self.run(3.0)
        self.ledger.roll_up()

    def check_nothing_is_open(self) -> None:
        """Liveness: without faults every call of a living gateway ends, and nothing of it stays open in the books."""
        waiting = [call.id for call in self.calls.values() if not call.gateway.loop.is_dead and not call.told]
        assert not waiting, f"calls that nobody was told about: {waiting}"
        still = {name: self.client.hlen(name) - 2 for name in self.client.keys("open:*")}
        assert not any(still.values()), f"calls that stay open: {still}"

    def check(self) -> None:
        """What a checker may assert."""
        for call in self.calls.values():
            self._check_call(call)
        assert not self.client.smembers("sessions")
        assert not self.client.smembers("reaping")
        assert not self.client.keys("open:*")
        assert not self.client.keys("reaping:*")
        assert not self.client.exists("journal:quarantine")
        stored = Counter(c.claim for c in self.calls.values() if c.claim and self._row(c) == "usage")
        assert all(count == 1 for count in stored.values())
        claims = self.client.keys("claim:*")
        assert len(claims) == len(stored)
        assert all(self.client.hexists(claim, "stored") for claim in claims)
        self._check_sums()

    def _row(self, call: SimulatedCall) -> str:
        return self.ledger.rows[call.id].kind if call.id in self.ledger.rows else ""

    def _check_call(self, call: SimulatedCall) -> None:
        row = self._row(call)
        if call.told == "answer":
            assert row in ("usage", "reversed"), "an answer without its row"
            assert row == "usage" or call.claim is None, "a keyed answer that was reversed"
        if call.told == "failure":
            assert row != "usage", "a charge for a failure"
        if row == "usage":
            assert call.told == "answer" or call.is_stored, f"a charge without an answer: told {call.told!r}"
        if not call.gateway.loop.is_dead:
            assert call.told

    def _check_sums(self) -> None:
        for tenant in self.tenants:
            if self.client.hget(f"account:{tenant}", f"calls:{PERIODS[0]}:") in (b"what?", None):
                self.rebuilder.begin(tenant)
        self.run(5.0)
        for tenant in self.tenants:
            account, ledger = accounts.read(tenant, state=self.client), self.ledger.sums(tenant)
            assert self.kept_sums(account.sums) == self.kept_sums(ledger)
            assert self.kept == PERIODS or not any(period == PERIODS[0] for _, period in account.sums)
            self.ledger.check_hours(tenant)
        self.check_accounts()

    def close(self) -> None:
        self.line.close()


def simulate(seed: int, client: redis.Redis, path: str, connection: Connection) -> World:
    """One life of a world, checked. The seed tells how long and how bad it is."""
    client.flushall()
    client.script_flush()
    world = World(seed, client, path, connection)
    try:
        world.live(world.random.choice((20, 150)), world.random.choice((1, 5, 15)), world.random.choice((3.0, 12.0)))
        world.settle()
        world.check()
    finally:
        world.close()
    return world
