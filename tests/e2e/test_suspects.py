"""A catalogue model that one customer's ordinary call ends its process with: what the others notice of it, and for how long."""

import secrets
import threading
import time

import numpy as np
import pytest
import requests
from onnx import TensorProto, helper, numpy_helper

from inference.suspects import SUSPECTS
from tests.e2e.customers import Customer, model_bytes
from tests.waiting import until

pytestmark = [pytest.mark.no_servers, pytest.mark.timeout(300)]
KILLS = 5


def quotient_of_less() -> bytes:
    """y = a / (b - 12), int64: intake cannot know that b must not be 11."""
    return model_bytes(
        [helper.make_node("Sub", ["b", "twelve"], ["c"]), helper.make_node("Div", ["a", "c"], ["y"])],
        [("a", TensorProto.INT64, ["n", 1]), ("b", TensorProto.INT64, ["n", 1])],
        [("y", TensorProto.INT64, ["n", 1])],
        initializers=[numpy_helper.from_array(np.array(12), "twelve")],
    )


@pytest.fixture(scope="module")
def killer(service, tmp_path_factory):
    """Its name in the catalogue."""
    name = f"less-{secrets.token_hex(4)}"
    file = tmp_path_factory.mktemp("killer") / "model.onnx"
    file.write_bytes(quotient_of_less())
    service.manage("publish", str(file), "--name", name)
    service.manage("set_price", f"catalog/{name}", "--call", "0", "--first", "--reason", "test")
    yield name
    service.lanes().delete(SUSPECTS)


def quotient(service, key, name, a, b):
    inputs = [{"name": each, "shape": [1, 1], "datatype": "INT64", "data": [value]} for each, value in (("a", a), ("b", b))]
    headers = {"Authorization": f"Bearer {key}", "X-Request-Timeout": "60"}
    return requests.post(f"{service.base_url}/v2/models/{name}/infer", json={"inputs": inputs}, headers=headers, timeout=70)


class Bystander(threading.Thread):
    """Calls iris again and again, and keeps the statuses."""

    def __init__(self, service, key):
        super().__init__()
        self.service, self.key, self.statuses, self.is_over = service, key, [], False

    def run(self):
        body = {"inputs": [[5.1, 3.5, 1.4, 0.2]]}
        headers = {"Authorization": f"Bearer {self.key}", "X-Request-Timeout": "60"}
        url = f"{self.service.base_url}/api/v1/models/iris/predict"
        while not self.is_over:
            self.statuses.append(requests.post(url, json=body, headers=headers, timeout=70).status_code)
            time.sleep(0.02)  # what a client does between two calls


def test_a_call_that_kills_the_worker_does_so_once_and_all_others_are_answered(service, killer, record_property):
    key = Customer(service).unlimited().key()
    bystanders = [Bystander(service, service.api_key) for _ in range(4)]
    assert quotient(service, key, killer, 8, 14).json()["outputs"][0]["data"] == [4]
    before = service.process("worker")
    for each in bystanders:
        each.start()
    try:
        began = time.monotonic()
        answers = [quotient(service, key, killer, -(2**63), 11)]
        record_property("seconds of the first killing call", round(time.monotonic() - began, 1))
        successor, heard = service.process("worker"), [len(each.statuses) for each in bystanders]
        answers += [quotient(service, key, killer, -(2**63), 11) for _ in range(KILLS - 1)]
        assert quotient(service, key, killer, 8, 14).json()["outputs"][0]["data"] == [4]
        until(lambda: all(len(each.statuses) > count for each, count in zip(bystanders, heard, strict=True)))
    finally:
        for each in bystanders:
            each.is_over = True
        for each in bystanders:
            each.join()

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(500, "model_failed")] * KILLS
    assert before != successor == service.process("worker")
    assert {status for each in bystanders for status in each.statuses} == {200}
    assert len(service.lanes().zrange(SUSPECTS, 0, -1)) >= 1
