"""Everything that one worker runs: its loaded versions, the pumps that serve their lanes, and what it tells the others.

Catalogue versions are served by the main pump, which also takes work for versions that nobody has loaded yet from the pool.
Each organization's own versions run in its child process and have a pump of their own, so that a slow or hostile upload takes
no slot of anybody else's; so does each catalogue version that is suspected of having killed a worker
(inference/suspects.py). Asynchronous predictions have another pump there, and another process once there is one to run, so that
they hold up no call that somebody waits for.
"""

import logging
import secrets
import threading
import time
from contextlib import closing
from pathlib import Path

import msgspec
from redis import Redis
from redis.client import PubSub
from redis.exceptions import RedisError

from inference.cold import Cold
from inference.engine.budget import Budget
from inference.engine.child_resident import ChildResident
from inference.engine.children import Children
from inference.engine.process import Child
from inference.engine.recorder import Recorder
from inference.engine.residency import Residency, Resident
from inference.engine.sessions import providers_for
from inference.lanes import WITHDRAWN, WORKERS, lane_keys, lanes_key, pool_key, resident_key, worker_key
from inference.opening import LoadSource, Opening
from inference.pump import WAKE_SECONDS, Counters, Pump
from inference.reports import ModelReport, Report, make_report, total
from inference.suspects import Suspects
from saas.lib.valkey import Script, sync_client

log = logging.getLogger(__name__)

SWEEP = Script(Path(__file__).with_name("sweep.lua"))
TICK_SECONDS = 1.0
LOOK_SECONDS = 0.1  # a process takes some 100 MiB meanwhile, if it does nothing else
BELIEVED_SECONDS = 3  # a worker, and a version it has loaded, without a sign of life
REPORT_SECONDS = 5
FORGOTTEN_SECONDS = 60  # a dead worker's name stays so long, so that every gateway sees that it died
MAX_CHILDREN = 8
CHILD_IDLE_SECONDS = 300.0
CHILD_MEMORY_BYTES = 4 << 30


