"""Everything that one worker runs: its loaded versions, the pumps that serve their lanes, and what it tells the others.

Catalogue versions are served by the main pump, which also takes work for versions that nobody has loaded yet from the pool.
Each organization's own versions run in its child process and have a pump of their own, so that a slow or hostile upload takes
no slot of anybody else's. Its asynchronous predictions have another pump, and another process once there is one to run, so that
they hold up no call that somebody waits for.
"""

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import msgspec
from redis import Redis
from redis.client import PubSub
from redis.exceptions import RedisError

from inference.engine.aside import Aside
from inference.engine.children import Child, Children, ChildResident
from inference.engine.errors import EngineError, ModelUnavailable, ProcessEnded
from inference.engine.model import Model
from inference.engine.residency import LocalResident, Residency, Resident, without_artifact
from inference.engine.sessions import providers_for
from inference.engine.source import ArtifactSource
from inference.lanes import WITHDRAWN, WORKERS, Reply, lane_keys, lanes_key, pool_key, resident_key, worker_key
from inference.pump import BYTES_AT_ONCE, WAKE_SECONDS, Counters, Pump, Taken, lane_of, messages
from inference.reports import ModelReport, Report, make_report, total
from saas.lib.valkey import Script, sync_client

log = logging.getLogger(__name__)

SWEEP = Script(Path(__file__).with_name("sweep.lua"))
TICK_SECONDS = 1.0
BELIEVED_SECONDS = 3  # a worker, and a version it has loaded, without a sign of life
REPORT_SECONDS = 5
FORGOTTEN_SECONDS = 60  # a dead worker's name stays so long, so that every gateway sees that it died
FAILURE_SECONDS = 5.0  # a version that could not be loaded is refused at once for so long
LOADERS = 2
MAX_LOADING = 4  # versions; while so many wait for a loader, or BYTES_AT_ONCE of calls, the pool is left to other workers
MAX_CHILDREN = 8
CHILD_STARTS = 3
CHILD_IDLE_SECONDS = 300.0
CHILD_MEMORY_BYTES = 4 << 30

