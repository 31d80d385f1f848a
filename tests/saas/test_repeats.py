"""Heads that a connection sends again and again: parsed and proved once, and still every call is its own."""

import gc
import json

import pytest

from inference.gateway.exchange import FORGOTTEN
from saas.exchanges import HotExchange
from saas.repeats import MAX_BYTES, MAX_MISSES
from tests.saas.serving import KEY, READ_ONLY_KEY, key_record, request_bytes, tensor
from tests.waiting import until

pytestmark = pytest.mark.no_servers

ROWS = "/v2/models/rows/infer"


def body_of(number: int) -> bytes:
    """All of one length."""
    return json.dumps({"id": f"{number:04}", "inputs": [tensor(data=[number % 10] * 4)]}).encode()


def ask(raw, number: int, *extra: str, **more) -> tuple[int, dict, dict]:
    """One call; its status, headers and body, which must be its own."""
    raw.send(request_bytes(ROWS, body_of(number), *extra, **more))
    status, headers, body = raw.response()
    answer = json.loads(body)
    if status == 200:
        assert (answer["id"], answer["outputs"][0]["data"]) == (f"{number:04}", [number % 10] * 4)
    return status, headers, answer


@pytest.fixture
def raw(served):
    """A connection whose key and model memory knows, and which has sent its head once."""
    served.gateway.keys[KEY] = key_record()
    served.server.server_state.is_draining = False
    with served.connect() as raw:
        assert [ask(raw, number)[0] for number in range(2)] == [200, 200]
        yield raw


def proofs(served) -> int:
    return served.gateway.proofs


def test_a_repeated_head_is_proved_once_and_each_call_gets_its_own_answer_and_ids(served, raw):
    before = proofs(served)

    answers = [ask(raw, number) for number in range(2, 30)]

    assert [status for status, *_ in answers] == [200] * 28
    assert len({headers["x-request-id"] for _, headers, _ in answers}) == 28
    assert len({headers["traceparent"] for _, headers, _ in answers}) == 28
    assert proofs(served) == before


def test_a_head_that_differs_by_one_byte_is_read_as_its_own(served, raw):
    other = KEY[:-1] + ("A" if KEY[-1] != "A" else "B")

    assert ask(raw, 2, key=other)[0] == 401
    assert ask(raw, 3)[0] == 200
    assert ask(raw, 4, "X-Request-Id: mine")[1]["x-request-id"] == "mine"
    assert ask(raw, 5, "X-Request-Id: ours")[1]["x-request-id"] == "ours"


def test_a_key_that_is_revoked_is_refused_under_the_same_head(served, raw):
    del served.gateway.keys[KEY]

    assert ask(raw, 2)[0] == 401
    assert ask(raw, 3)[0] == 401


def test_a_key_whose_record_changed_is_proved_again(served, raw):
    before = proofs(served)
    served.gateway.keys[KEY] = key_record(models=["flowers"])

    assert ask(raw, 2)[2]["code"] == "model_not_allowed"
    assert proofs(served) == before + 1

    served.gateway.keys[KEY] = key_record()
    assert [ask(raw, number)[0] for number in (3, 4)] == [200, 200]
    assert proofs(served) == before + 2


def test_a_refused_head_proves_nothing_for_the_next(served):
    with served.connect() as raw:
        for number in range(3):
            assert ask(raw, number, key=READ_ONLY_KEY)[0] == 403
        for number in range(3):
            assert ask(raw, number, key="maas_live_wrong")[0] == 401


def test_a_body_of_another_length_under_the_same_path_is_its_own(served, raw):
    for number in (2, 3):
        assert ask(raw, number)[0] == 200
        long = json.dumps({"inputs": [tensor(data=[1, 2, 3, 4.25])]}).encode()
        raw.send(request_bytes(ROWS, long))
        assert json.loads(raw.response()[2])["outputs"][0]["data"] == [1, 2, 3, 4.25]


