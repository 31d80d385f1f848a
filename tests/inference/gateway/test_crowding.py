"""What is refused again without asking the lanes or the books, and what is not."""

import pytest

from inference.gateway.call import Call
from inference.gateway.crowding import HELD_SECONDS, LANES_FIRST_SECONDS, Crowding
from inference.routes import ModelRoute, VersionRoute
from tenants.principal import KeyRecord, Limits

pytestmark = pytest.mark.no_servers

NOW = 1000.0


def call(organization="alice", version="v1", rows=1, **more):
    limits = Limits(100.0, 100, 10)
    key = KeyRecord(
        public_id="x" * 12, id="key", organization=organization, slug=organization, mode="live", hash=b"", pepper_version=1,
        scopes=[], models=None, expires_at=None, is_active=True, limits=limits, organization_limits=limits, is_capped=False,
        data_key_id="", data_key=b"",
    )  # fmt: skip
    return Call(
        key=key, route=ModelRoute("m", "m", "o", "o", is_public=True, task="tensor"),
        version=VersionRoute(version, "1.0.0", "", "ready"), endpoint="infer", rows=rows, render=None, done=None, **more,
    )  # fmt: skip


def test_a_full_lane_refuses_every_organization_for_a_moment():
    crowding = Crowding()
    crowding.note(call(), "lane", 1500, NOW)

    refusal = crowding.refusal(call("bob"), NOW)
    assert (refusal.status, refusal.code, refusal.retry_after) == (503, "capacity_exhausted", 2)
    assert crowding.refusal(call("bob", version="v2"), NOW) is None
    assert crowding.refusal(call("bob"), NOW + HELD_SECONDS) is None


def test_a_smaller_call_may_still_fit_and_is_asked_for():
    crowding = Crowding()
    crowding.note(call(rows=100), "lane", 1000, NOW)

    assert crowding.refusal(call(rows=99), NOW) is None
    assert crowding.refusal(call(rows=100), NOW) is not None


def test_a_call_with_less_to_prepare_is_smaller():
    crowding = Crowding()
    crowding.note(call(prepare_us=50_000.0), "lane", 1000, NOW)

    assert crowding.refusal(call(prepare_us=49_000.0), NOW) is None
    assert crowding.refusal(call(prepare_us=50_000.0), NOW) is not None


def test_limits_of_an_organization_are_asked_for_each_time():
    crowding = Crowding()
    crowding.note(call(), "rate:key", 1000, NOW)

    assert crowding.refusal(call(), NOW) is None


def test_stored_answers_and_asynchronous_work_are_not_refused():
    crowding = Crowding()
    crowding.note(call(), "lane", 1000, NOW)

    assert crowding.refusal(call(idempotency_key="k"), NOW) is None
    assert crowding.refusal(call(is_low=True), NOW) is None


def test_asynchronous_work_that_does_not_fit_refuses_nobody_else():
    crowding = Crowding()
    crowding.note(call(is_low=True), "lane", 1000, NOW)

    assert crowding.refusal(call(), NOW) is None


def test_what_was_refused_asks_the_lanes_before_the_books_for_a_while():
    crowding = Crowding()
    crowding.note(call("alice"), "rate:key", 1000, NOW)
    crowding.note(call("carol", version="v3"), "lane", 1000, NOW)

    assert crowding.asks_lanes_first(call("alice", version="v9"), NOW)
    assert crowding.asks_lanes_first(call("dave", version="v3"), NOW)
    assert not crowding.asks_lanes_first(call("bob"), NOW)
    assert not crowding.asks_lanes_first(call("alice"), NOW + LANES_FIRST_SECONDS)
