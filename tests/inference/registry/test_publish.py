"""manage.py publish: the only way into the catalogue."""

import json
import secrets
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from inference.models import ModelVersion
from tenants.databases import as_operator
from tests.inference.intake.onnx_models import INT64, linear, one
from tests.inference.intake.test_extremes import quotient


@pytest.fixture
def publish(tmp_path):
    """`publish(name, artifact, manifest=None, **options)` → what the command prints."""

    def call(name, artifact, manifest=None, **options):
        file = tmp_path / "model.onnx"
        file.write_bytes(artifact)
        if manifest is not None:
            path = tmp_path / "manifest.json"
            path.write_text(json.dumps(manifest))
            options["manifest"] = str(path)
        out = StringIO()
        call_command("publish", str(file), name=name, stdout=out, **options)
        return out.getvalue()

    return call


@pytest.fixture
def name():
    return f"m{secrets.token_hex(6)}"


def test_everybody_sees_and_nobody_changes_a_published_model(publish, name, client_of, alice):
    publish(name, linear(), {"task": "tabular", "labels": ["a", "b", "c"]})

    client = client_of(alice)
    for path in (name, f"catalog/{name}"):
        answer = client.get(f"/api/v1/models/{path}")
        assert answer.status_code == 200
        assert answer.json()["aliases"] == {"production": "1.0.0"}
        assert answer.json()["organization"] == "catalog"
        assert client.patch(f"/api/v1/models/{path}", {"description": "mine"}, format="json").status_code == 404
        assert client.delete(f"/api/v1/models/{path}").status_code == 404
        assert client.put(f"/api/v1/models/{path}/aliases/mine", {"version": "1.0.0"}, format="json").status_code == 404
        assert client.delete(f"/api/v1/models/{path}/versions/1.0.0").status_code == 404
        assert client.get(f"/api/v1/models/{path}/versions/production").json()["state"] == "ready"
    listed = client.get("/api/v1/models?visibility=public&limit=100").json()["results"]
    assert name in [model["name"] for model in listed]
    assert name not in [model["name"] for model in client.get("/api/v1/models").json()["results"]]


def test_an_own_model_goes_before_one_of_the_catalogue(publish, name, client_of, alice):
    publish(name, linear())
    client = client_of(alice)

    client.post("/api/v1/models", {"name": name}, format="json")

    assert client.get(f"/api/v1/models/{name}").json()["organization"] == alice.organization.slug
    assert client.get(f"/api/v1/models/catalog/{name}").json()["organization"] == "catalog"


def test_publishing_the_same_file_again_changes_nothing(publish, name, client_of, alice):
    publish(name, linear())

    assert "there already" in publish(name, linear())
    assert "there already" in publish(name, linear(), version="1.0.0")

    versions = client_of(alice).get(f"/api/v1/models/{name}/versions").json()["results"]
    assert [version["version"] for version in versions] == ["1.0.0"]


def test_another_file_is_the_next_version_and_a_number_can_be_asked_for(publish, name, client_of, alice):
    publish(name, linear())
    publish(name, linear(seed=1))
    publish(name, linear(seed=2), version="2.0.0")

    versions = client_of(alice).get(f"/api/v1/models/{name}/versions").json()["results"]
    assert [version["version"] for version in versions] == ["2.0.0", "1.0.1", "1.0.0"]


def test_a_rejected_model_fails_the_command_and_shows_the_verdict_and_no_customer_sees_it(publish, name, client_of, alice):
    with pytest.raises(CommandError, match="rejected"):
        publish(name, one("Nonsense"))

    assert client_of(alice).get(f"/api/v1/models/{name}/versions/1.0.0").status_code == 404
    assert client_of(alice).get(f"/api/v1/models/{name}").status_code == 404
    assert name not in listed(client_of(alice))
    assert index(alice, name) == {}

    publish(name, linear())
    assert name in listed(client_of(alice))
    assert index(alice, name) == {"1.0.1": "READY"}


def test_a_rejected_later_version_is_seen_by_nobody_but_operators(publish, name, client_of, alice):
    publish(name, linear())
    with pytest.raises(CommandError, match="rejected"):
        publish(name, one("Nonsense"))

    assert index(alice, name) == {"1.0.0": "READY"}
    versions = client_of(alice).get(f"/api/v1/models/{name}/versions").json()["results"]
    assert [version["version"] for version in versions] == ["1.0.0"]
    assert client_of(alice).get(f"/api/v1/models/{name}/versions/1.0.1").status_code == 404


def test_a_public_model_without_a_version_to_call_is_seen_by_nobody(name, client_of, alice):
    from inference.actions import create_model
    from tenants.access import SYSTEM
    from tenants.actions import catalog_organization
    from tenants.scope import tenant_scope

    catalog = catalog_organization()
    with tenant_scope(catalog.id):
        create_model(organization=catalog, actor=SYSTEM, name=name, visibility="public")

    assert client_of(alice).get(f"/api/v1/models/catalog/{name}").status_code == 404
    assert name not in listed(client_of(alice))
    assert index(alice, name) == {}


def listed(client):
    """Names in the catalogue, as GET /models?visibility=public says."""
    names, address = [], "/api/v1/models?visibility=public&limit=100"
    while address:
        page = client.get(address).json()
        names += [model["name"] for model in page["results"]]
        address = page["next"]
    return names


def index(user, name):
    """Versions of a catalogue model and their states, as /v2/repository/index says to the user's organization."""
    from inference.gateway.v2 import repository_index
    from inference.registry import visible_routes

    routes = visible_routes(user.organization.id)
    rows = repository_index(routes, own=user.organization.slug, is_ready_only=False)
    return {row["version"]: row["state"] for row in rows if row["name"] == f"catalog/{name}"}


@pytest.mark.parametrize(
    ("manifest", "options", "message"),
    [({"task": "poetry"}, {}, "task"), ({}, {"version": "1.0"}, "1.2.3"), ([], {}, "JSON object")],
)
def test_what_cannot_be_right_is_refused_with_a_reason(publish, name, manifest, options, message):
    with pytest.raises(CommandError, match=message):
        publish(name, linear(), manifest, **options)


def test_a_word_of_the_urls_is_no_name(publish):
    with pytest.raises(CommandError, match="name"):
        publish("versions", linear())


def test_a_model_that_an_input_can_end_the_workers_process_with_is_not_published(publish, name, client_of, alice):
    with pytest.raises(CommandError, match="rejected"):
        publish(name, quotient(INT64))

    assert client_of(alice).get(f"/api/v1/models/catalog/{name}").status_code == 404
    with as_operator():
        (verdict,) = ModelVersion.objects.filter(model__name=name).values_list("verdict", flat=True)
    assert verdict["code"] == "crashed"
    assert verdict["detail"] == "The model ended the process that ran it: SIGFPE on a = -9223372036854775808; b = -1"
    assert verdict["measured"]["crashes_on"].startswith("SIGFPE")
