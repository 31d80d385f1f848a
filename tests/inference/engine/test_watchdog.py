"""Runs that outlast the last deadline of their batch are ended, in the worker and in a customer's process."""

import math
import threading
import time

import numpy as np
import pytest

from inference.engine.batch import run_batch
from inference.engine.child import answer
from inference.engine.errors import DeadlineExceeded
from inference.engine.model import Model
from inference.engine.pipe import Ask
from inference.engine.watchdog import Watchdog
from tests.inference.engine import models
from tests.inference.engine.models import work
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.no_servers
ENDLESS = 10**12  # rounds: days
ONE = np.ones(1, "f4")


def test_a_run_ends_at_the_last_deadline_of_its_batch_and_nothing_is_run_again():
    made = models.slow(ENDLESS)
    model = Model.open(made)
    first, last = time.time() + 0.2, time.time() + 0.5

    replies = run_batch(
        model, [work(made, ONE, number=n, deadline=at) for n, at in ((1, first), (2, last))], max_rows=64, is_shared=True
    )

    assert [(reply.number, reply.code) for reply in replies] == [(1, "deadline_exceeded"), (2, "deadline_exceeded")]
    assert time.time() >= last


def test_a_deadline_that_comes_before_those_under_way_is_kept():
    watchdog = Watchdog()
    long_runs = threading.Event()

    def run_long():
        with watchdog.run(time.time() + 10 * PATIENCE):
            assert long_runs.wait(PATIENCE)

    other = threading.Thread(target=run_long)
    other.start()
    until(lambda: watchdog._wakes_at < math.inf)

    def run_short():
        with watchdog.run(time.time() + 0.1) as options:
            until(lambda: options.terminate)
            raise RuntimeError("Exiting due to terminate flag being set to true.")

    with pytest.raises(DeadlineExceeded):
        run_short()
    assert [options.terminate for options in watchdog._runs] == [False]
    long_runs.set()
    other.join(PATIENCE)
    assert not watchdog._runs


def test_what_is_too_late_is_not_run():
    made = models.slow(ENDLESS)
    (reply,) = run_batch(Model.open(made), [work(made, ONE, deadline=time.time() - 1)], max_rows=64, is_shared=True)

    assert reply.code == "deadline_exceeded"


def test_a_models_own_failure_is_still_its_own():
    made = models.gather()
    (reply,) = run_batch(Model.open(made), [work(made, np.array([9]))], max_rows=64, is_shared=True)

    assert reply.code == "model_failed"


def test_a_customers_process_ends_its_runs_by_the_same_flag():
    made = models.counted(is_private=True)
    asked = Ask(b"", version=made.version, works=[work(made, np.array(ENDLESS), deadline=time.time() + 0.2)])

    (part,) = answer({made.version: Model.open(made)}, asked)
    (reply,) = part.replies

    assert reply.code == "deadline_exceeded"


def test_warming_up_ends_too(monkeypatch):
    monkeypatch.setattr("inference.engine.model.WARM_SECONDS", 0.2)

    Model.open(models.slow(ENDLESS)).warm()