class Host:
    """One worker's engine. `start`, then `stop`; everything between happens in its threads."""

    def __init__(
        self,
        name: str,
        lanes_url: str,
        load_source: LoadSource,
        *,
        slots: int = 2,
        memory_bytes: int = 2 << 30,
        max_batch_rows: int = 64,
        hardware: str = "cpu",
        max_children: int = MAX_CHILDREN,
        child_memory_bytes: int = CHILD_MEMORY_BYTES,
        child_idle_seconds: float = CHILD_IDLE_SECONDS,
        budget: Budget | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        """`memory_bytes` are for the catalogue's models (on a GPU for all), `budget` for child processes.

        `recorder` tells who comes next what was running if this worker dies.
        """
        # Unique per start: a name that came back at once would hide from the gateways that its calls were lost.
        self.name = f"{name}#{secrets.token_hex(4)}"
        self.lanes_url, self.hardware, self.slots, self.max_batch_rows = lanes_url, hardware, slots, max_batch_rows
        self.providers = providers_for(hardware, memory_bytes)
        self._child_idle_seconds = child_idle_seconds
        self._client: Redis = sync_client(lanes_url)
        self._pools = (pool_key(hardware), pool_key(hardware, low=True))
        self._residency = Residency(memory_bytes, self._on_evict, counts_private=hardware != "cpu")
        self._children = Children(
            # Processes share a GPU's memory without isolation: there, one organization at a time, and it ends before the next.
            max_children if hardware == "cpu" else 1,
            memory_bytes=child_memory_bytes,
            budget=budget or Budget.of_machine(),
            on_ended=self._on_child_ended,
            providers=[provider if isinstance(provider, str) else provider[0] for provider in self.providers],
        )
        self._recorder = recorder or Recorder()
        self._suspects = Suspects(self._client, self._recorder)
        self._opening = Opening(
            load_source,
            self._children,
            self._recorder,
            is_suspect=self._suspects.is_suspect,
            providers=self.providers,
            max_rows=max_batch_rows,
        )
        self._cold = Cold(self.name, self._client, self._pools, self._load)
        self._main = Pump(
            f"{self.name}/main",
            lanes_url,
            reject=self._cold.take,
            slots=slots,
            max_calls=max_batch_rows,
            pools=self._pools,
            is_pool_open=lambda: self._cold.has_room,
        )
        self._pumps: dict[str, tuple[Pump, Pump]] = {}  # by a version's place: for its normal lanes, for its low-priority ones
        self._ended_counters = Counters()  # of pumps that are gone
        self._lock = threading.Lock()  # of the two above
        self._marks = threading.Lock()  # resident marks are set and deleted under it, so that a deleted one is not renewed
        self._stopping, self._ended = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._tick_on, name=f"{self.name}/tick", daemon=True),
            threading.Thread(target=self._hear_on, name=f"{self.name}/withdrawn", daemon=True),
            threading.Thread(target=self._look_on, name=f"{self.name}/memory", daemon=True),
        ]

    def start(self) -> None:
        try:  # before the first call: so that its death is noticed should it kill this worker, as it may have killed the last
            self._client.zadd(WORKERS, {self.name: time.time() + BELIEVED_SECONDS})
            self._suspects.look()
        except RedisError as error:
            log.warning("%s starts without the lanes server: %s", self.name, error)
        self._main.start()
        self._cold.start()
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 8.0) -> None:
        """Stop popping, finish and answer what runs, give back what does not; at most about `timeout` seconds."""
        until = time.monotonic() + timeout
        self._stopping.set()
        pumps = self._all_pumps()
        for pump in pumps:
            pump.stop()
        try:
            self._leave(pumps)
        except RedisError as error:
            log.warning("%s leaves without the lanes server: %s", self.name, error)
        for pump in pumps:
            if not pump.join(max(0.0, until - time.monotonic())):
                log.warning("%s: a batch was still running", pump.name)
        self._ended.set()
        self._children.close()  # what is under way there fails now, as model_unavailable
        for pump in pumps:
            pump.join(1.0)
        self._cold.stop()
        try:
            self._give_back()
        except RedisError as error:
            log.warning("%s could not give back its work: %s", self.name, error)
        self._recorder.close()
        self._client.close()

    def report(self) -> Report:
        residents = self._residency.all()
        models = [
            ModelReport(resident.source.version, resident.bytes, resident.source.is_private, round(resident.us_per_row, 1))
            for resident in residents
        ]
        with self._lock:
            counters = total([self._ended_counters, *(each for pump in self._served() for each in pump.counters)])
        return make_report(
            counters,
            name=self.name,
            hardware=self.hardware,
            slots=self.slots,
            children=self._children.count(),
            models=models,
            loading=self._cold.count,
            memory=self._children.memory(),
            suspects=sorted(self._suspects.known),
        )

    def waiting(self) -> dict[str, int]:
        """How many calls lie in each list that this worker pops. Raises RedisError."""
        keys = [*self._pools, *(key for resident in self._residency.all() for key in lane_keys(resident.source.version))]
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.llen(key)
        return dict(zip(keys, pipeline.execute(), strict=True))

    # --- cold work

    def _load(self, version: str, owner: str) -> None:
        """For `cold`: load a version, advertise it, and let its pumps have what waits for it. Raises ModelUnavailable."""
        resident = self._residency.load(version, lambda: self._opening.fetch(version, owner), self._opening.open)
        if resident.is_ended:  # before it was among the residents, where `_on_child_ended` would have found it
            self._residency.evict(version)
        with self._marks:
            if self._residency.get(version) is not resident:  # evicted in between
                self._cold.push(version, to_lane=False)
                return
            pumps = self._pumps_of(resident)
            pumps[0].add(resident)
            if isinstance(resident, ChildResident) and resident.aside is not None:
                pumps[1].add(resident.aside)
            pipeline = self._client.pipeline(transaction=False)
            pipeline.sadd(lanes_key(self.hardware), version)
            pipeline.set(resident_key(version), self.name, ex=BELIEVED_SECONDS)
            pipeline.execute()
        self._cold.push(version, to_lane=True)
        self._wake(*pumps)

    # --- pumps

    def _pumps_of(self, resident: Resident) -> tuple[Pump, ...]:
        """Those that serve it: the main one, or the two of its place, started with the first version there."""
        if not resident.source.is_apart:
            return (self._main,)
        place = resident.source.place
        with self._lock:
            if place not in self._pumps:
                self._pumps[place] = (self._pump_for(place, is_low=False), self._pump_for(place, is_low=True))
                for pump in self._pumps[place]:
                    pump.start()
            return self._pumps[place]

    def _pump_for(self, place: str, *, is_low: bool) -> Pump:
        return Pump(
            f"{self.name}/{place}-{secrets.token_hex(2)}{'-low' if is_low else ''}",
            self.lanes_url,
            reject=self._cold.take,
            max_calls=self.max_batch_rows,
            priorities=(is_low,),
        )

    def _wake(self, *pumps: Pump) -> None:
        """Interrupt the pumps' pops, so that they see what has changed."""
        pipeline = self._client.pipeline(transaction=False)
        for pump in pumps:
            pipeline.lpush(pump.wake_key, b"")
            pipeline.expire(pump.wake_key, WAKE_SECONDS)
        pipeline.execute()

    def _all_pumps(self) -> list[Pump]:
        with self._lock:
            return self._served()

    def _served(self) -> list[Pump]:
        """All pumps. Under the lock."""
        return [self._main, *(pump for pumps in self._pumps.values() for pump in pumps)]

    # --- leaving memory

    def _on_evict(self, resident: Resident) -> None:
        """First the mark goes, so that gateways push into the pool; then what lies in the lane follows it there."""
        version = resident.source.version
        try:
            with self._marks:
                pumps = self._leave_pumps(resident)
                self._client.delete(resident_key(version))
            self._sweep([version])
            self._wake(*pumps)
        except RedisError as error:
            log.warning("%s was evicted without the lanes server; the sweep will find its lane: %s", version, error)

    def _leave_pumps(self, resident: Resident) -> tuple[Pump, ...]:
        """Serve it no more; the pumps of a place end with its last version. Returns the pumps, to be woken."""
        if not resident.source.is_apart:
            self._main.remove(resident.source.version)
            return (self._main,)
        place = resident.source.place
        with self._lock:
            pumps = self._pumps.get(place, ())
            for pump in pumps:
                pump.remove(resident.source.version)
            if not any(other.source.is_apart and other.source.place == place for other in self._residency.all()):
                self._pumps.pop(place, None)
                self._ended_counters = total([self._ended_counters, *(each for pump in pumps for each in pump.counters)])
                for pump in pumps:
                    pump.stop()
        return pumps

    def _on_child_ended(self, child: Child) -> None:
        """A process ended: its versions are loaded again by the next call, into a fresh one."""
        for resident in self._residency.all():
            if isinstance(resident, ChildResident) and resident.child is child:
                if child.has_died and resident.source.is_suspect:
                    self._suspects.died(resident.source.version)
                self._residency.evict(resident.source.version)

    def _sweep(self, versions: list[str]) -> None:
        """Move the work of lanes without residents back to the pool; of all lanes if `versions` is empty."""
        moved = SWEEP.run_sync(self._client, [lanes_key(self.hardware), *self._pools], versions)
        if moved:
            log.info("%s calls went back to the pool", moved)

    # --- what nobody waits for any more

    def _hear_on(self) -> None:
        """Of calls that are withdrawn while the lanes server is lost nothing is heard: they run to their deadline."""
        while not self._stopping.is_set():
            try:
                with closing(sync_client(self.lanes_url)) as client, closing(_pubsub(client)) as heard:
                    heard.subscribe(WITHDRAWN)
                    self._hear(heard)
            except RedisError:  # `_tick_on` says so
                self._stopping.wait(TICK_SECONDS)

    def _hear(self, heard: PubSub) -> None:
        while not self._stopping.is_set():
            if message := heard.get_message(timeout=TICK_SECONDS):
                self._children.withdraw(message["data"].decode())

    # --- memory

    def _look_on(self) -> None:
        """Until all has ended: what is under way while the worker stops may grow as well."""
        while not self._ended.wait(LOOK_SECONDS):
            try:
                self._children.look()
            except Exception:  # without it the processes of customers would grow unseen
                log.exception("the memory of customers' processes could not be looked at")

    # --- each second

    def _tick_on(self) -> None:
        was_lost = False
        while not self._stopping.is_set():
            try:
                self._tick()
                was_lost = False
            except RedisError as error:
                if not was_lost:
                    log.warning("%s: the lanes server is lost: %s", self.name, error)
                was_lost = True
            except Exception:  # without its heartbeat the worker would serve unseen
                log.exception("the worker's heartbeat failed")
            self._stopping.wait(0.2 if was_lost else TICK_SECONDS)

    def _tick(self) -> None:
        now = time.time()
        report = msgspec.json.encode(self.report())
        with self._marks:
            versions = [resident.source.version for resident in self._residency.all()]
            pipeline = self._client.pipeline(transaction=False)
            pipeline.zadd(WORKERS, {self.name: now + BELIEVED_SECONDS})
            pipeline.zremrangebyscore(WORKERS, "-inf", now - FORGOTTEN_SECONDS)
            pipeline.set(worker_key(self.name), report, ex=REPORT_SECONDS)
            for version in versions:
                pipeline.set(resident_key(version), self.name, ex=BELIEVED_SECONDS)
            if versions:
                pipeline.sadd(lanes_key(self.hardware), *versions)
            if not self._stopping.is_set():
                pipeline.execute()
        self._sweep([])
        self._follow_suspects()
        self._children.end_idle(self._child_idle_seconds)
        self._cold.forget_failures()

    def _follow_suspects(self) -> None:
        """Versions that are suspects since now leave this process, those that are no longer come back with the next call."""
        self._suspects.look()
        for resident in self._residency.all():
            source = resident.source
            is_suspect = source.version in self._suspects.known
            if not source.is_private and source.is_suspect != is_suspect and not resident.is_busy:
                self._residency.evict(source.version)

    # --- the end

    def _leave(self, pumps: list[Pump]) -> None:
        """Tell that this worker is going: no marks, no name, and all pops interrupted."""
        pipeline = self._client.pipeline(transaction=False)
        for pump in pumps:
            pipeline.lpush(pump.wake_key, b"")
            pipeline.expire(pump.wake_key, WAKE_SECONDS)
        with self._marks:
            for resident in self._residency.all():
                pipeline.delete(resident_key(resident.source.version))
            pipeline.zrem(WORKERS, self.name)
            pipeline.delete(worker_key(self.name))
            pipeline.execute()
        self._sweep([])

    def _give_back(self) -> None:
        self._cold.give_back()
        self._client.delete(*(pump.wake_key for pump in self._all_pumps()))
        self._sweep([])


def _pubsub(client: Redis) -> PubSub:
    made: PubSub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis-py's
    return made
