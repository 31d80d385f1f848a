"""POST and GET /api/v1/models/{model}/versions, GET and DELETE …/versions/{version or alias}."""

import hashlib
import io
import json
import threading

import pytest
from django.conf import settings

from inference.api.upload import FORM_BYTES
from saas.lib.errors import ArtifactTooLarge, PayloadTooLarge
from tenants.actions import set_organization_limits
from tenants.models import AuditEvent
from tenants.scope import tenant_scope
from tests.inference.intake.onnx_models import linear, one
from tests.racing import one_wins


@pytest.fixture
def model(client_of, alice):
    client = client_of(alice)
    client.post("/api/v1/models", {"name": "iris"}, format="json")
    return client


def quarantined():
    from inference import artifacts

    return sorted(artifacts.quarantine().iterdir())


def test_an_uploaded_model_becomes_production_once_intake_has_proved_it(model, alice, upload, judge):
    answer = upload(model, "iris")

    assert answer.status_code == 202, answer.content
    body = answer.json()
    assert body["id"].startswith("ver_")
    assert (body["model"], body["version"], body["state"], body["verdict"]) == ("iris", "1.0.0", "validating", None)
    assert body["digest"] == hashlib.sha256(linear()).hexdigest()
    assert answer["Location"].endswith("/api/v1/models/iris/versions/1.0.0")
    assert model.get("/api/v1/models/iris/versions/production").status_code == 404
    assert judge(alice.organization) == [True]
    body = model.get("/api/v1/models/iris/versions/production").json()
    assert (body["version"], body["state"], body["aliases"]) == ("1.0.0", "ready", ["production"])
    assert body["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert body["verdict"]["result"] == "ready"
    assert body["verdict"]["batching"]["is_batchable"] is True
    assert body["verdict"]["signature"]["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]
    assert model.get("/api/v1/models/iris").json()["aliases"] == {"production": "1.0.0"}


def test_a_second_ready_version_waits_to_be_promoted(model, alice, upload, judge):
    upload(model, "iris")
    upload(model, "iris", artifact=linear(seed=1))
    judge(alice.organization)

    versions = model.get("/api/v1/models/iris/versions").json()["results"]

    assert [(version["version"], version["state"], version["aliases"]) for version in versions] == [
        ("1.0.1", "ready", []),
        ("1.0.0", "ready", ["production"]),
    ]


def test_a_rejected_version_says_which_rule_which_node_and_what_was_found(model, alice, upload, judge):
    upload(model, "iris", artifact=one("Nonsense"))
    judge(alice.organization)

    verdict = model.get("/api/v1/models/iris/versions/1.0.0").json()["verdict"]

    assert (verdict["result"], verdict["code"]) == ("rejected", "load_failed")
    assert "Nonsense" in verdict["detail"]
    assert verdict["rule"]
    assert verdict["measured"]["nodes"] == 1
    assert model.get("/api/v1/models/iris").json()["aliases"] == {}
    upload(model, "iris")
    judge(alice.organization)
    assert model.get("/api/v1/models/iris").json()["aliases"] == {"production": "1.0.1"}


@pytest.mark.parametrize(
    ("manifest", "field", "expected"),
    [
        ({"version": "2.1.0"}, None, "2.1.0"),
        ({"version": "2.1.0"}, "3.0.0", "3.0.0"),
        (None, "0.0.1", "0.0.1"),
        ({}, None, "1.0.0"),
    ],
)
def test_the_number_is_the_forms_or_the_manifests_or_the_next(model, upload, manifest, field, expected):
    assert upload(model, "iris", manifest=manifest, version=field).json()["version"] == expected


def test_the_next_number_follows_the_highest_not_the_latest(model, upload):
    for asked, given in ((("1.9.0"), "1.9.0"), ("1.10.3", "1.10.3"), ("1.2.0", "1.2.0"), (None, "1.10.4")):
        assert upload(model, "iris", version=asked).json()["version"] == given


@pytest.mark.parametrize(
    "number", ["1", "1.0", "v1.0.0", "1.0.0-rc1", "01.0.0", "1.0.1000000000", "1.0.-1", "production", "¹.0.0"]
)
def test_a_number_is_three_numbers(model, upload, number):
    answer = upload(model, "iris", version=number)

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert answer.json()["errors"][0]["field"] == "version"
    assert quarantined() == []


def test_a_number_is_used_once_even_by_a_deleted_version(model, upload, artifacts_folder, alice):
    assert upload(model, "iris", version="1.0.0").status_code == 202
    again = upload(model, "iris", version="1.0.0", artifact=linear(seed=1))
    assert (again.status_code, again.json()["code"]) == (409, "state_conflict")

    assert model.delete("/api/v1/models/iris/versions/1.0.0").status_code == 204
    assert upload(model, "iris", version="1.0.0").status_code == 409
    assert upload(model, "iris").json()["version"] == "1.0.1"
    assert quarantined() == []
    assert len(list((artifacts_folder / alice.organization.id.hex).iterdir())) == 2  # of the two versions that there were


def test_the_same_artifact_may_be_uploaded_again(model, upload):
    assert upload(model, "iris").json()["digest"] == upload(model, "iris").json()["digest"]


def test_two_uploads_at_the_same_time_get_different_numbers(client_of, alice, upload, model):
    from django.db import connections

    answers = []

    def post():
        answers.append(upload(client_of(alice), "iris", artifact=linear(seed=5)))
        connections.close_all()

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answer.json()["version"] for answer in answers) == ["1.0.0", "1.0.1", "1.0.2", "1.0.3"]


def test_the_task_of_the_first_manifest_becomes_the_models(model, upload):
    upload(model, "iris", manifest={"task": "tabular"})

    assert model.get("/api/v1/models/iris").json()["task"] == "tabular"
    other = upload(model, "iris", manifest={"task": "tensor"})
    assert (other.status_code, other.json()["errors"][0]["field"]) == (422, "manifest.task")
    assert upload(model, "iris").status_code == 202


@pytest.mark.parametrize("manifest", [{"task": "poetry"}, {"labels": [1]}, {"colour": "red"}, [], "text", None, 5])
def test_a_wrong_manifest_is_refused_before_anything_is_stored(model, upload, manifest, alice, artifacts_folder):
    form = {"artifact": io.BytesIO(linear()), "manifest": json.dumps(manifest)}

    answer = model.post("/api/v1/models/iris/versions", form, format="multipart")

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert quarantined() == []
    assert not (artifacts_folder / alice.organization.id.hex).exists()


def test_the_manifest_may_be_sent_as_a_file_and_is_shown(model, upload):
    file = io.BytesIO(json.dumps({"task": "tabular", "labels": ["a", "b", "c"]}).encode())
    file.name = "manifest.json"
    form = {"artifact": io.BytesIO(linear()), "manifest": file}

    assert model.post("/api/v1/models/iris/versions", form, format="multipart").status_code == 202

    shown = model.get("/api/v1/models/iris/versions/1.0.0").json()
    assert shown["manifest"] == {"task": "tabular", "labels": ["a", "b", "c"]}


def file(name="f", data=b"x"):
    made = io.BytesIO(data)
    made.name = name
    return made


@pytest.mark.parametrize(
    ("form", "detail"),
    [
        (lambda: {}, "artifact"),
        (lambda: {"artifact": "text"}, "artifact"),
        (lambda: {"model": file()}, "artifact"),
        (lambda: {"artifact": [file(), file()]}, "artifact"),
        (lambda: {"artifact": file(), "colour": "red"}, "artifact"),
        (lambda: {"artifact": file(), "manifest": "{"}, "JSON"),
        (lambda: {"artifact": file(), "manifest": file("m", b"\xff")}, "JSON"),
    ],
)
def test_a_form_that_is_not_one_artifact_is_refused(model, form, detail):
    answer = model.post("/api/v1/models/iris/versions", form(), format="multipart")

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert detail in answer.json()["detail"]
    assert quarantined() == []


def test_only_a_form_is_taken(model):
    answer = model.post("/api/v1/models/iris/versions", {"artifact": "x"}, format="json")

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    raw = model.generic("POST", "/api/v1/models/iris/versions", linear(), content_type="application/octet-stream")
    assert raw.status_code == 415
    broken = model.generic("POST", "/api/v1/models/iris/versions", b"nothing", content_type="multipart/form-data")
    assert broken.status_code == 400


@pytest.fixture
def small_limit():
    before = settings.CONFIG.artifact_max_bytes
    settings.CONFIG.artifact_max_bytes = 1000
    yield 1000
    settings.CONFIG.artifact_max_bytes = before


def test_an_artifact_above_the_limit_is_413_whatever_its_length_claims(model, upload, small_limit):
    big = upload(model, "iris", artifact=b"x" * (small_limit + 1))
    assert (big.status_code, big.json()["code"]) == (413, "payload_too_large")
    assert upload(model, "iris", artifact=b"x" * small_limit).status_code == 202
    huge = model.generic(
        "POST",
        "/api/v1/models/iris/versions",
        b"--b\r\n",
        content_type="multipart/form-data; boundary=b",
        CONTENT_LENGTH=str(100 << 20),
    )
    assert huge.status_code == 413
    assert quarantined() == []


def test_a_manifest_above_its_limit_is_413(model):
    for manifest in (" " * (9 << 20), file("manifest", b" " * (9 << 20))):
        answer = model.post("/api/v1/models/iris/versions", {"artifact": file(), "manifest": manifest}, format="multipart")
        assert answer.status_code == 413
    assert quarantined() == []


def test_an_upload_is_never_whole_in_memory(model):
    """The form is read from a stream that counts how much is asked for at once."""

    class Stream(io.BytesIO):
        largest = 0

        def read(self, size=-1):
            Stream.largest = max(Stream.largest, size if size >= 0 else 1 << 62)
            return super().read(size)

    head = b'--b\r\nContent-Disposition: form-data; name="artifact"; filename="m"\r\n\r\n'
    data = head + b"x" * (20 << 20) + b"\r\n--b--\r\n"
    answer = model.generic(
        "POST",
        "/api/v1/models/iris/versions",
        b"",
        content_type="multipart/form-data; boundary=b",
        **{"wsgi.input": Stream(data), "CONTENT_LENGTH": str(len(data))},
    )

    assert answer.status_code == 202, answer.content
    assert answer.json()["digest"] == hashlib.sha256(b"x" * (20 << 20)).hexdigest()
    assert 0 < Stream.largest <= 1 << 20


def test_nobody_uploads_without_the_scope_or_to_a_strangers_model(client_of, alice, charlie, make_key, upload, model):
    _, reader = make_key(alice.organization, scopes=["models:read"])

    assert upload(client_of(None), "iris").status_code == 401
    assert upload(client_of(reader), "iris").status_code == 403
    assert upload(client_of(charlie), "iris").status_code == 404
    assert upload(client_of(charlie), f"{alice.organization.slug}/iris").status_code == 404
    assert upload(model, "no-such-model").status_code == 404
    assert quarantined() == []
    _, writer = make_key(alice.organization, scopes=["models:write"])
    assert upload(client_of(writer), f"{alice.organization.slug}/iris").status_code == 202


def test_a_version_under_an_alias_is_kept(client_of, alice, iris):
    client = client_of(alice)

    refused = client.delete("/api/v1/models/iris/versions/1.0.0")

    assert (refused.status_code, refused.json()["code"]) == (409, "state_conflict")
    assert "production" in refused.json()["detail"]
    client.delete("/api/v1/models/iris/aliases/production")
    assert client.delete("/api/v1/models/iris/versions/1.0.0").status_code == 204
    for method in (client.get, client.delete):
        assert method("/api/v1/models/iris/versions/1.0.0").status_code == 404
    assert client.get("/api/v1/models/iris/versions").json()["results"] == []


def test_of_many_that_delete_a_version_one_does_and_the_log_says_it_once(model, upload, client_of, alice):
    upload(model, "iris")

    one_wins(
        lambda client: client.delete("/api/v1/models/iris/versions/1.0.0"),
        [(client_of(alice),) for _ in range(6)],
        won=204,
        lost=404,
    )

    with tenant_scope(alice.organization.id):
        assert AuditEvent.objects.of(alice.organization).filter(action="version.deleted").count() == 1


@pytest.mark.parametrize("reference", ["2.0.0", "canary", "1.0", "x" * 100, "1.0.0.0", "01.0.0"])
def test_a_version_that_is_not_there_is_404(client_of, alice, iris, reference):
    assert client_of(alice).get(f"/api/v1/models/iris/versions/{reference}").status_code == 404


def test_what_cannot_be_stored_leaves_nothing_behind(model, upload, artifacts_folder, alice):
    folder = artifacts_folder / alice.organization.id.hex
    artifacts_folder.mkdir(exist_ok=True)
    folder.write_text("a file where the folder should be")

    answer = upload(model, "iris")

    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert quarantined() == []
    assert model.get("/api/v1/models/iris/versions").json()["results"] == []
    folder.unlink()


def asked_first(client, admitted, **headers):
    """The answer to an upload's head alone, as a gateway asks for it; what is admitted lands in `admitted`."""
    scope = {"admit": lambda *found: admitted.append(found)}
    form = "multipart/form-data; boundary=b"
    return client.generic("POST", "/api/v1/models/iris/versions", b"", content_type=form, **{"asgi.scope": scope}, **headers)


def test_a_head_alone_is_admitted_and_changes_nothing(model, alice):
    admitted = []

    assert asked_first(model, admitted, CONTENT_LENGTH="1000").status_code == 204

    ((organization, check),) = admitted
    assert organization == alice.organization.id.hex
    check(1000)
    with pytest.raises(PayloadTooLarge):
        check(settings.CONFIG.artifact_max_bytes + FORM_BYTES + 1)
    assert model.get("/api/v1/models/iris/versions").json()["results"] == []
    assert quarantined() == []


def test_who_may_not_upload_is_refused_by_the_head_alone(client_of, alice, charlie, make_key, model):
    admitted = []
    _, reader = make_key(alice.organization, scopes=["models:read"])

    assert asked_first(client_of(None), admitted).status_code == 401
    assert asked_first(client_of(reader), admitted).status_code == 403
    assert asked_first(client_of(charlie), admitted).status_code == 404
    assert asked_first(model, admitted, CONTENT_LENGTH=str(1 << 31)).status_code == 413
    assert admitted == []


def test_what_an_organization_may_store_bounds_what_may_come(model, alice):
    admitted = []
    set_organization_limits(alice.organization.id, max_artifact_bytes=1000)
    asked_first(model, admitted)
    ((_, check),) = admitted

    check(FORM_BYTES + 1000)
    with pytest.raises(ArtifactTooLarge):
        check(FORM_BYTES + 1001)
