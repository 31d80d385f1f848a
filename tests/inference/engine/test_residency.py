import threading
import time

import pytest

from inference.engine.errors import ModelUnavailable
from inference.engine.residency import Residency
from tests.inference.engine import models
from tests.waiting import PATIENCE

pytestmark = pytest.mark.no_servers


class Loaded:
    is_busy = False
    us_per_row = 1.0

    def __init__(self, source):
        self.source, self.bytes, self.last_used, self.is_closed = source, source.load_bytes, time.monotonic(), False

    def close(self):
        self.is_closed = True


def sized(size):
    made = models.linear(load_bytes=size)
    made.artifact = b""
    return made


def load(residency, made):
    return residency.load(made.version, lambda: made, Loaded)


def test_a_version_is_loaded_once_while_others_wait_for_it():
    residency = Residency(100, lambda resident: None)
    made, loads, gate, entered = sized(10), [], threading.Event(), threading.Event()

    def fetch():
        loads.append(made)
        entered.set()
        assert gate.wait(PATIENCE)
        return made

    got = []
    threads = [threading.Thread(target=lambda: got.append(residency.load(made.version, fetch, Loaded))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert entered.wait(PATIENCE)
    gate.set()
    for thread in threads:
        thread.join()

    assert len(loads) == 1
    assert len({id(each) for each in got}) == 1
    assert len(got) == 4


def test_a_failed_load_fails_for_all_and_may_be_tried_again():
    residency = Residency(100, lambda resident: None)
    made = sized(10)

    def broken():
        raise OSError("the store is down")

    with pytest.raises(OSError, match="store"):
        residency.load(made.version, broken, Loaded)

    assert load(residency, made).source is made


def test_the_least_recently_used_leave_until_it_fits_but_never_a_busy_one():
    evicted = []
    residency = Residency(100, evicted.append)
    one, two, three = (load(residency, sized(30)) for _ in range(3))
    one.is_busy = True
    two.last_used = one.last_used + 5
    three.last_used = one.last_used + 1

    load(residency, sized(40))

    assert evicted == [three]
    assert three.is_closed
    assert residency.bytes == 100
    with pytest.raises(ModelUnavailable, match="no memory"):
        load(residency, sized(100))
    assert residency.bytes == 100
    assert not two.is_closed


def test_loads_under_way_count():
    residency = Residency(100, lambda resident: None)
    made, entered, gate = sized(60), threading.Event(), threading.Event()

    def slow(source):
        entered.set()
        assert gate.wait(PATIENCE)
        return Loaded(source)

    thread = threading.Thread(target=lambda: residency.load(made.version, lambda: made, slow))
    thread.start()
    assert entered.wait(PATIENCE)

    with pytest.raises(ModelUnavailable):
        load(residency, sized(60))

    gate.set()
    thread.join()
    assert residency.bytes == 60
