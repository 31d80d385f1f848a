"""The load generator, a process of its own: `python -m benchmarks.load` reads a Plan from its input and prints a Load.

Closed loop: each connection asks again as soon as it is answered. Open loop: requests are due at times that do not depend on
the answers, and a latency counts from the time at which its request was due; so a server that stalls is charged for all
requests that would have come meanwhile (no coordinated omission). All answers are checked.
"""

import gc
import os
import resource
import select
import subprocess
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterable
from math import inf

import msgspec

from benchmarks.connection import Broken, Connection
from benchmarks.dialects import Checker, Row
from benchmarks.timing import arrivals, percentile

AFTERWARDS = 10.0  # seconds that answers may take to come after the last request was due
SEED = 1


class Plan(msgspec.Struct):
    """What to ask whom. `rate` is requests per second, 0: a closed loop; `requests` has one whole HTTP request per sample."""

    port: int
    clients: int
    seconds: float
    rate: float
    dialect: str
    requests: list[bytes]
    expected: list[Row]


class Load(msgspec.Struct):
    """What came of it. Latencies in seconds, inf for a request that got no right answer; `cpu` in seconds, the generator's own.

    `late` is the 99th percentile of how long after its due time the generator itself came to send a request (open loop).
    `refused` of the bad ones were told to come again: 429 or 503 with Retry-After. `by_second` has (good, bad, p99) of the
    requests of each second.
    """

    good: int
    bad: int
    seconds: float
    p50: float
    p99: float
    cpu: float
    late: float = 0.0
    fault: str = ""
    refused: int = 0
    refused_p99: float = 0.0
    by_second: list[tuple[int, int, float]] = []


class Generator:
    """`connections` by the number of their socket."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.poller = select.epoll()
        self.checker = Checker(plan.dialect, plan.expected)
        self.latencies, self.since = array("d"), array("d")  # of each request, and from when they count (monotonic)
        self.refusals = array("d")
        self.good = self.bad = 0
        self.fault = ""
        made = [Connection(("127.0.0.1", plan.port), self.poller) for _ in range(plan.clients)]
        self.connections = {connection.number: connection for connection in made}
        for number, connection in enumerate(made):
            connection.sample = number % len(plan.requests)

    def ask(self, connection: Connection) -> bool:
        """Send the connection's next sample. False if it could not be sent: a bad answer, and the connection is made anew."""
        connection.sample = sample = (connection.sample + 1) % len(self.plan.requests)
        try:
            connection.ask(self.plan.requests[sample])
        except OSError as error:
            self.lose(connection, error)
            return False
        return True

    def lose(self, connection: Connection, error: Exception) -> None:
        """Raises OSError if the server takes no new connection."""
        self.note(connection, inf)
        self.fault = self.fault or f"{type(error).__name__}: {error}"
        self.renew(connection)

    def renew(self, connection: Connection) -> None:
        """Raises OSError if the server takes no new connection."""
        del self.connections[connection.number]
        connection.reconnect()
        self.connections[connection.number] = connection

    def step(self, timeout: float) -> list[Connection]:
        """Wait up to `timeout` seconds, take what came; the connections that are free now."""
        free = []
        for number, event in self.poller.poll(timeout):
            connection = self.connections.get(number)
            if connection is None:
                continue  # made anew within this step
            try:
                if event & select.EPOLLOUT:
                    connection.send_more()
                if event & ~select.EPOLLOUT and self.take(connection):
                    free.append(connection)
            except (OSError, Broken) as error:
                if connection.is_idle:
                    self.renew(connection)  # a server may close what it does not use
                    continue
                self.lose(connection, error)
                free.append(connection)
        return free

    def take(self, connection: Connection) -> bool:
        """Whether the answer is complete; it is checked and counted then."""
        answer = connection.receive()
        if answer is None:
            return False
        latency = time.monotonic() - self.began(connection)
        if self.checker.is_right(connection.sample, answer.status, answer.head, answer.body):
            self.note(connection, latency)
        else:
            self.note(connection, inf)
            if answer.is_refusal:
                self.refusals.append(latency)
        if answer.is_last:
            self.renew(connection)
        return True

    def began(self, connection: Connection) -> float:
        """From when on the request under way counts."""
        return connection.due if self.plan.rate else connection.asked

    def note(self, connection: Connection, latency: float) -> None:
        """One request more, with its latency; inf if it got no right answer."""
        if latency == inf:
            self.bad += 1
        else:
            self.good += 1
        self.latencies.append(latency)
        self.since.append(self.began(connection))

    def closed_loop(self) -> None:
        connections = list(self.connections.values())
        for connection in connections:
            self.ask_surely(connection)
        end = time.monotonic() + self.plan.seconds
        busy = len(connections)
        while busy and time.monotonic() < end + AFTERWARDS:
            for connection in self.step(1.0):
                if time.monotonic() < end:
                    self.ask_surely(connection)
                else:
                    busy -= 1
        self.unanswered(busy)

    def ask_surely(self, connection: Connection) -> None:
        while not self.ask(connection):
            pass  # until the server takes no connection any more, which ends all

    def open_loop(self) -> list[float]:
        """How late each request was noticed to be due; a wait for a free connection is not in it, but in its latency."""
        due = arrivals(self.plan.rate, self.plan.seconds, seed=SEED)
        idle, waiting = deque(self.connections.values()), deque[float]()
        late: list[float] = []
        began = time.monotonic()
        next_ = answered = 0
        while answered < len(due) and time.monotonic() < began + self.plan.seconds + AFTERWARDS:
            now = time.monotonic()
            while next_ < len(due) and began + due[next_] <= now:
                waiting.append(began + due[next_])
                late.append(now - waiting[-1])
                next_ += 1
            while waiting and idle:
                connection = idle.popleft()
                connection.due = waiting.popleft()
                if not self.ask(connection):
                    answered += 1
                    idle.append(connection)
            self.wait(began + due[next_] - time.monotonic() if next_ < len(due) else 0.1)
            free = self.step(0.0)
            idle.extend(free)
            answered += len(free)
        self.unanswered(len(due) - answered)
        return late

    def wait(self, seconds: float) -> None:
        """Wait at most as long for an event; epoll's own timeout knows only milliseconds."""
        if seconds > 0:
            select.select([self.poller], [], [], seconds)

    def close(self) -> None:
        for connection in self.connections.values():
            connection.close()
        self.poller.close()

    def unanswered(self, count: int) -> None:
        if count > 0:
            asked = [connection for connection in self.connections.values() if not connection.is_idle][:count]
            for connection in asked:
                self.note(connection, inf)
            never = count - len(asked)
            self.bad += never
            self.latencies.extend([inf] * never)
            self.since.extend([time.monotonic()] * never)
            self.fault = self.fault or f"{count} requests were not answered"


