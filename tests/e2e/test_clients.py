"""Clients that we did not write, against the running platform: their answers are onnxruntime's own."""

import asyncio
import base64
import itertools
import json
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from onnx import helper
from PIL import Image
from tokenizers import Tokenizer
from tritonclient.utils import InferenceServerException

from tests.e2e import models
from tests.e2e.customers import Customer, model_bytes
from tests.e2e.models import BOOL, FLOAT, HALF, INT64, Own, assert_same, slow_body
from tests.e2e.test_exactness import settled
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.no_servers, pytest.mark.timeout(180)]

EXAMPLES = Path(__file__).parents[2] / "examples"
PIXELS = EXAMPLES / "digits" / "sample.png"
TEXTS = ["Guten Morgen, wie geht es dir heute?", "今日はいい天気ですね、散歩しましょう。"]
IRIS = np.array([[5.1, 3.5, 1.4, 0.2], [5.9, 2.8, 4.3, 1.3], [6.9, 3.1, 5.8, 2.2]], "f4")

ARTIFACTS = {
    "several": models.several(),
    "texts": models.texts(),
    "half": models.one_operator("Mul", HALF, ["n", 3], None, np.array([0.5, 2, -3], "f2")),
    "whole": models.one_operator("Add", INT64, ["n", 2], None, np.array([1, -1])),
    "flags": models.one_operator("Not", BOOL, ["n", 2]),
    "matrix": models.one_operator("MatMul", FLOAT, [2, 3], [2, 2], np.arange(6, dtype="f4").reshape(3, 2)),
    "scalar": models.one_operator("Sqrt", FLOAT, []),
    "dynamic": models.dynamic(),
    "logarithm": models.one_operator("Log", FLOAT, ["n"]),
    "slow": models.slow(),
}
WORDS = np.array([["größe", ""], ["same", "same"]], object)
CASES = {
    "several": {"a": np.array([[1.5, -2], [0, 3e-3]], "f4"), "b": np.array([4, -5])},
    "several, no rows": {"a": np.zeros((0, 2), "f4"), "b": np.zeros(0, "i8")},
    "texts": {"words": WORDS},
    "texts, no rows": {"words": WORDS[:0]},
    "half": {"x": np.array([[0.5, -1.25, 3e-4]], "f2")},
    "half, no rows": {"x": np.zeros((0, 3), "f2")},
    "whole": {"x": np.array([[2**53 + 1, -(2**62)], [0, 7]])},
    "whole, no rows": {"x": np.zeros((0, 2), "i8")},
    "flags": {"x": np.array([[True, False], [False, False]])},
    "matrix": {"x": np.arange(6, dtype="f4").reshape(2, 3) / 7},
    "scalar": {"x": np.array(2, "f4")},
    "dynamic, narrow": {"x": np.array([[0.5]], "f4")},
    "dynamic, wide": {"x": np.random.default_rng(3).normal(size=(5, 33)).astype("f4")},
    "dynamic, no rows": {"x": np.zeros((0, 4), "f4")},
    "iris": {"measurements": IRIS},
    "iris, no rows": {"measurements": IRIS[:0]},
    "digits": {"image": np.random.default_rng(4).uniform(0, 16, (3, 1, 8, 8)).astype("f4")},
    "language": {"input_ids": np.random.default_rng(5).integers(0, 60, (2, 256))},
}


@pytest.fixture(scope="module")
def alice(service):
    return Customer(service).unlimited()


@pytest.fixture(scope="module")
def key(alice):
    """Alice's key; her models are there."""
    with ThreadPoolExecutor(2) as threads:  # as many uploads as an organization may send at a time
        list(threads.map(alice.upload, ARTIFACTS, ARTIFACTS.values()))
    return alice.key()


@pytest.fixture(scope="module")
def own():
    """own[model](input=array) → onnxruntime's outputs."""
    catalogue = {name: (EXAMPLES / name / "model.onnx").read_bytes() for name in ("iris", "digits", "language")}
    return {name: Own(artifact) for name, artifact in (ARTIFACTS | catalogue).items()}


