"""The friendly call, and what every call may say and every answer does."""

import base64
import json

import pytest

from inference.gateway import quotes, weight
from inference.gateway.quotes import Quote
from saas.lib import errors
from saas.lib.prices import Price
from tests.saas.serving import KEY, Served, model_route, tensor, version_route
from tests.waiting import until

pytestmark = pytest.mark.no_servers

PNG = b"\x89PNG pretended"


def form(*parts: tuple[str, str | None, bytes], end: bytes = b"--") -> tuple[bytes, dict[str, str]]:
    body = b""
    for name, filename, data in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
        body += f"--cut\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"
    return body + b"--cut" + end + b"\r\n", {"Content-Type": "multipart/form-data; boundary=cut"}


def test_rows_of_a_classifier_get_a_label_and_its_confidence(served):
    status, headers, body = served.predict("flowers", {"inputs": [[1, 2, 5], [9, 2, 1]]})
    assert (status, headers["content-type"], headers["x-model-version"]) == (200, "application/json", "1.0.0")
    assert body == {
        "model": "flowers",
        "version": "1.0.0",
        "predictions": [{"label": "blue", "confidence": 5.0}, {"label": "red", "confidence": 9.0}],
    }
    assert (served.gateway.calls[-1].rows, served.gateway.calls[-1].top, served.gateway.calls[-1].outputs) == (
        2,
        1,
        ("scores",),
    )


def test_top_adds_the_best_labels(served):
    _, _, body = served.predict("flowers", {"inputs": [[1, 2, 5]], "top": 2})
    best = [{"label": "blue", "confidence": 5.0}, {"label": "green", "confidence": 2.0}]
    assert body["predictions"] == [{**best[0], "top": best}]
    _, _, body = served.request("POST", "/api/v1/models/flowers/predict?top=1", b'{"inputs": [[1, 2, 5]]}')
    assert json.loads(body)["predictions"][0]["top"] == best[:1]


def test_rows_may_be_objects_by_feature_and_one_row_may_stand_alone(served):
    expected = [{"label": "green", "confidence": 3.0}]
    for inputs in ([{"g": 3, "r": 1, "b": 2}], {"b": 2, "g": 3, "r": 1}, [1, 3, 2], [[1, 3, 2]]):
        assert served.predict("flowers", {"inputs": inputs})[2]["predictions"] == expected


def test_a_model_without_labels_gives_rows_of_numbers(served):
    assert served.predict("rows", {"inputs": [[1, 2, 3, 4.5]]})[2]["predictions"] == [[1.0, 2.0, 3.0, 4.5]]
    assert served.predict("rows", {"inputs": []})[2]["predictions"] == []
    assert served.predict("echo-bytes", {"inputs": [["a", "b"]]})[2]["predictions"] == [["a", "b"]]
    assert served.predict("scalar", {"inputs": 3})[2]["predictions"] == 3.0


@pytest.mark.parametrize("count", [1, 100])
def test_numbers_have_as_few_digits_as_name_a_float32(served, count):
    body = json.dumps({"inputs": [[0.1, 0.2, 0.998264729976654]] * count, "top": 1}).encode()
    text = served.request("POST", "/api/v1/models/flowers/predict", body)[2]
    assert text.count(b'"confidence":0.99826473}') == text.count(b'"confidence":0.99826473,') == count
    assert (
        b"[0.1,0.2,0.3,0.99826473]"
        in served.request(
            "POST", "/api/v1/models/rows/predict", json.dumps({"inputs": [[0.1, 0.2, 0.3, 0.998264729976654]] * count}).encode()
        )[2]
    )
    data = json.dumps({"inputs": [tensor("x", "FP32", [count, 4], [0.1, 0.2, 0.3, 0.998264729976654] * count)]}).encode()
    assert b"0.1,0.2,0.3,0.99826473]" in served.request("POST", "/v2/models/rows/infer", data)[2]
    assert served.request("POST", "/api/v1/models/scalar/predict", b'{"inputs": 0.1}')[2].endswith(b'"predictions":0.1}')


@pytest.mark.parametrize("model", ["rows", "flowers", "photos", "texts", "echo-bytes"])
def test_no_rows_are_answered_with_no_predictions(served, model):
    status, _, answer = served.predict(model, {"inputs": []})
    assert (status, answer["predictions"]) == (200, [])


def test_a_model_with_several_inputs_takes_them_by_name(served):
    _, _, body = served.predict("two", {"inputs": {"b": [7], "a": [[1, 2]]}})
    assert body["predictions"] == {"ya": [[1.0, 2.0]], "yb": [7]}


