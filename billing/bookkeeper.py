"""The bookkeeper: what the books need beside the gateways, in one process that needs no broker.

Each job is a loop in a thread of its own, with its own connections. A server that does not do its part makes a job wait and try
again; a mistake of ours ends the process with status 1, to be started again. Nothing is kept in memory that a kill could lose.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import django.db
import psycopg2
import redis
from django.db import connections

from billing.caps import alerts, credit
from billing.caps.quotas import project_pending
from billing.ledger import writing
from billing.ledger.drain import BATCH_RECORDS, STATUS, Drain
from billing.ledger.hours import RollUp
from billing.ledger.last_used import LastUsed
from billing.ledger.rebuild import rebuild_wanted
from billing.ledger.refused import move_refused
from billing.proof.sealer import Sealer
from inference.books.pruning import Pruner
from inference.books.reaper import Reaper
from saas.lib import clock
from saas.lib.valkey import sync_client
from tenants import records

log = logging.getLogger(__name__)

DRAIN_EVERY = 0.2  # seconds between batches that are not full: few commits, little lag
HOURS_EVERY = 0.5
REBUILD_EVERY = 0.03  # a call of an unknown account is waiting
RELAY_EVERY = 0.5  # a revoked key is refused everywhere within 1 s
SEAL_EVERY = 1.0
PRUNE_EVERY = 0.02  # between single commands, of which most months need few
TOUCH_EVERY = 60.0
CREDIT_EVERY = 2.0
DAYS_EVERY = 600.0
DAYS_AHEAD = 3
LONGEST_WAIT = 2.0  # seconds between attempts while a server is away
STOP_WITHIN = 1.0


@dataclass
class Job:
    """`step` is called again `every` seconds after it returned False, at once after True. `close` drops its connections."""

    name: str
    step: Callable[[], bool]
    every: float
    close: Callable[[], None] = lambda: None


class Bookkeeper:
    def __init__(self, state_url: str, lanes_url: str) -> None:
        self._stop = threading.Event()
        self._failed = False
        self._lanes = sync_client(lanes_url)
        self.last_used = LastUsed()
        self.drain = Drain(sync_client(state_url), on_drained=self.last_used.note)
        self.jobs = [
            Job("drain", self._drain, DRAIN_EVERY, self.drain.close),
            Job("report", self._report, 1.0),
            _hours_job(),
            _reaper_job(state_url),
            _rebuild_job(),
            _prune_job(state_url),
            _housekeeping_job(state_url, self.last_used),
            _credit_job(),
            _records_job(),
            _seal_job(state_url),
        ]

    def run(self) -> int:
        """Work until `stop`; the exit status: 0, or 1 if a job failed by a mistake of ours."""
        threads = [threading.Thread(target=self._loop, args=(job,), name=job.name, daemon=True) for job in self.jobs]
        for thread in threads:
            thread.start()
        log.info("the bookkeeper works", extra={"pid": os.getpid()})
        while not self._stop.is_set():  # waiting on it would hold its lock when the signal handler wants it
            time.sleep(0.1)
        deadline = time.monotonic() + STOP_WITHIN
        for thread in threads:
            thread.join(
                max(0.0, deadline - time.monotonic())
            )  # one that hangs in a server ends with the process: nothing is lost
        log.info("the bookkeeper has stopped")
        return 1 if self._failed else 0

    def stop(self) -> None:
        self._stop.set()

    def _loop(self, job: Job) -> None:
        attempts, pause = 0, 0.0
        while not self._stop.wait(pause):
            try:
                pause = 0.0 if job.step() else job.every
                if attempts:
                    log.info("%s goes on", job.name)
                attempts = 0
            except (psycopg2.Error, django.db.Error, redis.RedisError) as error:
                job.close()
                attempts += 1
                pause = min(LONGEST_WAIT, 0.1 * 2**attempts)
                log.log(_level(error), "%s waits: %s", job.name, str(error).strip(), extra={"attempts": attempts})
            except Exception:
                log.exception("%s failed; the bookkeeper ends", job.name)
                self._failed = True
                self._stop.set()
        job.close()

    def _drain(self) -> bool:
        return self.drain.step() >= BATCH_RECORDS

    def _report(self) -> bool:
        self.drain.report(self._lanes)
        return False


def _level(error: Exception) -> int:
    """A server that is away or busy is a warning; one that does not know our tables or statements is an error."""
    is_ours = isinstance(error, psycopg2.ProgrammingError | psycopg2.DataError | psycopg2.IntegrityError | redis.ResponseError)
    return logging.ERROR if is_ours else logging.WARNING


def _reaper_job(state_url: str) -> Job:
    reaper = Reaper(state_url)

    def step() -> bool:
        reaper.step()
        return False

    return Job("reaper", step, 0.5)


def _records_job() -> Job:
    """Here and not with Celery: a key is revoked in time whether or not the broker and its workers are there."""

    return Job("records", lambda: records.relay() >= records.BATCH, RELAY_EVERY, connections.close_all)


def _hours_job() -> Job:
    rollup = RollUp()
    return Job("hours", rollup.step, HOURS_EVERY, rollup.close)


def _seal_job(state_url: str) -> Job:
    sealer = Sealer(sync_client(state_url))
    return Job("seal", sealer.step, SEAL_EVERY, sealer.close)


def _rebuild_job() -> Job:
    link = writing.Link()

    def step() -> bool:
        rebuild_wanted(link)
        return False

    return Job("rebuild", step, REBUILD_EVERY, link.close)


def _credit_job() -> Job:
    link = writing.Link()

    def step() -> bool:
        if overrun := credit.settle_all(link()):
            records.client().hincrby(STATUS, "credit_overrun_nano", overrun)
        now = clock.now()
        credit.expire_due(link(), now)
        alerts.fire(link(), now)
        return False

    return Job("credit", step, CREDIT_EVERY, link.close)


def _prune_job(state_url: str) -> Job:
    pruner = Pruner(sync_client(state_url))

    def step() -> bool:
        pruner.step()
        return False

    return Job("prune", step, PRUNE_EVERY)


def _housekeeping_job(state_url: str, last_used: LastUsed) -> Job:
    link, state = writing.Link(), sync_client(state_url)
    due = {"days": 0.0, "touch": time.monotonic() + TOUCH_EVERY}

    def is_due(name: str, every: float) -> bool:
        now = time.monotonic()
        if now < due[name]:
            return False
        due[name] = now + every
        return True

    def step() -> bool:
        if is_due("days", DAYS_EVERY):
            clock.check_unmoved()
            today = clock.now().date()
            writing.ensure_days(link(), [today + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 1)])
        if is_due("touch", TOUCH_EVERY):
            last_used.flush(link())
        project_pending(link())
        move_refused(link(), state)
        return False

    return Job("housekeeping", step, 1.0, link.close)