@pytest.fixture
def client(service):
    client = triton.InferenceServerClient(service.base_url.removeprefix("http://"))
    yield client
    client.close()


def bearer(key, **more):
    """Made anew for each call: tritonclient adds its own to the dictionary that it is given."""
    return {"Authorization": f"Bearer {key}", **more}


def infer_inputs(feed, own, *, is_binary, module=triton):
    given = []
    for name, array in feed.items():
        given.append(module.InferInput(name, list(array.shape), own.inputs[name]))
        given[-1].set_data_from_numpy(array, binary_data=is_binary)
    return given


@pytest.mark.parametrize(
    ("case", "is_binary_in", "is_binary_out"),
    [
        (case, is_binary_in, is_binary_out)
        for case, is_binary_in, is_binary_out in itertools.product(CASES, (True, False), (True, False))
        if not case.startswith("half") or (is_binary_in and is_binary_out)  # tritonclient has FP16 in binary only
    ],
)
def test_tritonclient_gets_onnxruntimes_own_answers(client, key, own, case, is_binary_in, is_binary_out):
    model, feed = case.partition(",")[0], CASES[case]
    outputs = [triton.InferRequestedOutput(name, binary_data=is_binary_out) for name in own[model].outputs]
    inputs = infer_inputs(feed, own[model], is_binary=is_binary_in)

    answer = client.infer(model, inputs, outputs=outputs, request_id="an id", headers=bearer(key))

    assert answer.get_response()["id"] == "an id"
    for name, expected in own[model](**feed).items():
        assert_same(answer.as_numpy(name), expected)


@pytest.mark.parametrize("case", CASES)
def test_requests_gets_onnxruntimes_own_answers(service, key, own, case):
    model, feed = case.partition(",")[0], CASES[case]
    inputs = [
        {"name": name, "shape": array.shape, "datatype": own[model].inputs[name], "data": array.tolist()}
        for name, array in feed.items()
    ]

    answer = requests.post(
        f"{service.base_url}/v2/models/{model}/infer", json={"inputs": inputs}, headers=bearer(key), timeout=PATIENCE
    )

    assert answer.status_code == 200, answer.text
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    for name, expected in own[model](**feed).items():
        assert outputs[name]["datatype"] == own[model].outputs[name]
        assert_same(np.array(outputs[name]["data"], expected.dtype).reshape(outputs[name]["shape"]), expected)


def test_the_asyncio_client_gets_onnxruntimes_own_answers(service, key, own):
    feed = CASES["several"]

    async def call():
        async with triton_aio.InferenceServerClient(service.base_url.removeprefix("http://")) as client:
            inputs = infer_inputs(feed, own["several"], is_binary=True, module=triton_aio)
            return await asyncio.gather(*(client.infer("several", inputs, headers=bearer(key)) for _ in range(5)))

    for answer in asyncio.run(call()):
        for name, expected in own["several"](**feed).items():
            assert_same(answer.as_numpy(name), expected)


def test_only_requested_outputs_are_answered_and_each_in_its_own_form(client, key, own):
    feed = CASES["several"]
    outputs = [
        triton.InferRequestedOutput("twice", binary_data=False),
        triton.InferRequestedOutput("total", binary_data=True),
    ]

    answer = client.infer("several", infer_inputs(feed, own["several"], is_binary=True), outputs=outputs, headers=bearer(key))

    assert answer.as_numpy("is_positive") is None
    assert [output["name"] for output in answer.get_response()["outputs"] if "data" in output] == ["twice"]
    for name in ("twice", "total"):
        assert_same(answer.as_numpy(name), own["several"](**feed)[name])


# --- friendly calls