def test_images_come_as_base64_form_or_bare_file(served):
    encoded = base64.b64encode(PNG).decode()
    cases = [
        (json.dumps({"inputs": encoded}).encode(), {"Content-Type": "application/json"}, 1),
        (json.dumps({"inputs": [encoded, f"data:image/png;base64,{encoded}"]}).encode(), {}, 2),
        (*form(("file", "a.png", PNG)), 1),
        (*form(("image", "a.png", PNG), ("image", "b.png", PNG), ("top", None, b"2")), 2),
        (PNG, {"Content-Type": "image/png"}, 1),
    ]
    for body, headers, count in cases:
        status, _, answer = served.predict("photos", body, headers)
        assert status == 200, answer
        assert [prediction["label"] for prediction in answer["predictions"]] == ["cat"] * count
        assert served.gateway.calls[-1].items == [PNG] * count
        assert served.gateway.calls[-1].rows == count
    assert len(served.predict("photos", *form(("file", "a.png", PNG), ("top", None, b"2")))[2]["predictions"][0]["top"]) == 2


def test_pixels_are_taken_as_numbers_in_the_shape_that_people_have(served):
    for inputs in ([[1, 2], [3, 4]], [[[1, 2], [3, 4]]], [[[[1, 2], [3, 4]]]]):
        assert served.predict("image", {"inputs": inputs})[0] == 200, inputs
        assert served.gateway.calls[-1].inputs[0][2] == [1, 1, 2, 2]
    _, _, body = served.predict("photos", {"inputs": [[0.25, 0.75]]})
    assert body["predictions"] == [{"label": "dog", "confidence": 0.75}]


def test_texts_come_alone_in_a_list_or_bare(served):
    for body, headers, texts in (
        ({"inputs": "hallo"}, {}, ["hallo"]),
        ({"inputs": ["hallo", "größe"]}, {}, ["hallo", "größe"]),
        ("größe".encode(), {"Content-Type": "text/plain; charset=utf-8"}, ["größe"]),
    ):
        assert served.predict("texts", body, headers)[0] == 200
        assert served.gateway.calls[-1].items == texts


