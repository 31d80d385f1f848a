"""How many models, versions, aliases and bytes an organization may have."""

import io
import json

import pytest

from inference.models import MLModel, ModelVersion
from tenants.actions import set_organization_limits
from tenants.scope import tenant_scope
from tests.inference.intake.onnx_models import linear
from tests.racing import one_wins

MODELS = "/api/v1/models"
SIZE = len(linear())


@pytest.fixture
def cap(alice):
    """`cap(max_models=1, …)` of Alice's organization."""
    return lambda **caps: set_organization_limits(alice.organization.id, **caps)


@pytest.fixture
def client(client_of, alice):
    return client_of(alice)


@pytest.fixture
def key_client(client_of, make_key, alice):
    """With a key the caller is known before the body is read."""
    return client_of(make_key(alice.organization)[1])


def create(client, name):
    return client.post(MODELS, {"name": name}, format="json")


def put_alias(client, alias):
    return client.put(f"{MODELS}/iris/aliases/{alias}", {"version": "1.0.0"}, format="json")


class Body(io.RawIOBase):
    """A form with an artifact of zeros, `length` bytes in all; counts those that were read."""

    def __init__(self, length):
        self.head = b'--b\r\nContent-Disposition: form-data; name="artifact"; filename="m"\r\n\r\n'
        self.left, self.given = length, 0

    def readable(self):
        return True

    def readinto(self, buffer):
        size = min(len(buffer), self.left)
        part, self.head = self.head[:size], self.head[size:]
        buffer[:size] = part + bytes(size - len(part))
        self.left -= size
        self.given += size
        return size


def post(client, body):
    """Uploads `body` as it is."""
    given = {"wsgi.input": body, "CONTENT_LENGTH": str(body.left)}
    return client.generic("POST", f"{MODELS}/iris/versions", "", content_type="multipart/form-data; boundary=b", **given)


def refused(answer, cap, limit, status=409):
    body = answer.json()
    assert (answer.status_code, body["code"], body["limit_source"]) == (status, "limit_reached", "organization"), body
    assert (body["errors"][0]["field"], body["errors"][0]["limit"]) == (cap, limit)
    assert str(limit) in body["detail"]
    return True


def left_behind(alice, artifacts_folder):
    """Files of uploads under way, and of the organization in the store."""
    from inference import artifacts

    folder = artifacts_folder / alice.organization.id.hex
    return len(list(artifacts.quarantine().iterdir())), len(list(folder.iterdir())) if folder.exists() else 0


def test_one_model_too_many_is_refused_until_one_is_deleted(client, cap):
    cap(max_models=1)
    assert create(client, "a").status_code == 201

    assert refused(create(client, "b"), "models", 1)

    assert client.delete(f"{MODELS}/a").status_code == 204
    assert create(client, "b").status_code == 201


def test_of_many_that_want_the_last_place_for_a_model_one_gets_it(client_of, alice, cap):
    cap(max_models=1)

    one_wins(create, [(client_of(alice), f"m{n}") for n in range(8)])

    with tenant_scope(alice.organization.id):
        assert MLModel.objects.of(alice.organization).count() == 1


def test_one_version_too_many_is_refused_until_one_is_deleted(client, upload, cap, alice, artifacts_folder):
    create(client, "iris")
    cap(max_versions_per_model=1)
    assert upload(client, "iris").status_code == 202

    assert refused(upload(client, "iris"), "versions_per_model", 1)

    assert left_behind(alice, artifacts_folder) == (0, 1)
    create(client, "other")
    assert upload(client, "other").status_code == 202
    assert client.delete(f"{MODELS}/iris/versions/1.0.0").status_code == 204
    assert upload(client, "iris").status_code == 202


def test_versions_wait_until_others_have_their_verdict(client, upload, judge, cap, alice):
    create(client, "a")
    create(client, "b")
    cap(max_validating=1)
    assert upload(client, "a").status_code == 202

    assert refused(upload(client, "b"), "validating", 1)

    judge(alice.organization)
    assert upload(client, "b").status_code == 202


def test_of_uploads_to_several_models_that_want_the_last_place_one_gets_it(client_of, upload, alice, cap, artifacts_folder):
    names = [f"m{n}" for n in range(6)]
    for name in names:
        create(client_of(alice), name)
    cap(max_validating=1)

    one_wins(upload, [(client_of(alice), name) for name in names], won=202)

    with tenant_scope(alice.organization.id):
        assert ModelVersion.objects.of(alice.organization).count() == 1
    assert left_behind(alice, artifacts_folder) == (0, 1)


def test_an_artifact_above_the_cap_is_refused(client, key_client, upload, cap, alice, artifacts_folder):
    create(client, "iris")
    cap(max_artifact_bytes=SIZE - 1)

    for each in (client, key_client):
        answer = upload(each, "iris")
        assert refused(answer, "artifact_bytes", SIZE - 1, status=413)
        assert "make the model smaller" in answer.json()["detail"]

    assert left_behind(alice, artifacts_folder) == (0, 0)
    cap(max_artifact_bytes=SIZE)
    assert upload(key_client, "iris").status_code == 202