def predict(service, key, model, **options):
    answer = requests.post(
        f"{service.base_url}/api/v1/models/{model}/predict", headers=bearer(key), timeout=PATIENCE, **options
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def manifest(name):
    return json.loads((EXAMPLES / name / "manifest.json").read_text())


def assert_best(predictions, labels, probabilities):
    """Each prediction is the best label of its row, (n, labels), with its probability."""
    assert [each["label"] for each in predictions] == [labels[column] for column in probabilities.argmax(axis=1)]
    np.testing.assert_allclose([each["confidence"] for each in predictions], probabilities.max(axis=1), atol=1e-5)


def test_rows_in_species_out(service, key, own):
    expected = own["iris"](measurements=IRIS)["probabilities"]
    objects = [dict(zip(manifest("iris")["features"], row, strict=True)) for row in IRIS.tolist()]

    for inputs in (IRIS.tolist(), objects):
        predictions = predict(service, key, "iris", json={"inputs": inputs, "top": 3})
        assert_best(predictions, manifest("iris")["labels"], expected)
        np.testing.assert_allclose([e["confidence"] for e in predictions[1]["top"]], sorted(expected[1])[::-1], atol=1e-5)


def test_an_image_in_a_digit_out(service, key, own):
    image = Image.open(PIXELS).convert("L").resize((8, 8), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, "f4")[None, None] * np.float32(16 / 255)
    expected = own["digits"](image=pixels)["probabilities"]

    ways = [
        {"json": {"inputs": [base64.b64encode(PIXELS.read_bytes()).decode()]}},
        {"files": {"file": PIXELS.open("rb")}},
        {"data": PIXELS.read_bytes()},
        {"json": {"inputs": pixels.tolist()}},
        {"json": {"inputs": pixels[:, 0].tolist()}},
    ]
    for way in ways:
        if isinstance(way.get("data"), bytes):
            url = f"{service.base_url}/api/v1/models/digits/predict"
            answer = requests.post(url, headers=bearer(key, **{"Content-Type": "image/png"}), timeout=PATIENCE, **way).json()
            assert_best(answer["predictions"], manifest("digits")["labels"], expected)
        else:
            assert_best(predict(service, key, "digits", **way), manifest("digits")["labels"], expected)
    ways[1]["files"]["file"].close()


def test_text_in_language_out(service, key, own):
    tokenizer = Tokenizer.from_str(json.dumps(manifest("language")["tokenizer"]))
    ids = np.array([encoding.ids for encoding in tokenizer.encode_batch(TEXTS)])
    expected = own["language"](input_ids=ids)["probabilities"]

    predictions = predict(service, key, "language", json={"inputs": TEXTS})

    assert_best(predictions, manifest("language")["labels"], expected)
    assert [each["label"] for each in predictions] == ["de", "ja"]


def test_an_uploaded_model_answers_rows_with_rows(service, key, own):
    x = CASES["dynamic, wide"]["x"]

    answer = predict(service, key, "half", json={"inputs": [[0.5, 1, 2]]})
    assert_same(np.array(answer), own["half"](x=np.array([[0.5, 1, 2]], "f2"))["y"])
    answer = predict(service, key, "dynamic", json={"inputs": x.tolist()})
    assert_same(np.array(answer["shares"]), own["dynamic"](x=x)["shares"])


# --- curl


def curl(service, key, path, *options):
    """(status, body) of what curl got."""
    command = ["curl", "-sS", "-w", "\n%{http_code}", "-H", f"Authorization: Bearer {key}", service.base_url + path, *options]
    body, _, status = subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE).stdout.rpartition(b"\n")
    return int(status), body


def test_curl_calls_as_the_documentation_shows(service, key, own):
    expected = own["iris"](measurements=IRIS[:1])["probabilities"]
    status, body = curl(service, key, "/api/v1/models/iris/predict", "-d", json.dumps({"inputs": IRIS[:1].tolist()}))
    assert status == 200
    assert_best(json.loads(body)["predictions"], manifest("iris")["labels"], expected)

    status, body = curl(service, key, "/api/v1/models/digits/predict", "-F", f"file=@{PIXELS}", "-F", "top=2")
    assert (status, len(json.loads(body)["predictions"][0]["top"])) == (200, 2)