def run(plan: Plan) -> Load:
    generator = Generator(plan)
    gc.disable()  # nothing here makes cycles; a collection would look like a slow server
    late: list[float] = []
    cpu, began = _cpu(), time.monotonic()
    try:
        if plan.rate:
            late = generator.open_loop()
        else:
            generator.closed_loop()
    finally:
        generator.close()
    seconds, cpu = time.monotonic() - began, _cpu() - cpu
    ordered = sorted(generator.latencies)
    return Load(
        good=generator.good,
        bad=generator.bad,
        seconds=seconds,
        p50=percentile(ordered, 0.5),
        p99=percentile(ordered, 0.99),
        cpu=cpu,
        late=percentile(sorted(late), 0.99) if late else 0.0,
        fault=generator.checker.fault or generator.fault,
        refused=len(generator.refusals),
        refused_p99=percentile(sorted(generator.refusals), 0.99) if generator.refusals else 0.0,
        by_second=by_second(began, generator.since, generator.latencies),
    )


def by_second(began: float, since: Iterable[float], latencies: Iterable[float]) -> list[tuple[int, int, float]]:
    """(good, bad, p99) of the requests of each second after `began`; a second without any has (0, 0, 0.0)."""
    found: dict[int, list[float]] = {}
    for start, latency in zip(since, latencies, strict=False):
        found.setdefault(max(0, int(start - began)), []).append(latency)
    return [_second(sorted(found.get(second, []))) for second in range(max(found, default=-1) + 1)]


def _second(ordered: list[float]) -> tuple[int, int, float]:
    bad = ordered.count(inf)
    return len(ordered) - bad, bad, percentile(ordered, 0.99) if ordered else 0.0


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def drive(plan: Plan) -> Load:
    """Run the plan in a process of its own. Raises RuntimeError with its last line if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=msgspec.msgpack.encode(plan),
        capture_output=True,
        check=False,
        timeout=plan.seconds + 120,
    )
    if done.returncode:
        raise RuntimeError(f"load generator: {(done.stderr.decode().strip().splitlines() or ['no message'])[-1]}")
    return msgspec.msgpack.decode(done.stdout, type=Load)


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    plan = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.msgpack.encode(run(plan)))


if __name__ == "__main__":
    main()
