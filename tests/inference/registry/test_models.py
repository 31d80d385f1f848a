"""POST, GET, PATCH, DELETE /api/v1/models and /api/v1/models/{model}."""

import pytest

from inference.models import MLModel
from tenants.scope import tenant_scope

WRONG = ({"task": "poetry"}, {"visibility": "secret"}, {"colour": "red"}, {"description": 5000 * "xyz"})


def test_a_model_is_made_and_shown(client_of, alice):
    client = client_of(alice)
    body = {"name": "iris", "task": "tabular", "description": "Species of iris."}

    made = client.post("/api/v1/models", body, format="json")

    assert made.status_code == 201
    assert made.json()["id"].startswith("mdl_")
    shown = client.get("/api/v1/models/iris").json()
    assert shown == made.json()
    assert {name: shown[name] for name in body} == body
    assert (shown["organization"], shown["visibility"], shown["aliases"]) == (alice.organization.slug, "private", {})
    assert client.get(f"/api/v1/models/{alice.organization.slug}/iris").json() == shown
    assert client.get("/api/v1/models").json() == {"results": [shown], "next": None}


def test_only_a_name_is_needed(client_of, alice):
    made = client_of(alice).post("/api/v1/models", {"name": "iris"}, format="json")

    assert (made.status_code, made.json()["task"], made.json()["description"]) == (201, "", "")


@pytest.mark.parametrize(
    "name",
    ["", "Iris", "-iris", "_iris", "iris!", "a/b", "iris ", "iris\n", "ä", "x" * 64, "versions", "aliases", "infer", "predict"]
    + ["ready", "config", "stats", "models", "load", "unload", "rollback", "trace", "v1", "v2", None, ["iris"]],
)
def test_a_name_that_would_make_a_url_ambiguous_is_refused(client_of, alice, name):
    answer = client_of(alice).post("/api/v1/models", {"name": name}, format="json")

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert answer.json()["errors"][0]["field"] == "name"


def test_no_model_is_called_as_the_catalogue_is_but_an_older_one_stays(client_of, alice):
    answer = client_of(alice).post("/api/v1/models", {"name": "catalog"}, format="json")

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert answer.json()["errors"][0]["field"] == "name"
    assert "catalogue" in answer.json()["errors"][0]["detail"]

    with tenant_scope(alice.organization.id):
        MLModel.objects.create(organization=alice.organization, name="catalog")  # from before this rule
    assert client_of(alice).get("/api/v1/models/catalog").status_code == 200
    assert client_of(alice).patch("/api/v1/models/catalog", {"description": "mine"}, format="json").status_code == 200
    assert client_of(alice).delete("/api/v1/models/catalog").status_code == 204


@pytest.mark.parametrize(
    "body",
    [{}] + [{"name": "a"} | wrong for wrong in WRONG],
)
def test_wrong_fields_are_named(client_of, alice, body):
    answer = client_of(alice).post("/api/v1/models", body, format="json")

    assert answer.status_code == 422
    assert answer.json()["errors"]


def test_a_name_is_taken_once_and_free_again_after_deletion(client_of, alice):
    client = client_of(alice)
    client.post("/api/v1/models", {"name": "iris"}, format="json")

    again = client.post("/api/v1/models", {"name": "iris"}, format="json")
    assert (again.status_code, again.json()["code"]) == (409, "state_conflict")

    first = client.get("/api/v1/models/iris").json()["id"]
    assert client.delete("/api/v1/models/iris").status_code == 204
    assert client.get("/api/v1/models/iris").status_code == 404
    assert client.delete("/api/v1/models/iris").status_code == 404
    made = client.post("/api/v1/models", {"name": "iris"}, format="json")
    assert made.status_code == 201
    assert made.json()["id"] != first


def test_a_deleted_model_keeps_its_records(client_of, alice, iris):
    client_of(alice).delete("/api/v1/models/iris")

    with tenant_scope(alice.organization.id):
        model = MLModel.objects.of(alice.organization).get(name="iris")
        assert model.deleted_at is not None
        assert [(version.number, version.deleted_at) for version in model.versions.all()] == [("1.0.0", model.deleted_at)]
        assert not model.aliases.exists()


def test_two_organizations_may_use_one_name(client_of, alice, charlie):
    for person in (alice, charlie):
        assert client_of(person).post("/api/v1/models", {"name": "iris"}, format="json").status_code == 201