def test_curl_sends_binary_tensors(service, key, own, tmp_path):
    x = CASES["dynamic, wide"]["x"]
    head = {
        "inputs": [{"name": "x", "shape": x.shape, "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}],
        "outputs": [{"name": "sums", "parameters": {"binary_data": True}}],
    }
    length = len(json.dumps(head))
    (tmp_path / "body").write_bytes(json.dumps(head).encode() + x.tobytes())
    options = ["--data-binary", f"@{tmp_path}/body", "-H", f"Inference-Header-Content-Length: {length}"]

    status, body = curl(service, key, "/v2/models/dynamic/infer", *options, "-H", "Content-Type: application/octet-stream")

    assert status == 200
    assert_same(np.frombuffer(body[-4 * len(x) :], "<f4"), own["dynamic"](x=x)["sums"])


# --- names, versions, aliases


@pytest.fixture(scope="module")
def ladder(alice, key):
    """A model with two ready versions: 1.0.0 (production) gives 2x, 1.0.1 gives 3x."""
    for factor in (2, 3):
        alice.upload("ladder", models.scaled(factor))
    return "ladder"


def ladder_answer(service, key, path="ladder"):
    """(factor, X-Model-Version)."""
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 10]}]}
    answer = requests.post(f"{service.base_url}/v2/models/{path}/infer", json=body, headers=bearer(key), timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model_version"] == answer.headers["X-Model-Version"]
    return answer.json()["outputs"][0]["data"][0], answer.headers["X-Model-Version"]


def test_a_model_is_called_by_name_owner_version_and_alias(service, alice, key, ladder, client):
    assert ladder_answer(service, key) == (2, "1.0.0")
    assert ladder_answer(service, key, f"{alice.slug}/ladder") == (2, "1.0.0")
    assert ladder_answer(service, key, "ladder/versions/1.0.1") == (3, "1.0.1")
    assert ladder_answer(service, key, f"{alice.slug}/ladder/versions/production") == (2, "1.0.0")
    assert predict(service, key, "catalog/iris/versions/1.0.0", json={"inputs": IRIS[:1].tolist()})
    assert client.get_model_metadata("ladder", "1.0.1", headers=bearer(key))["versions"] == ["1.0.0", "1.0.1"]
    assert client.is_model_ready("ladder", "production", headers=bearer(key))
    with pytest.raises(InferenceServerException, match="no version or alias 9"):
        client.get_model_metadata("ladder", "9.9.9", headers=bearer(key))


def test_an_alias_is_promoted_and_rolled_back_under_calls(service, alice, key, ladder):
    """Every answer is of one of both versions, and each that is asked for after the move's answer is of the new one."""
    stop, seen = threading.Event(), []

    def call_on():
        while not stop.is_set():
            seen.append(ladder_answer(service, key))

    callers = [threading.Thread(target=call_on) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        until(lambda: len(seen) > 3)
        url = f"{service.base_url}/api/v1/models/ladder/aliases/production"
        for _ in range(10):
            moved = requests.put(url, json={"version": "1.0.1"}, headers=alice.session, timeout=PATIENCE)
            assert moved.status_code == 200, moved.text
            assert ladder_answer(service, key) == (3, "1.0.1")
            back = requests.post(f"{url}/rollback", headers=alice.session, timeout=PATIENCE)
            assert back.json()["version"] == "1.0.0"
            assert ladder_answer(service, key) == (2, "1.0.0")
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert set(seen) <= {(2, "1.0.0"), (3, "1.0.1")}


def test_the_repository_index_shows_what_the_key_may_see(service, alice, key, client):
    limited = alice.key(models=["several", "catalog/iris"])
    stranger = Customer(service).key()

    def index(key):
        return {model["name"]: model["state"] for model in client.get_model_repository_index(headers=bearer(key))}

    everything = index(key)
    assert set(ARTIFACTS) | {"catalog/iris", "catalog/digits", "catalog/language"} <= set(everything)
    assert set(everything.values()) == {"READY"}
    assert index(limited) == {"several": "READY", "catalog/iris": "READY"}
    assert not set(ARTIFACTS) & set(index(stranger))
    with pytest.raises(InferenceServerException):
        client.get_model_metadata(f"{alice.slug}/several", headers=bearer(stranger))


def test_a_rejected_upload_says_why_and_cannot_be_called(alice, key, service):
    artifact = model_bytes([helper.make_node("Reshape", ["x", "shape"], ["y"])],
                           [("x", FLOAT, ["n", 2]), ("shape", INT64, [1])], [("y", FLOAT, ["m"])])  # fmt: skip
    broken = artifact.replace(b"Reshape", b"Reshapf")

    version = alice.upload("broken", broken, state="rejected")

    assert version["verdict"]["result"] == "rejected"
    assert version["verdict"]["code"] in ("load_failed", "operator_domain", "not_onnx"), version
    assert "Reshapf" in json.dumps(version["verdict"])
    url = f"{service.base_url}/v2/models/broken/versions/{version['version']}/infer"
    answer = requests.post(url, json={"inputs": []}, headers=bearer(key), timeout=PATIENCE)
    assert (answer.status_code, answer.json()["code"]) == (409, "state_conflict")
    answer = requests.post(
        f"{service.base_url}/v2/models/broken/infer", json={"inputs": []}, headers=bearer(key), timeout=PATIENCE
    )
    assert answer.status_code == 404


# --- what may happen to a call


def rows_of(alice, *requests_):
    """The ledger's rows of these request ids, once nothing is on its way any more: request id → [(kind, mode)]."""
    rows = settled(alice.service, [alice])
    return {wanted: [(kind, mode) for request, kind, mode in rows if request == wanted] for wanted in requests_}


def test_numbers_that_json_cannot_carry_are_refused_there_and_carried_in_binary(service, alice, key, client, own):
    body = {"inputs": [{"name": "x", "shape": [3], "datatype": "FP32", "data": [-1, 0, 1]}]}
    url = f"{service.base_url}/v2/models/logarithm/infer"
    refused = requests.post(url, json=body, headers=bearer(key, **{"X-Request-Id": "nan-json"}), timeout=PATIENCE)
    assert (refused.status_code, refused.json()["code"]) == (422, "output_not_finite")

    x = np.array([-1, 0, 1], "f4")
    inputs = infer_inputs({"x": x}, own["logarithm"], is_binary=True)
    answer = client.infer("logarithm", inputs, headers=bearer(key, **{"X-Request-Id": "nan-binary"}))

    np.testing.assert_array_equal(answer.as_numpy("y"), [np.nan, -np.inf, 0])
    assert rows_of(alice, "nan-json", "nan-binary") == {"nan-json": [], "nan-binary": [("usage", "live")]}


def test_an_idempotency_key_replays_once_charged(service, alice, key):
    url = f"{service.base_url}/api/v1/models/iris/predict"

    def call(request_id, row, again="once"):
        headers = bearer(key, **{"Idempotency-Key": again, "X-Request-Id": request_id})
        return requests.post(url, json={"inputs": [row]}, headers=headers, timeout=PATIENCE)

    first, second = (call(f"idempotent-{number}", IRIS[0].tolist()) for number in (1, 2))
    other = call("idempotent-3", IRIS[1].tolist())

    assert (first.status_code, second.status_code, other.status_code) == (200, 200, 422)
    assert second.content == first.content
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert other.json()["code"] == "idempotency_key_reused"
    charged = rows_of(alice, "idempotent-1", "idempotent-2", "idempotent-3")
    assert charged == {"idempotent-1": [("usage", "live")], "idempotent-2": [], "idempotent-3": []}


def infer_slow(service, key, rounds, **headers):
    url = f"{service.base_url}/v2/models/slow/infer"
    return requests.post(url, json=slow_body(rounds), headers=bearer(key, **headers), timeout=PATIENCE)


def test_a_second_request_with_the_key_of_a_running_one_is_told_so(service, key):
    headers = {"Idempotency-Key": "twice at once"[:5], "X-Request-Timeout": "60"}
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(infer_slow, service, key, 1_000_000, **headers)
        statuses = []
        while not first.done():
            statuses.append(infer_slow(service, key, 1_000_000, **headers).status_code)
            time.sleep(0.02)
    assert first.result().status_code in (200, 409)
    assert set(statuses) <= {200, 409}
    assert 409 in [*statuses, first.result().status_code]


def test_a_passed_deadline_is_504_and_costs_nothing(service, alice, key):
    assert infer_slow(service, key, 3).json()["outputs"][0]["data"] == [-3.0]
    late = infer_slow(service, key, 4_000_000, **{"X-Request-Timeout": "0.2", "X-Request-Id": "too-late"})
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    assert rows_of(alice, "too-late") == {"too-late": []}


def test_a_revoked_key_stops(service, alice):
    key = alice.key()
    assert predict(service, key, "iris", json={"inputs": IRIS[:1].tolist()})
    shown = next(each["id"] for each in alice.get("keys").json()["results"] if key.startswith(each["prefix"]))

    url = f"{service.base_url}/api/v1/keys/{shown}"
    assert requests.delete(url, headers=alice.session, timeout=PATIENCE).status_code == 204

    url = f"{service.base_url}/api/v1/models/iris/predict"
    body = {"inputs": [[1, 2, 3, 4]]}
    until(lambda: requests.post(url, json=body, headers=bearer(key), timeout=PATIENCE).status_code == 401)
    assert requests.get(f"{service.base_url}/api/v1/models", headers=bearer(key), timeout=PATIENCE).status_code == 401


def test_the_months_calls_of_a_key_end(service, alice):
    key = alice.key(limits={"monthly_calls": 2})
    url = f"{service.base_url}/api/v1/models/iris/predict"

    answers = [requests.post(url, json={"inputs": [IRIS[0].tolist()]}, headers=bearer(key), timeout=PATIENCE) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert (answers[2].json()["code"], answers[2].json()["limit_source"]) == ("quota_exceeded", "key")
    assert int(answers[2].headers["Retry-After"]) > 0
    left = requests.get(f"{service.base_url}/api/v1/limits", headers=bearer(key), timeout=PATIENCE).json()["key"][
        "monthly_calls"
    ]
    assert (left["limit"], left["used"], left["left"]) == (2, 2, 0)


def test_calls_of_a_test_key_are_recorded_as_such(service, alice):
    key = alice.key(mode="test")
    url = f"{service.base_url}/api/v1/models/iris/predict"
    headers = bearer(key, **{"X-Request-Id": "as-a-test"})

    assert requests.post(url, json={"inputs": IRIS.tolist()}, headers=headers, timeout=PATIENCE).status_code == 200

    assert key.startswith("maas_test_")
    assert rows_of(alice, "as-a-test") == {"as-a-test": [("usage", "test")]}


@pytest.mark.parametrize(("name", "sample"), [("digits", "image"), ("language", "Wo ist der nächste Bahnhof, bitte?")])
def test_a_customers_own_image_and_text_models_prepare_their_inputs_in_its_own_process(service, alice, name, sample):
    folder = EXAMPLES / name
    alice.upload(f"own-{name}", (folder / "model.onnx").read_bytes(), json.loads((folder / "manifest.json").read_text()))
    if sample == "image":
        sample = base64.b64encode((folder / "sample.png").read_bytes()).decode()
    url, headers = f"{service.base_url}/api/v1/models/own-{name}/predict", bearer(alice.key())

    answer = requests.post(url, json={"inputs": [sample]}, headers=headers, timeout=PATIENCE)

    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"][0]["label"] == {"digits": "2", "language": "de"}[name]