LoadSource = Callable[[str, str], ArtifactSource | None]
"""(version id, owner's organization id) → what is needed to load it; None if there is no such ready version."""


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
    ) -> None:
        # Unique per start: a name that came back at once would hide from the gateways that its calls were lost.
        self.name = f"{name}#{secrets.token_hex(4)}"
        self.lanes_url, self.hardware, self.slots, self.max_batch_rows = lanes_url, hardware, slots, max_batch_rows
        self.providers = providers_for(hardware, memory_bytes)
        self._load_source, self._child_idle_seconds = load_source, child_idle_seconds
        self._client: Redis = sync_client(lanes_url)
        self._pools = (pool_key(hardware), pool_key(hardware, low=True))
        self._residency = Residency(memory_bytes, self._on_evict)
        self._children = Children(
            # Processes share a GPU's memory without isolation: there, one organization at a time, and it ends before the next.
            max_children if hardware == "cpu" else 1,
            memory_bytes=child_memory_bytes,
            on_ended=self._on_child_ended,
            providers=[provider if isinstance(provider, str) else provider[0] for provider in self.providers],
        )
        self._main = Pump(
            f"{self.name}/main",
            lanes_url,
            reject=self._take_cold,
            slots=slots,
            max_calls=max_batch_rows,
            pools=self._pools,
            is_pool_open=lambda: len(self._pending) < MAX_LOADING and self._pending_bytes < BYTES_AT_ONCE,
        )
        self._pumps: dict[str, tuple[Pump, Pump]] = {}  # by organization: for its normal lanes, for its low-priority ones
        self._ended_counters = Counters()  # of pumps that are gone
        self._pending: dict[str, list[Taken]] = {}  # work that waits for its version to be loaded
        self._pending_bytes = 0
        self._failures: dict[str, tuple[float, str]] = {}  # version → until when (monotonic), why
        self._to_load: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the five above
        self._marks = threading.Lock()  # resident marks are set and deleted under it, so that a deleted one is not renewed
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._tick_on, name=f"{self.name}/tick", daemon=True),
            threading.Thread(target=self._hear_on, name=f"{self.name}/withdrawn", daemon=True),
        ] + [
            threading.Thread(target=self._load_on, name=f"{self.name}/load-{number}", daemon=True) for number in range(LOADERS)
        ]

    def start(self) -> None:
        self._main.start()
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
        self._children.close()  # what is under way there fails now, as model_unavailable
        for pump in pumps:
            pump.join(1.0)
        for _ in range(LOADERS):
            self._to_load.put(None)
        try:
            self._give_back()
        except RedisError as error:
            log.warning("%s could not give back its work: %s", self.name, error)
        self._client.close()

    def report(self) -> Report:
        residents = self._residency.all()
        models = [
            ModelReport(resident.source.version, resident.bytes, resident.source.is_private, round(resident.us_per_row, 1))
            for resident in residents
        ]
        with self._lock:
            counters = total([self._ended_counters, *(each for pump in self._served() for each in pump.counters)])
            loading = len(self._pending)
        return make_report(
            counters,
            name=self.name,
            hardware=self.hardware,
            slots=self.slots,
            children=self._children.count(),
            models=models,
            loading=loading,
        )

    def waiting(self) -> dict[str, int]:
        """How many calls lie in each list that this worker pops. Raises RedisError."""
        keys = [*self._pools, *(key for resident in self._residency.all() for key in lane_keys(resident.source.version))]
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.llen(key)
        return dict(zip(keys, pipeline.execute(), strict=True))

    # --- cold work

    def _take_cold(self, batch: list[Taken]) -> list[tuple[Taken, Reply]]:
        """Work for versions that the pump which popped it does not serve: load them, or hand it to the pump that does."""
        refused: list[tuple[Taken, Reply]] = []
        now = time.monotonic()
        for taken in batch:
            version = taken.work.version
            with self._lock:
                failure = self._failures.get(version)
                if failure and failure[0] > now:
                    refused.append((taken, Reply(taken.work.number, "model_unavailable", failure[1])))
                    continue
                is_new = version not in self._pending
                self._pending.setdefault(version, []).append(taken)
                self._pending_bytes += len(taken.frame)
            if is_new:
                self._to_load.put(version)  # a loaded one is only looked up, and its work goes to its lane
        return refused

    def _load_on(self) -> None:
        while (version := self._to_load.get()) is not None:
            try:
                self._load(version)
            except RedisError as error:
                log.warning("the lanes server was lost while %s was loaded: %s", version, error)
                with self._lock:
                    self._take_pending(version)  # its work went with the server, which keeps nothing
            except Exception:  # one version must not take the loader with it
                log.exception("loading %s failed", version)
                with suppress(RedisError):  # then nobody hears it, and the loader must live on
                    self._refuse(version, "The model cannot be loaded now")

    def _load(self, version: str) -> None:
        owner = self._pending[version][0].work.owner
        try:
            resident = self._residency.load(version, lambda: self._fetch(version, owner), self._open)
        except ModelUnavailable as error:
            log.warning("model %s is not loaded: %s", version, error)
            self._refuse(version, str(error))
            return
        if resident.is_ended:  # before it was among the residents, where `_on_child_ended` would have found it
            self._residency.evict(version)
        with self._marks:
            if self._residency.get(version) is not resident:  # evicted in between
                self._push(version, to_lane=False)
                return
            pumps = self._pumps_of(resident)
            pumps[0].add(resident)
            if isinstance(resident, ChildResident) and resident.aside is not None:
                pumps[1].add(resident.aside)
            pipeline = self._client.pipeline(transaction=False)
            pipeline.sadd(lanes_key(self.hardware), version)
            pipeline.set(resident_key(version), self.name, ex=BELIEVED_SECONDS)
            pipeline.execute()
        self._push(version, to_lane=True)
        self._wake(*pumps)

    def _fetch(self, version: str, owner: str) -> ArtifactSource:
        source = self._load_source(version, owner)
        if source is None:
            raise ModelUnavailable("The version is not there, or not ready")
        return source

    def _open(self, source: ArtifactSource) -> Resident:
        if source.is_private:
            version, owner = source.version, source.owner
            child = self._load_into_child(source)
            aside = Aside(without_artifact(source), lambda: self._open_aside(version, owner))
            return ChildResident(source, child, self.max_batch_rows, aside)
        try:
            model = Model.open(source, providers=self.providers, max_rows=self.max_batch_rows)
        except Exception as error:  # onnxruntime raises its own types
            raise ModelUnavailable(f"The model could not be loaded: {str(error).partition(chr(10))[0][:300]}") from error
        model.warm()
        return LocalResident(source, model, self.max_batch_rows)

    def _open_aside(self, version: str, owner: str) -> ChildResident:
        """In the process for low-priority work; called by the pump that serves it, which waits."""
        try:
            source = self._fetch(version, owner)
        except EngineError:
            raise
        except Exception as error:  # the database's, the store's: not now
            log.exception("loading %s for predictions failed", version)
            raise ModelUnavailable("The model cannot be loaded now") from error
        return ChildResident(source, self._load_into_child(source, is_low=True), self.max_batch_rows)

    def _load_into_child(self, source: ArtifactSource, *, is_low: bool = False) -> Child:
        """The owner's process, with the version loaded. One that is ended for another's sake meanwhile is started anew."""
        for _ in range(CHILD_STARTS):
            child = self._children.of(source.owner, is_low=is_low)
            with suppress(ProcessEnded):
                if not (is_low and source.version in child.versions):  # still there from before its version was evicted
                    child.load(source, self.max_batch_rows)
                return child
        raise ModelUnavailable("The model's process was ended while it loaded")

    def _take_pending(self, version: str) -> list[Taken]:
        """What waits for it, which now waits no more. Under the lock."""
        waiting = self._pending.pop(version, [])
        self._pending_bytes -= sum([len(taken.frame) for taken in waiting])
        return waiting

    def _refuse(self, version: str, reason: str) -> None:
        """Answer all that waits for a version which cannot be loaded, and remember that for a moment."""
        with self._lock:
            self._failures[version] = (time.monotonic() + FAILURE_SECONDS, reason)
            waiting = self._take_pending(version)
        self._send([(taken, Reply(taken.work.number, "model_unavailable", reason)) for taken in waiting])

    def _send(self, refused: list[tuple[Taken, Reply]]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for channel, message in messages([(taken.work.gateway, reply) for taken, reply in refused]):
            pipeline.publish(channel, message)
        pipeline.execute()

    def _push(self, version: str, *, to_lane: bool) -> None:
        """Put what waits for a version in front of its lane, or back into the pool, in the order in which it came."""
        with self._lock:
            waiting = self._take_pending(version)
        frames: dict[str, list[bytes]] = {}
        for taken in waiting:
            key = lane_of(taken) if to_lane else self._pools[taken.key.endswith(":low")]
            frames.setdefault(key, []).append(taken.frame)
        pipeline = self._client.pipeline(transaction=True)  # at once: a pump may be waiting at these lists
        for key, mine in frames.items():
            pipeline.lpush(key, *reversed(mine))
        pipeline.execute()

    # --- pumps

    def _pumps_of(self, resident: Resident) -> tuple[Pump, ...]:
        """Those that serve it: the main one, or the owner's two, started with its first version."""
        if not resident.source.is_private:
            return (self._main,)
        owner = resident.source.owner
        with self._lock:
            if owner not in self._pumps:
                self._pumps[owner] = (self._pump_for(owner, is_low=False), self._pump_for(owner, is_low=True))
                for pump in self._pumps[owner]:
                    pump.start()
            return self._pumps[owner]

    def _pump_for(self, owner: str, *, is_low: bool) -> Pump:
        return Pump(
            f"{self.name}/{owner}-{secrets.token_hex(2)}{'-low' if is_low else ''}",
            self.lanes_url,
            reject=self._take_cold,
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
        """Serve it no more; an owner's pumps end with the last version. Returns the pumps, to be woken."""
        if not resident.source.is_private:
            self._main.remove(resident.source.version)
            return (self._main,)
        owner = resident.source.owner
        with self._lock:
            pumps = self._pumps.get(owner, ())
            for pump in pumps:
                pump.remove(resident.source.version)
            if not any(other.source.is_private and other.source.owner == owner for other in self._residency.all()):
                self._pumps.pop(owner, None)
                self._ended_counters = total([self._ended_counters, *(each for pump in pumps for each in pump.counters)])
                for pump in pumps:
                    pump.stop()
        return pumps

    def _on_child_ended(self, child: Child) -> None:
        """A process ended: its versions are loaded again by the next call, into a fresh one."""
        for resident in self._residency.all():
            if isinstance(resident, ChildResident) and resident.child is child:
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
        self._children.end_idle(self._child_idle_seconds)
        with self._lock:
            monotonic = time.monotonic()
            self._failures = {version: failure for version, failure in self._failures.items() if failure[0] > monotonic}

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
        for version in list(self._pending):
            self._push(version, to_lane=False)
        self._client.delete(*(pump.wake_key for pump in self._all_pumps()))
        self._sweep([])


def _pubsub(client: Redis) -> PubSub:
    made: PubSub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis-py's
    return made
