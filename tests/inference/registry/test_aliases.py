"""PUT, GET, DELETE /api/v1/models/{model}/aliases/{alias}, and rollback."""

import pytest

URL = "/api/v1/models/iris/aliases"


@pytest.fixture
def client(client_of, alice, upload):
    """Alice's, whose iris has the ready versions 1.0.0 (production), 1.0.1 and 1.0.2, and the rejected 1.0.3.

    What intake would say is said here: it has tests of its own, and takes a second for each.
    """
    from inference.actions import accept, reject
    from inference.intake.rules import rejection
    from inference.models import ModelVersion
    from tenants.scope import tenant_scope

    client = client_of(alice)
    client.post("/api/v1/models", {"name": "iris"}, format="json")
    for patch in range(4):
        upload(client, "iris")
        with tenant_scope(alice.organization.id):
            version = ModelVersion.objects.of(alice.organization).select_related("model").get(patch=patch)
            if patch < 3:
                accept(version, verdict={"result": "ready"})
            else:
                reject(version, verdict=rejection("load_failed", "It does not load."))
    return client


def put(client, version, alias="production"):
    return client.put(f"{URL}/{alias}", {"version": version}, format="json")


def production(client):
    return client.get("/api/v1/models/iris").json()["aliases"]["production"]


def test_an_alias_is_made_moved_and_removed(client):
    made = put(client, "1.0.1", "canary")
    assert (made.status_code, made.json()["alias"], made.json()["version"], made.json()["model"]) == (
        200,
        "canary",
        "1.0.1",
        "iris",
    )
    assert client.get("/api/v1/models/iris/versions/canary").json()["version"] == "1.0.1"
    assert put(client, "1.0.2", "canary").json()["version"] == "1.0.2"
    assert [entry["alias"] for entry in client.get(URL).json()["results"]] == ["canary", "production"]
    assert client.delete(f"{URL}/canary").status_code == 204
    for answer in (client.get(f"{URL}/canary"), client.delete(f"{URL}/canary"), client.post(f"{URL}/canary/rollback")):
        assert answer.status_code == 404


def test_an_alias_may_follow_another(client):
    put(client, "1.0.2", "canary")

    assert put(client, "canary").json()["version"] == "1.0.2"


def test_one_call_rolls_back_and_the_next_goes_further(client):
    put(client, "1.0.1")
    put(client, "1.0.2")

    assert client.post(f"{URL}/production/rollback").json()["version"] == "1.0.1"
    assert production(client) == "1.0.1"
    assert client.post(f"{URL}/production/rollback").json()["version"] == "1.0.0"
    nothing = client.post(f"{URL}/production/rollback")
    assert (nothing.status_code, nothing.json()["code"]) == (409, "state_conflict")
    assert production(client) == "1.0.0"


def test_after_a_roll_back_history_goes_on_from_there(client):
    put(client, "1.0.1")
    client.post(f"{URL}/production/rollback")
    put(client, "1.0.2")

    assert client.post(f"{URL}/production/rollback").json()["version"] == "1.0.0"
    history = client.get(f"{URL}/production").json()["history"]
    assert [(entry["version"], entry["undone_at"] is not None) for entry in history] == [
        ("1.0.2", True),
        ("1.0.1", True),
        ("1.0.0", False),
    ]


def test_a_roll_back_passes_over_deleted_versions_and_repeated_ones(client):
    put(client, "1.0.1")
    put(client, "1.0.2")
    assert put(client, "1.0.2").status_code == 200
    assert client.delete("/api/v1/models/iris/versions/1.0.1").status_code == 204

    assert client.post(f"{URL}/production/rollback").json()["version"] == "1.0.0"


def test_a_removed_alias_begins_again_without_history(client):
    put(client, "1.0.1", "canary")
    put(client, "1.0.2", "canary")
    client.delete(f"{URL}/canary")
    put(client, "1.0.0", "canary")

    assert client.post(f"{URL}/canary/rollback").status_code == 409


def test_only_a_ready_version_gets_an_alias(client, upload):
    for number, state in (("1.0.3", "rejected"), (upload(client, "iris").json()["version"], "validating")):
        answer = put(client, number)
        assert (answer.status_code, answer.json()["code"]) == (409, "state_conflict")
        assert state in answer.json()["detail"]
    assert production(client) == "1.0.0"


@pytest.mark.parametrize(("version", "status"), [("9.9.9", 404), ("nothing", 404), ("", 422), (None, 422), (1, 422), ([], 422)])
def test_a_version_that_is_not_there_or_not_named_is_refused(client, version, status):
    assert put(client, version).status_code == status


@pytest.mark.parametrize("alias", ["1.0.0", "Canary", "versions", "-a", "infer", "x" * 64])
def test_an_alias_is_a_name(client, alias):
    answer = put(client, "1.0.0", alias)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "alias"


def test_scopes_decide_who_moves_an_alias(client_of, client, alice, make_key):
    _, reader = make_key(alice.organization, scopes=["models:read"])

    assert put(client_of(None), "1.0.1").status_code == 401
    assert put(client_of(reader), "1.0.1").status_code == 403
    assert client_of(reader).post(f"{URL}/production/rollback").status_code == 403
    assert client_of(reader).get(f"{URL}/production").json()["version"] == "1.0.0"


def test_changes_are_in_the_audit_log(client):
    put(client, "1.0.1")
    client.post(f"{URL}/production/rollback")

    actions = [event["action"] for event in client.get("/api/v1/audit-events").json()["results"]]
    assert actions[:2] == ["alias.rolled_back", "alias.set"]
    assert {"model.created", "version.created"} <= set(actions)
