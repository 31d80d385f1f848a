"""What a pump asks the lanes server for, without one; with one: test_host.py."""

import pytest

from inference.pump import Pump

pytestmark = pytest.mark.no_servers


def test_a_slow_place_that_comes_free_wakes_the_slot_that_pops_if_a_lane_waits_for_it():
    pump = Pump("pump", "unix:///none", reject=lambda batch: [], slots=2)
    assert pump._slow.take("one")
    assert pump._free_place() == []
    assert pump._slow.take("one")
    assert not pump._slow.take("other")
    pump._pop_command()
    assert pump._commands  # without the lane that waits

    woken = pump._free_place()

    assert any(pump.wake_key.encode() in command for command in woken)
    assert not pump._commands