BAD = {
    "no JSON": ("flowers", b"{", {}, 400, "invalid_request"),
    "empty": ("flowers", b"", {}, 400, "invalid_request"),
    "no inputs": ("flowers", {}, {}, 400, "invalid_request"),
    "unknown field": ("flowers", {"inputs": [[1, 2, 3]], "tip": 3}, {}, 400, "invalid_request"),
    "inputs twice": ("flowers", b'{"inputs": [[1, 2, 3]], "inputs" : [[1, 2, 4]]}', {}, 400, "invalid_request"),
    "top zero": ("flowers", {"inputs": [[1, 2, 3]], "top": 0}, {}, 400, "invalid_request"),
    "too short a row": ("flowers", {"inputs": [[1, 2]]}, {}, 400, "invalid_tensor"),
    "ragged": ("flowers", {"inputs": [[1, 2, 3], [1, 2]]}, {}, 400, "invalid_tensor"),
    "strings": ("flowers", {"inputs": [["1", "2", "3"]]}, {}, 400, "invalid_tensor"),
    "boolean": ("flowers", {"inputs": [[1, True, 3]]}, {}, 400, "invalid_tensor"),
    "overflow": ("flowers", {"inputs": [[1, 2, 1e39]]}, {}, 400, "invalid_tensor"),
    "missing feature": ("flowers", {"inputs": [{"r": 1, "g": 2}]}, {}, 400, "invalid_tensor"),
    "unknown feature": ("flowers", {"inputs": [{"r": 1, "g": 2, "b": 3, "a": 4}]}, {}, 400, "invalid_tensor"),
    "mixed rows": ("flowers", {"inputs": [{"r": 1, "g": 2, "b": 3}, [1, 2, 3]]}, {}, 400, "invalid_tensor"),
    "text as rows": ("flowers", {"inputs": "abc"}, {}, 400, "invalid_tensor"),
    "null": ("flowers", {"inputs": None}, {}, 400, "invalid_tensor"),
    "not base64": ("photos", {"inputs": ["%%%"]}, {}, 400, "invalid_tensor"),
    "empty image": ("photos", {"inputs": [""]}, {}, 400, "invalid_tensor"),
    "number among images": ("photos", {"inputs": ["aGk=", 3]}, {}, 400, "invalid_tensor"),
    "number as text": ("texts", {"inputs": ["a", 3]}, {}, 400, "invalid_tensor"),
    "no list of texts": ("texts", {"inputs": {}}, {}, 400, "invalid_tensor"),
    "too many rows": ("flowers", {"inputs": [[1, 2, 3]] * 10_001}, {}, 400, "invalid_request"),
    "too many rows with names": ("two", {"inputs": {"a": [[1, 2]] * 10_001, "b": [1] * 10_001}}, {}, 400, "invalid_request"),
    "too many texts": ("texts", {"inputs": ["a"] * 10_001}, {}, 400, "invalid_request"),
    "image for a text model": ("texts", PNG, {"Content-Type": "image/png"}, 400, "invalid_request"),
    "form for a model of rows": ("flowers", *form(("file", "a", b"x")), 400, "invalid_request"),
    "form without file": ("photos", *form(("top", None, b"1")), 400, "invalid_request"),
    "form with a strange field": ("photos", *form(("file", "a", b"x"), ("zip", None, b"1")), 400, "invalid_request"),
    "form with a strange file": ("photos", *form(("zip", "a", b"x")), 400, "invalid_request"),
    "truncated form": ("photos", *form(("file", "a", b"x"), ("file", "b", b"x"), end=b""), 400, "invalid_request"),
    "form without boundary": ("photos", b"x", {"Content-Type": "multipart/form-data"}, 400, "invalid_request"),
    "not UTF-8": ("texts", b"\xff", {"Content-Type": "text/plain"}, 400, "invalid_request"),
    "strange type": ("flowers", b"<a/>", {"Content-Type": "application/xml"}, 415, "unsupported_media_type"),
    "input by wrong name": ("two", {"inputs": {"a": [[1, 2]], "c": [1]}}, {}, 400, "invalid_tensor"),
    "input missing": ("two", {"inputs": {"a": [[1, 2]]}}, {}, 400, "invalid_tensor"),
    "no names": ("two", {"inputs": [[1, 2]]}, {}, 400, "invalid_tensor"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_understood_is_a_problem_with_a_code(served, case):
    model, body, headers, status, code = BAD[case]
    answer_status, answer_headers, answer = served.predict(model, body, headers)
    assert (answer_status, answer["code"]) == (status, code), answer
    assert answer_headers["content-type"] == "application/problem+json"
    assert answer["status"] == status
    assert answer["request_id"] == answer_headers["x-request-id"]
    assert answer["title"]
    assert answer["detail"]
    assert not served.gateway.calls


@pytest.mark.parametrize(
    ("model", "body", "named"),
    [
        ("flowers", b'{"inputs": [[1, NaN, 3]]}', "x"),
        ("flowers", b'{"inputs": [{"r": 1, "g": -Infinity, "b": 3}]}', "x"),
        ("two", b'{"inputs": {"b": [1], "a": [[NaN, 2]]}}', "a"),
    ],
)
def test_the_input_that_holds_nan_is_named(served, model, body, named):
    status, _, answer = served.predict(model, body)

    assert (status, answer["code"]) == (400, "invalid_tensor")
    assert answer["detail"].startswith(f"input '{named}': NaN and Infinity are not JSON numbers; send them to /v2")


@pytest.mark.parametrize(
    "body", [b'{"inputs": [[1, NaN, 3]', b'{"inputs": {"a": "NaN", "b": }}', b'{"inputs": [NaN], "top": 1']
)
def test_a_body_that_is_malformed_in_another_way_too_is_said_to_be(served, body):
    for model in ("flowers", "two"):
        assert served.predict(model, body)[2]["code"] == "invalid_request"


def test_a_feature_or_a_text_may_be_called_inputs(served):
    version = version_route([("x", "FP32", [-1, 1])], [("s", "FP32", [-1, 2])], labels=["a", "b"], features=["inputs"])
    served.gateway.models["named"] = model_route("named", version, task="tabular")

    assert served.predict("named", b'{"inputs": [{"inputs": 1}, {"inputs": 2}]}')[0] != 400
    assert served.predict("texts", b'{"inputs": ["\\"inputs\\": ", "\\"inputs\\":"]}')[0] == 200


def test_a_refusal_of_the_gateway_carries_its_source_and_when_to_come_back(served):
    served.gateway.fail_with = errors.RateLimited("10 per second", retry_after=1.2, source="key")
    status, headers, body = served.predict("flowers", {"inputs": [[1, 2, 3]]})
    assert (status, body["code"], body["limit_source"], headers["retry-after"]) == (429, "rate_limited", "key", "2")
    assert headers["ratelimit"] == '"key";r=999;t=1'
    assert headers["ratelimit-policy"] == '"key";q=1000;w=1'
    status, headers, body = served.infer("rows", {"inputs": [tensor()]})
    assert (status, body["code"], body["error"], headers["retry-after"]) == (429, "rate_limited", "10 per second", "2")


def test_request_ids_are_taken_made_and_logged(served):
    _, headers, _ = served.infer("rows", {"inputs": [tensor()]}, {"X-Request-Id": "my-id/1"})
    assert headers["x-request-id"] == "my-id/1"
    until(lambda: any(line["request_id"] == "my-id/1" for line in served.lines))
    for bad in ("a b", "a" * 129, "ä", ""):
        assert served.infer("rows", {"inputs": [tensor()]}, {"X-Request-Id": bad})[1]["x-request-id"] not in (bad, "")


def test_a_trace_goes_on(served):
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    returned = served.infer("rows", {"inputs": [tensor()]}, {"traceparent": given})[1]["traceparent"]
    assert returned.startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-")
    assert returned.endswith("-01")
    assert returned != given
    for bad in ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", "nonsense", given.replace("00-", "ff-", 1)):
        assert (
            "4bf92f3577b34da6a3ce929d0e0e4736"
            not in served.infer("rows", {"inputs": [tensor()]}, {"traceparent": bad})[1]["traceparent"]
        )


def test_a_deadline_can_be_asked_for(served):
    served.infer("rows", {"inputs": [tensor()]}, {"X-Request-Timeout": "0.5"})
    assert served.gateway.calls[-1].timeout == 0.5
    served.infer("rows", {"inputs": [tensor()]})
    assert served.gateway.calls[-1].timeout == 30.0
    for bad in ("0", "-1", "61", "nan", "1e1", "abc", ""):
        status, _, body = served.infer("rows", {"inputs": [tensor()]}, {"X-Request-Timeout": bad})
        assert (status, "X-Request-Timeout" in body["error"]) == (400, True), bad


def test_an_idempotency_key_replays_the_answer(served):
    first = served.infer("rows", {"id": "1", "inputs": [tensor()]}, {"Idempotency-Key": '"abc"'})
    again = served.infer("rows", {"id": "1", "inputs": [tensor()]}, {"Idempotency-Key": "abc"})
    assert again[2] == first[2]
    assert "idempotent-replayed" not in first[1]
    assert again[1]["idempotent-replayed"] == "true"
    assert again[1]["x-model-version"] == "1.0.0"
    status, _, body = served.infer("rows", {"id": "2", "inputs": [tensor()]}, {"Idempotency-Key": "abc"})
    assert (status, body["code"]) == (422, "idempotency_key_reused")
    for bad in ("a b", '"', '"a b"', '""', "a" * 256, "ä"):
        status, _, body = served.infer("rows", {"inputs": [tensor()]}, {"Idempotency-Key": bad})
        assert (status, "Idempotency-Key" in body["error"]) == (400, True), bad


def test_an_answer_says_what_it_cost_and_in_which_state_the_account_is(served):
    gateway = served.gateway
    gateway.price, gateway.cost_nano = Price(1, 0, "EUR", 120_000, 0, 0), 120_000
    _, told, _ = served.infer("rows", {"inputs": [tensor()]})
    assert told["x-maas-cost"] == "0.00012 EUR"
    assert "x-maas-account" not in told
    for state in ("past_due", "grace"):
        gateway.keys[KEY].terms.state = state
        assert served.infer("rows", {"inputs": [tensor()]})[1]["x-maas-account"] == state


def test_an_answer_says_what_is_left_of_budget_credit_and_included_calls(served):
    served.gateway.left, served.gateway.cost_nano = b"1500000000 - 7", 0
    for _, told, _ in (served.infer("rows", {"inputs": [tensor()]}), served.predict("flowers", {"inputs": [[1, 2, 5]]})):
        assert (told["x-maas-budget-left"], "x-maas-credit-left" in told) == ("1.50 USD", False)
        assert told["x-maas-included-left"] == "7"


def test_a_refusal_by_a_cap_names_it_in_both_dialects(served):
    cap = {"name": "budget", "limit": "5.00", "left": "0.25", "resets_at": "2027-01-01T00:00:00Z", "currency": "USD"}
    served.gateway.fail_with = errors.BudgetExceeded("too little is left", source="key", retry_after=60, cap=cap)
    for status, told, body in (
        served.infer("rows", {"inputs": [tensor()]}),
        served.predict("flowers", {"inputs": [[1, 2, 5]]}),
    ):
        assert (status, body["code"], body["cap"], body["limit_source"]) == (402, "budget_exceeded", cap, "key")
        assert told["retry-after"] == "60"


def test_a_refusal_says_no_cost(served):
    served.gateway.fail_with = errors.PriceMissing("no price")
    for status, told, body in (
        served.infer("rows", {"inputs": [tensor()]}),
        served.predict("flowers", {"inputs": [[1, 2, 5]]}),
    ):
        assert (status, body["code"]) == (402, "price_missing")
        assert "x-maas-cost" not in told


def test_a_quote_is_read_or_refused(served):
    quote = Quote("q", "a" * 32, "e" * 32, Price(1, 0, "USD", 1, 0, 0), 2**50)
    assert served.infer("rows", {"inputs": [tensor()]}, {"X-Maas-Quote": quotes.sign(quote)})[0] == 200
    assert served.gateway.calls[-1].quote == quote
    for bad in ("", "x", "ä", "A" * 2000, quotes.sign(quote)[:-2]):
        status, _, body = served.infer("rows", {"inputs": [tensor()]}, {"X-Maas-Quote": bad})
        assert (status, body["code"]) == (422, "quote_invalid"), bad


def test_the_log_has_one_line_per_request_and_no_secret(served):
    served.infer("rows", {"inputs": [tensor(shape=(2, 4), data=[77125.5] * 8)]}, {"X-Request-Id": "logged"})
    until(lambda: any(line["request_id"] == "logged" for line in served.lines))
    line = next(line for line in served.lines if line["request_id"] == "logged")
    assert line["time"].endswith("Z")
    assert line["total_ms"] > 0
    expected = {
        "organization": "alice", "key": "alice0000000", "model": "alice/rows", "version": "1.0.0", "route": "infer",
        "status": 200, "code": "", "rows": 2, "queue_ms": 0.12, "compute_ms": 0.045,
    }  # fmt: skip
    assert {name: line[name] for name in expected} == expected
    assert "maas_" not in json.dumps(served.lines)
    assert "77125.5" not in json.dumps(line)


def test_metrics_count_requests(served):
    from inference.gateway.metrics import render

    served.infer("rows", {"inputs": [tensor()]})
    text = render(list(served.front.metrics.collect())).decode()
    assert 'http_requests_total{code="",method="POST"' in text
    assert 'http_request_duration_seconds_bucket{le="+Inf"' in text
    assert "maas_rows_total" in text


@pytest.fixture(scope="module")
def spacious():
    with Served(body_max=4 << 20) as served:
        yield served


@pytest.mark.parametrize("row", [lambda n: [1, 2, n + 3], lambda n: {"b": n + 3, "r": 1, "g": 2}])
def test_a_large_body_is_read_in_pieces_with_the_same_answer(spacious, row):
    body = json.dumps({"inputs": [row(n) for n in range(10_000)]}, indent=4).encode()
    assert len(body) > weight.LIGHT
    status, _, answer = spacious.predict("flowers", body)
    assert status == 200
    assert answer["predictions"] == [{"label": "blue", "confidence": n + 3.0} for n in range(10_000)]


def test_a_large_body_with_too_many_rows_names_the_limit_and_the_way_out(spacious):
    for model, inputs in (("flowers", [[1, 2, 3]] * 100_000), ("two", {"a": [[1, 2]] * 100_000, "b": [1] * 100_000})):
        status, _, answer = spacious.predict(model, {"inputs": inputs})
        assert (status, answer["code"]) == (400, "invalid_request")
        assert "10000" in answer["detail"]
        assert "/v2" in answer["detail"]


def test_a_large_body_that_is_no_request_is_a_problem(spacious):
    for body in (b'{"inputs": [' + b"[1, 2, 3]," * 50_000, b"[" * 400_000):
        assert spacious.predict("flowers", body)[2]["code"] == "invalid_request"
    assert spacious.predict("flowers", b'{"inputs": ' + b" " * 300_000 + b"[[1, 2, NaN]]}")[2]["code"] == "invalid_tensor"


def test_one_large_row_of_numbers_is_one_row(spacious):
    assert len(spacious.predict("dynamic", {"inputs": [[0.5] * 120_000]})[2]["predictions"][0]) == 120_000
    assert len(spacious.predict("dynamic", {"inputs": [0.5] * 120_000})[2]["predictions"][0]) == 120_000


def test_so_many_labels_are_not_shown(spacious):
    spacious.gateway.models["wide"] = model_route(
        "wide", version_route([("x", "FP32", [-1, 1])], [("s", "FP32", [-1, 1])], labels=[f"{n}" for n in range(1000)])
    )
    status, _, answer = spacious.predict("wide", {"inputs": [[1]] * 101, "top": 1000})
    assert (status, answer["code"]) == (400, "invalid_request")
    assert "100000" in answer["detail"]
