"""admit.lua: what it lets into the lanes, and what it refuses."""

import time
from uuid import uuid4

import msgspec
import pytest

from inference.gateway.lanes import ADMIT
from inference.holders import Holder, holder_key, turns_key
from inference.lanes import lane_key, pool_key, resident_key


class Gate:
    """One organization with one key and one version, as the script sees them."""

    def __init__(self, lanes):
        self.lanes = lanes
        self.key, self.organization, self.version = uuid4().hex, uuid4().hex, uuid4().hex
        self.hardware = uuid4().hex  # a pool of its own
        self.ids = 0

    def keys(self):
        lanes = lane_key(self.version), resident_key(self.version), pool_key(self.hardware), f"sharing:{self.version}"
        return [*self.places(), *lanes]

    def places(self):
        return [holder_key(self.key), holder_key(self.organization), turns_key(self.version, self.organization)]

    def held(self):
        """Places of the key, of the organization, of its turns."""
        return [Holder.unpack(self.lanes.get(name), time.time()).taken for name in self.places()]

    def beside(self):
        """Another organization at the same version."""
        other = Gate(self.lanes)
        other.version, other.hardware = self.version, self.hardware
        return other

    def admit(self, n, *, rate=1000.0, burst=1000, places=100, org_rate=1000.0, org_burst=1000, org_places=100, room=1000,
              turn=0, spare=0, is_limited=1, release=0, lasting=30.0, gateway="gateway", has_frames=True):  # fmt: skip
        frames = [b"frame-%d" % (self.ids + number) if has_frames else b"" for number in range(1, n + 1)]
        self.ids += n
        keys = self.keys() + (self.places() if release else [])
        arguments = [gateway, 1, n, is_limited, rate, burst, places, org_rate, org_burst, org_places, room, turn, spare]
        arguments += [self.organization, time.time() + lasting, *frames]
        arguments += [1, release] if release else [0]
        ((admitted, reason, key_tokens, org_tokens, wait),) = ADMIT.run_sync(self.lanes, keys, arguments)
        return admitted, reason.decode(), key_tokens, org_tokens, wait


@pytest.fixture
def gate(lanes):
    return Gate(lanes)


def test_calls_go_to_the_pool_until_a_worker_has_the_version_and_then_to_its_lane(gate, lanes):
    gate.admit(2)
    lanes.set(resident_key(gate.version), "worker", ex=5)
    gate.admit(1)

    assert lanes.lrange(pool_key(gate.hardware), 0, -1) == [b"frame-1", b"frame-2"]
    assert lanes.lrange(lane_key(gate.version), 0, -1) == [b"frame-3"]


def test_what_asks_without_its_frame_is_admitted_like_any_other_and_not_pushed(gate, lanes):
    assert gate.admit(3, places=2, turn=9, has_frames=False)[:2] == (2, "concurrency:key")

    assert gate.held() == [2, 2, 2]
    assert lanes.llen(pool_key(gate.hardware)) == 0


def test_the_keys_bucket_admits_its_burst_and_refuses_the_rest_with_a_wait(gate, lanes):
    admitted, reason, tokens, _, wait = gate.admit(5, rate=0.1, burst=3)

    assert (admitted, reason, tokens) == (3, "rate:key", 0)
    assert 9000 <= wait <= 10_000
    assert lanes.llen(pool_key(gate.hardware)) == 3


def test_the_organizations_bucket_is_shared_by_its_keys(gate):
    gate.admit(3, org_rate=0.1, org_burst=4)
    gate.key = uuid4().hex

    admitted, reason, *_ = gate.admit(3, org_rate=0.1, org_burst=4)

    assert (admitted, reason) == (1, "rate:organization")


def test_places_are_bounded_per_key_and_freed_by_a_release_of_the_same_tick(gate):
    assert gate.admit(3, places=2)[:2] == (2, "concurrency:key")
    assert gate.admit(1, places=2)[:2] == (0, "concurrency:key")
    assert gate.admit(1, places=2, release=1)[:2] == (1, "")