def test_only_operators_publish(client_of, alice):
    client = client_of(alice)

    made = client.post("/api/v1/models", {"name": "iris", "visibility": "public"}, format="json")
    assert (made.status_code, made.json()["code"]) == (403, "scope_missing")

    client.post("/api/v1/models", {"name": "iris"}, format="json")
    changed = client.patch("/api/v1/models/iris", {"visibility": "public"}, format="json")
    assert (changed.status_code, changed.json()["code"]) == (403, "scope_missing")
    assert client.get("/api/v1/models/iris").json()["visibility"] == "private"


def test_description_and_task_can_be_changed(client_of, alice, upload):
    client = client_of(alice)
    client.post("/api/v1/models", {"name": "iris"}, format="json")

    changed = client.patch("/api/v1/models/iris", {"description": "New.", "task": "tabular"}, format="json")

    assert (changed.status_code, changed.json()["description"], changed.json()["task"]) == (200, "New.", "tabular")
    assert client.patch("/api/v1/models/iris", {"name": "rose"}, format="json").status_code == 422
    upload(client, "iris")
    later = client.patch("/api/v1/models/iris", {"task": "tensor"}, format="json")
    assert (later.status_code, later.json()["code"]) == (409, "state_conflict")
    assert client.patch("/api/v1/models/iris", {"task": "tabular"}, format="json").status_code == 200


def test_a_stranger_cannot_tell_that_the_model_exists(client_of, alice, charlie, iris):
    client = client_of(charlie)
    for path in ("iris", f"{alice.organization.slug}/iris"):
        url = f"/api/v1/models/{path}"
        answers = [
            client.get(url),
            client.patch(url, {"description": "x"}, format="json"),
            client.delete(url),
            client.get(f"{url}/versions"),
            client.get(f"{url}/versions/1.0.0"),
            client.delete(f"{url}/versions/1.0.0"),
            client.get(f"{url}/aliases"),
            client.get(f"{url}/aliases/production"),
            client.put(f"{url}/aliases/production", {"version": "1.0.0"}, format="json"),
            client.delete(f"{url}/aliases/production"),
            client.post(f"{url}/aliases/production/rollback"),
        ]
        assert [answer.status_code for answer in answers] == [404] * len(answers)
        nothing = client.get("/api/v1/models/no-such-model").json()
        assert answers[0].json() | {"detail": "", "request_id": ""} == nothing | {"detail": "", "request_id": ""}
    assert client.get("/api/v1/models").json()["results"] == []


def test_a_teammate_sees_and_changes_it_and_a_viewer_only_sees(client_of, alice, bob, make_user, join, iris):
    assert client_of(bob).patch("/api/v1/models/iris", {"description": "Bob's"}, format="json").status_code == 200
    viewer = client_of(join(make_user("vera"), alice.organization, "viewer"))
    assert viewer.get("/api/v1/models/iris").status_code == 200
    refused = viewer.delete("/api/v1/models/iris")
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")


def test_nothing_goes_without_a_key_or_with_one_of_another_scope(client_of, alice, make_key, iris):
    for method, path in (("get", "models"), ("post", "models"), ("get", "models/iris"), ("delete", "models/iris")):
        answer = getattr(client_of(None), method)(f"/api/v1/{path}")
        assert (answer.status_code, answer.json()["code"]) == (401, "api_key_missing")
    _, reader = make_key(alice.organization, scopes=["models:read"])
    _, caller = make_key(alice.organization, scopes=["predictions:write"])
    assert client_of(reader).get("/api/v1/models/iris").status_code == 200
    assert client_of(reader).delete("/api/v1/models/iris").status_code == 403
    assert client_of(caller).get("/api/v1/models/iris").status_code == 403


def test_a_key_for_some_models_reaches_no_other(client_of, alice, make_key, iris):
    client = client_of(alice)
    client.post("/api/v1/models", {"name": "rose"}, format="json")
    _, text = make_key(alice.organization, models=["rose", "other-owner/iris"])
    limited = client_of(text)

    assert [model["name"] for model in limited.get("/api/v1/models").json()["results"]] == ["rose"]
    assert limited.get("/api/v1/models/rose").status_code == 200
    for answer in (
        limited.get("/api/v1/models/iris"),
        limited.delete("/api/v1/models/iris"),
        limited.get("/api/v1/models/iris/versions"),
        limited.post("/api/v1/models", {"name": "tulip"}, format="json"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "model_not_allowed")


def test_the_list_goes_page_by_page_newest_first(client_of, alice):
    client = client_of(alice)
    for number in range(5):
        client.post("/api/v1/models", {"name": f"m{number}"}, format="json")

    names, url = [], "/api/v1/models?limit=2"
    while url:
        body = client.get(url).json()
        names.append([model["name"] for model in body["results"]])
        url = body["next"]

    assert names == [["m4", "m3"], ["m2", "m1"], ["m0"]]
