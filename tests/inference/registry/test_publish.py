"""manage.py publish: the only way into the catalogue."""

import json
import secrets
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from tests.inference.intake.onnx_models import linear, one


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

    assert client_of(alice).get(f"/api/v1/models/{name}/versions").json()["results"] == []
    assert client_of(alice).get(f"/api/v1/models/{name}/versions/1.0.0").status_code == 404


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