def test_all_artifacts_together_fit_or_the_upload_is_refused(client, key_client, upload, cap, alice, artifacts_folder):
    create(client, "iris")
    cap(max_stored_bytes=2 * SIZE - 1)
    assert upload(client, "iris").status_code == 202

    for each in (client, key_client):
        answer = upload(each, "iris")
        assert refused(answer, "stored_bytes", 2 * SIZE - 1)
        assert answer.json()["errors"][0]["used"] == SIZE

    assert left_behind(alice, artifacts_folder) == (0, 1)
    cap(max_stored_bytes=2 * SIZE)
    assert upload(key_client, "iris").status_code == 202
    assert client.get("/api/v1/limits").json()["organization"]["stored_bytes"] == {
        "limit": 2 * SIZE, "used": 2 * SIZE, "left": 0,
    }  # fmt: skip


def test_of_uploads_that_want_the_last_bytes_one_gets_them(client_of, upload, alice, cap, artifacts_folder):
    names = [f"m{n}" for n in range(6)]
    for name in names:
        create(client_of(alice), name)
    cap(max_stored_bytes=2 * SIZE - 1)

    one_wins(upload, [(client_of(alice), name) for name in names], won=202)

    assert left_behind(alice, artifacts_folder) == (0, 1)


def test_the_space_of_a_deleted_version_is_free_once_its_artifact_is_removed(client, upload, cap):
    from inference.intake.tasks import sweep

    create(client, "iris")
    cap(max_stored_bytes=SIZE)
    upload(client, "iris")
    client.delete(f"{MODELS}/iris/versions/1.0.0")
    assert refused(upload(client, "iris"), "stored_bytes", SIZE)

    sweep()

    assert upload(client, "iris").status_code == 202


@pytest.mark.parametrize(
    ("caps", "cap_name", "limit", "status"),
    [
        ({"max_versions_per_model": 0}, "versions_per_model", 0, 409),
        ({"max_validating": 0}, "validating", 0, 409),
        ({"max_stored_bytes": 0}, "stored_bytes", 0, 409),
        ({"max_artifact_bytes": 1}, "artifact_bytes", 1, 413),
    ],
)
def test_what_is_known_beforehand_is_refused_before_the_body_is_read(key_client, cap, caps, cap_name, limit, status):
    create(key_client, "iris")
    cap(**caps)
    body = Body(100 << 20)

    answer = post(key_client, body)

    assert refused(answer, cap_name, limit, status)
    assert body.given == 0


def test_an_upload_that_is_too_large_ends_as_soon_as_that_is_seen(key_client, cap):
    """Its length says too little: a form may hold a large manifest."""
    create(key_client, "iris")
    cap(max_artifact_bytes=1 << 20)
    body = Body(8 << 20)

    answer = post(key_client, body)

    assert refused(answer, "artifact_bytes", 1 << 20, 413)
    assert body.given < 3 << 20


def test_one_alias_too_many_is_refused_but_one_can_be_moved(client, iris, upload, judge, alice, cap):
    cap(max_aliases_per_model=2)
    assert put_alias(client, "canary").status_code == 200

    assert refused(put_alias(client, "beta"), "aliases_per_model", 2)

    upload(client, "iris")
    judge(alice.organization)
    moved = client.put(f"{MODELS}/iris/aliases/canary", {"version": "1.0.1"}, format="json")
    assert moved.status_code == 200
    assert client.delete(f"{MODELS}/iris/aliases/canary").status_code == 204
    assert put_alias(client, "beta").status_code == 200


def test_of_many_that_want_the_last_place_for_an_alias_one_gets_it(client_of, iris, alice, cap):
    cap(max_aliases_per_model=2)

    one_wins(put_alias, [(client_of(alice), f"a{n}") for n in range(8)], won=200)


def test_the_first_ready_version_becomes_production_whatever_the_cap(client, upload, judge, alice, cap):
    create(client, "iris")
    cap(max_aliases_per_model=0)
    upload(client, "iris")
    judge(alice.organization)

    assert client.get(f"{MODELS}/iris").json()["aliases"] == {"production": "1.0.0"}
    assert refused(put_alias(client, "canary"), "aliases_per_model", 0)


def test_the_catalogue_has_no_caps(cap):
    from inference import caps
    from tenants.actions import catalog_organization

    catalog = catalog_organization()
    set_organization_limits(catalog.id, max_models=0)
    try:
        with tenant_scope(catalog.id):
            caps.lock_for_model(catalog.id)
    finally:
        set_organization_limits(catalog.id, max_models=100)


def test_each_cap_is_shown_with_used_and_left(client, iris, upload, cap):
    cap(max_models=3, max_versions_per_model=4, max_validating=5, max_aliases_per_model=6, max_artifact_bytes=10**12)
    create(client, "other")
    upload(client, "iris")

    shown = client.get("/api/v1/limits").json()["organization"]

    assert shown["models"] == {"limit": 3, "used": 2, "left": 1}
    assert shown["versions_per_model"] == {"limit": 4, "used": 2, "left": 2}
    assert shown["validating"] == {"limit": 5, "used": 1, "left": 4}
    assert shown["aliases_per_model"] == {"limit": 6, "used": 1, "left": 5}
    assert shown["artifact_bytes"] == {"limit": 512 << 20}  # the platform's setting
    assert shown["stored_bytes"]["used"] == 2 * SIZE
    assert json.dumps(shown)


def test_a_stranger_is_not_told_of_caps(client_of, charlie, iris, upload, cap):
    cap(max_versions_per_model=0)

    assert upload(client_of(charlie), "iris").status_code == 404
