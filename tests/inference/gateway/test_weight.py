"""How much JSON a body may hold, and that it is counted before it is decoded."""

import json

import pytest

from inference.gateway import friendly, v2
from inference.gateway.weight import check_json
from saas.lib.errors import InvalidRequest
from tests.saas.serving import model_route, version_route

pytestmark = pytest.mark.no_servers

ROWS = version_route([("x", "FP32", [-1, 4])], [("y", "FP32", [-1, 4])])
TOO_MUCH = {
    "elements": b'{"inputs":[' + b"0," * 1_000_000 + b"0]}",
    "lists and objects": b'{"inputs":[' + b"[]," * 100_000 + b"[]]}",
    "members of objects": b'{"inputs":{' + b'"a":1,' * 100_000 + b'"b":1}}',
}
READ = {
    "v2": lambda body: v2.read_infer(body, None, ROWS),
    "friendly": lambda body: friendly.read_predict(body, "application/json", None, model_route("rows", ROWS), ROWS),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_a_body_that_holds_too_much_is_refused_and_told_what(what):
    with pytest.raises(InvalidRequest, match=what):
        check_json(TOO_MUCH[what])


@pytest.mark.parametrize("what", TOO_MUCH)
@pytest.mark.parametrize("dialect", READ)
def test_it_is_refused_before_it_is_decoded(dialect, what):
    body = TOO_MUCH[what][:-1] + b"this is no JSON"

    with pytest.raises(InvalidRequest, match=what):
        READ[dialect](body)


def test_texts_may_hold_any_number_of_commas_brackets_and_quotes():
    text = 'a, b: [c] {d} "e" \\ ' * 150_000

    check_json(json.dumps({"inputs": [text, "\\", '"', text]}).encode())


def test_what_stands_between_texts_is_still_counted():
    with pytest.raises(InvalidRequest, match="lists and objects"):
        check_json(json.dumps({"inputs": [["\\"], ['"'], ['\\"']] * 40_000}).encode())


def test_as_many_elements_as_are_allowed_pass():
    check_json(b'{"inputs":[' + b"0," * 999_990 + b"0]}")