def test_each_gateway_frees_what_it_holds_itself(gate):
    gate.admit(2, gateway="one", turn=9)
    gate.admit(3, gateway="other", turn=9)
    gate.admit(1, gateway="one", turn=9, release=2)

    assert gate.held() == [4, 4, 4]
    gate.admit(0, gateway="one", release=5)  # more than it has: the others' stay
    assert gate.held() == [3, 3, 3]


def test_places_last_until_the_latest_deadline_of_their_gateway(gate, lanes):
    gate.admit(1, gateway="dead", lasting=-1.0)
    gate.admit(1, gateway="alive", lasting=30.0)
    gate.admit(1, gateway="alive", lasting=1.0)

    assert gate.held()[:2] == [2, 2]
    assert lanes.pttl(holder_key(gate.key)) > 20_000


def test_a_release_of_nothing_leaves_nothing(gate, lanes):
    gate.admit(0, release=3)

    assert lanes.exists(*gate.keys()) == 0


def test_places_of_a_dead_gateway_free_themselves_at_their_deadline(gate):
    gate.admit(2, org_places=2, lasting=-1.0)

    assert gate.admit(2, org_places=2)[:2] == (2, "")


def test_refused_calls_take_no_tokens_and_no_places(gate, lanes):
    admitted, reason, *_ = gate.admit(3, room=0)

    assert (admitted, reason) == (0, "lane")
    assert lanes.exists(*gate.keys()) == 0


def test_a_full_lane_admits_only_what_fits(gate):
    assert gate.admit(3, room=2)[:2] == (2, "lane")
    assert gate.admit(1, room=2)[:2] == (0, "lane")


def test_asynchronous_work_meets_no_rate_or_place_limits(gate, lanes):
    assert gate.admit(5, is_limited=0, rate=0.1, burst=1, places=1)[:2] == (5, "")
    assert lanes.exists(holder_key(gate.key), holder_key(gate.organization)) == 0


def test_a_bucket_fills_again_with_time(gate, lanes):
    gate.admit(10, rate=10, burst=10, lasting=3600)
    tokens, at, *rest = msgspec.msgpack.decode(lanes.get(holder_key(gate.key)))
    lanes.set(holder_key(gate.key), msgspec.msgpack.encode([tokens, at - 0.5, *rest]))

    assert gate.admit(10, rate=10, burst=10)[:2] == (5, "rate:key")


def test_an_organization_alone_may_take_all_of_a_long_model(gate):
    assert gate.admit(10, turn=4)[:2] == (10, "")


def test_while_others_call_too_an_organization_has_its_share_of_a_turn(gate):
    other = gate.beside()
    other.admit(1, turn=4)

    assert gate.admit(5, turn=4)[:2] == (2, "share")
    assert gate.admit(1, turn=4)[:2] == (0, "share")
    assert gate.admit(5, turn=4, release=1)[:2] == (1, "share")
    assert other.admit(5, turn=4)[:2] == (1, "share")


def test_each_of_many_has_at_least_one_place(gate):
    others = [gate.beside() for _ in range(3)]

    assert [each.admit(2, turn=2)[0] for each in (*others, gate)] == [2, 1, 1, 1]  # the first was alone


def test_a_spare_share_stays_free_for_who_may_come_also_while_an_organization_is_alone(gate):
    other = gate.beside()

    assert gate.admit(5, turn=4, spare=1)[:2] == (2, "share")
    assert other.admit(5, turn=4, spare=1)[:2] == (1, "share")


def test_who_has_stopped_calling_leaves_its_share_to_the_others(gate, lanes):
    other = gate.beside()
    other.admit(1, turn=4)
    lanes.zadd(f"sharing:{gate.version}", {other.organization: time.time() - 1})

    assert gate.admit(5, turn=4)[:2] == (5, "")


def test_turns_of_a_dead_gateway_end_at_their_deadline(gate):
    gate.beside().admit(1, turn=4)
    gate.admit(2, turn=4, lasting=-1.0)

    assert gate.admit(2, turn=4)[:2] == (2, "")


def test_short_models_and_asynchronous_work_take_no_turns(gate):
    gate.beside().admit(1, turn=4)

    assert gate.admit(5, turn=0)[:2] == (5, "")
    assert gate.admit(5, turn=4, is_limited=0)[:2] == (5, "")