def test_it_may_come_in_parts_or_with_the_next_one_behind_it(served, raw):
    one, two = request_bytes(ROWS, body_of(2)), request_bytes(ROWS, body_of(3))
    for cut in (1, 20, len(one) - len(body_of(2)), len(one) - 1):
        raw.send(one[:cut])
        raw.send(one[cut:])
        assert json.loads(raw.response()[2])["id"] == "0002"
    raw.send(one + two + one)
    assert [json.loads(raw.response()[2])["id"] for _ in range(3)] == ["0002", "0003", "0002"]
    raw.send(one + two[:30])
    assert json.loads(raw.response()[2])["id"] == "0002"
    raw.send(two[30:])
    assert json.loads(raw.response()[2])["id"] == "0003"
    assert ask(raw, 4)[0] == 200


def test_it_waits_behind_one_that_is_being_answered(served, raw):
    served.gateway.hold = True
    raw.send(request_bytes(ROWS, body_of(2)))
    until(lambda: served.gateway.held)
    served.gateway.hold = False
    raw.send(request_bytes(ROWS, body_of(3)))
    with served.connect() as other:  # once it has two answers, the loop has read what came before
        assert [ask(other, number)[0] for number in range(2)] == [200, 200]
    served.on_loop(served.gateway.finish, served.gateway.held[0])

    assert [json.loads(raw.response()[2])["id"] for _ in range(2)] == ["0002", "0003"]


def test_behind_the_beginning_of_another_head_it_is_a_part_of_that(served, raw):
    raw.send(b"POST /v2/models/nothing/infer HTTP/1.1\r\nX-Rest: ")
    raw.send(request_bytes(ROWS, body_of(2)))
    assert raw.response()[0] == 404


def test_behind_one_that_is_refused_at_once_it_is_the_second(served, raw):
    both = request_bytes(ROWS, body_of(2), key="maas_live_wrong") + request_bytes(ROWS, body_of(3))
    for _ in range(3):
        raw.send(both)
        assert [raw.response()[0] for _ in range(2)] == [401, 200]


def test_a_body_that_looks_like_a_head_is_a_body(served, raw):
    inner = request_bytes(ROWS, body_of(7))
    raw.send(request_bytes(ROWS, inner))
    assert raw.response()[0] == 400
    raw.send(request_bytes(ROWS, inner))
    assert raw.response()[0] == 400
    assert ask(raw, 8)[0] == 200


@pytest.mark.parametrize("extra", ["Connection: close", "Expect: 100-continue", "X-Long: " + "x" * MAX_BYTES])
def test_what_is_not_remembered_works_as_ever(served, raw, extra):
    raw.send(request_bytes(ROWS, body_of(2), extra))
    status, _, body = raw.response()
    if status == 100:
        status, _, body = raw.response()
    assert (status, json.loads(body)["id"]) == (200, "0002")


def test_who_never_repeats_a_head_is_soon_not_listened_to_any_more(served, raw):
    for number in range(MAX_MISSES + 3):
        assert ask(raw, number, f"X-Request-Id: request-{number}")[0] == 200
    before = proofs(served)
    assert [ask(raw, number)[0] for number in range(3)] == [200] * 3
    assert proofs(served) == before + 3


def test_what_has_ended_holds_no_tensors_and_a_closed_connection_holds_nothing(served):
    """Left to the garbage collector, closed connections kept 16 MiB each."""

    def exchanges():
        served.gateway.calls.clear()
        return [thing for thing in gc.get_objects() if type(thing) is HotExchange]

    gc.collect()
    gc.disable()
    try:
        with served.connect() as raw:
            assert [ask(raw, number)[0] for number in range(2)] == [200, 200]
            until(lambda: len(exchanges()) == 1)
            assert [(exchange.body, exchange.ask, exchange.call) for exchange in exchanges()] == [(b"", FORGOTTEN, None)]
        until(lambda: not exchanges())
    finally:
        gc.enable()


def test_a_stop_ends_a_connection_that_repeats_itself(served, raw):
    served.server.server_state.is_draining = True
    status, headers, _ = ask(raw, 2)
    assert (status, headers["connection"]) == (200, "close")
    assert raw.is_closed()
