"""What is known of the peers before any of them is installed."""

import pytest

from benchmarks.environments import versions
from benchmarks.machine import PEERS as SHOWN
from benchmarks.peers import LAUNCHERS, VARIANTS, select
from benchmarks.workloads import PEERS

pytestmark = pytest.mark.no_servers


def test_a_name_selects_a_peer_or_one_of_its_configurations():
    assert {variant.label for variant in select(["triton"])} == {"triton:one", "triton:copies"}
    assert [variant.label for variant in select(["ray:batch", "ray:batch"])] == ["ray:batch"]
    assert select([]) == list(VARIANTS)
    with pytest.raises(ValueError, match="nobody"):
        select(["nobody"])


def test_every_peer_can_be_started_and_is_locked_with_the_same_engine():
    assert {variant.peer for variant in VARIANTS} == set(LAUNCHERS) == set(PEERS) == set(SHOWN)
    assert {versions(peer)["onnxruntime"] for peer in PEERS} == {versions("triton")["onnxruntime"]}
    for peer, packages in SHOWN.items():
        assert set(packages) <= versions(peer).keys()
