"""POST and GET /api/v1/models/{model}/versions."""

import hashlib


from tests.inference.intake.onnx_models import linear


def test_an_uploaded_model_becomes_production_once_intake_has_proved_it(client_of, alice, upload, judge):
    client = client_of(alice)
    client.post("/api/v1/models", {"name": "iris", "task": "tabular"}, format="json")

    answer = upload(client, "iris")

    assert answer.status_code == 202, answer.content
    body = answer.json()
    assert (body["model"], body["version"], body["state"], body["verdict"]) == ("iris", "1.0.0", "validating", None)
    assert body["digest"] == hashlib.sha256(linear()).hexdigest()
    judge(alice.organization)
    body = client.get("/api/v1/models/iris/versions/production").json()
    assert (body["version"], body["state"], body["aliases"]) == ("1.0.0", "ready", ["production"])
    assert body["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert body["verdict"]["batching"]["is_batchable"] is True
