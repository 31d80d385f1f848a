"""Route records: what gateways get to know, and when. And what the engine gets to load."""

import time

import pytest
from django.utils import timezone

from inference import registry
from inference.models import ModelVersion
from inference.routes import unpack_route
from tenants.scope import tenant_scope
from tests.inference.intake.onnx_models import linear
from tests.waiting import PATIENCE


def record_of(lanes, name):
    """The record as gateways find it; None if there is none or a tombstone."""
    packed = lanes.get(name)
    return unpack_route(packed) if packed else None


def own(alice, name="iris"):
    return f"route:own:{alice.organization.id.hex}:{name}"


def test_every_change_is_pushed(client_of, alice, upload, judge, lanes):
    client = client_of(alice)
    heard = lanes.pubsub()
    heard.subscribe("records")

    def pushed():
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            message = heard.get_message(ignore_subscribe_messages=True, timeout=1)
            if message and message["data"] == own(alice).encode():
                return record_of(lanes, own(alice))
        raise AssertionError("no push")

    client.post("/api/v1/models", {"name": "iris", "task": "tabular"}, format="json")
    route = pushed()
    assert (route.name, route.owner_slug, route.is_public, route.versions) == ("iris", alice.organization.slug, False, {})
    upload(client, "iris", manifest={"labels": ["a", "b", "c"]})
    assert pushed().versions["1.0.0"].state == "validating"
    judge(alice.organization)
    route = pushed()
    version = route.version(None)
    assert (version.number, version.state, version.has_batch, version.is_batchable) == ("1.0.0", "ready", True, True)
    assert (version.input, version.output, version.labels) == ("x", "y", ["a", "b", "c"])
    assert [(spec.name, spec.datatype, spec.shape) for spec in version.inputs] == [("x", "FP32", [-1, 4])]
    client.put("/api/v1/models/iris/aliases/canary", {"version": "1.0.0"}, format="json")
    assert pushed().aliases == {"production": "1.0.0", "canary": "1.0.0"}
    client.delete("/api/v1/models/iris/aliases/canary")
    assert pushed().aliases == {"production": "1.0.0"}
    client.delete("/api/v1/models/iris")
    assert pushed() is None
    assert lanes.get(own(alice)) == b""


def test_who_reads_that_a_version_is_ready_can_call_it(client_of, alice, iris, lanes):
    """Also where nobody has published yet that it is: as between the commit of its intake and the projection."""
    lanes.set(own(alice), b"")

    assert client_of(alice).get(f"/api/v1/models/{iris}/versions/1.0.0").json()["state"] == "ready"

    assert record_of(lanes, own(alice)).version(None).number == "1.0.0"


def test_what_has_long_been_ready_is_not_published_by_who_reads_it(client_of, alice, iris, lanes):
    with tenant_scope(alice.organization.id):
        ModelVersion.objects.of(alice.organization).update(ready_at=timezone.now() - registry.JUST_NOW)
    lanes.set(own(alice), b"")

    client_of(alice).get(f"/api/v1/models/{iris}/versions/1.0.0")

    assert lanes.get(own(alice)) == b""


def test_a_route_is_loaded_for_its_owner_and_nobody_else(alice, charlie, iris):
    from inference.registry import load_own_route, load_public_route, make_record

    assert load_own_route(alice.organization.id, "iris").version("production").number == "1.0.0"
    assert load_own_route(charlie.organization.id, "iris") is None
    assert load_public_route(alice.organization.slug, "iris") is None
    assert load_public_route("catalog", "iris-that-is-not-there") is None
    assert make_record(own(charlie)) is None
    assert unpack_route(make_record(own(alice))).task == "tabular"


def test_the_engine_gets_the_bytes_and_what_was_measured(alice, charlie, iris):
    from inference.registry import load_own_route, version_artifact

    route = load_own_route(alice.organization.id, "iris").version(None)

    source = version_artifact(route.id, alice.organization.id.hex)

    assert source.artifact == linear()
    assert (source.digest, source.is_private, source.is_batchable) == (route.digest, True, True)
    assert source.max_batch_rows == 64
    assert source.load_bytes > 0
    assert source.manifest["task"] == "tabular"
    assert version_artifact(route.id, charlie.organization.id) is None


def test_an_artifact_that_was_changed_on_disk_is_not_loaded(alice, iris, artifacts_folder):
    import pytest

    from inference.artifacts import ArtifactError
    from inference.registry import load_own_route, version_artifact

    version = load_own_route(alice.organization.id, "iris").version(None)
    (artifacts_folder / alice.organization.id.hex / f"{version.id}.onnx").write_bytes(linear(seed=9))

    with pytest.raises(ArtifactError, match="digest"):
        version_artifact(version.id, alice.organization.id)


def test_a_version_that_is_not_ready_is_not_given_to_the_engine(client_of, alice, upload):
    from inference.models import ModelVersion
    from inference.registry import version_artifact
    from tenants.scope import tenant_scope

    client = client_of(alice)
    client.post("/api/v1/models", {"name": "iris"}, format="json")
    upload(client, "iris")
    with tenant_scope(alice.organization.id):
        version = ModelVersion.objects.of(alice.organization).get()

    assert version_artifact(version.id, alice.organization.id) is None


@pytest.mark.parametrize(("task", "expected"), [("tabular", False), ("text-classification", True)])
def test_gateways_and_workers_agree_on_whether_a_version_has_slow_lanes(iris, alice, task, expected):
    from inference.models import MLModel, ModelVersion
    from inference.registry import load_own_route, version_artifact
    from tenants.scope import tenant_scope

    with tenant_scope(alice.organization.id):
        MLModel.objects.of(alice.organization).filter(name=iris).update(task=task)
        ModelVersion.objects.of(alice.organization).update(ms_per_row=0.001)

    version = load_own_route(alice.organization.id, iris).versions["1.0.0"]
    source = version_artifact(version.id, alice.organization.id)

    assert (version.has_slow_lanes, source.has_slow_lanes) == (expected, expected)
