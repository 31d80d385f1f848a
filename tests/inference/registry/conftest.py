"""Small models and what the tests of the registry do with them again and again."""

import io
import json
from pathlib import Path

import pytest

from tests.inference.intake.onnx_models import linear


@pytest.fixture
def upload():
    """`upload(client, model, artifact=…, manifest=…, version=…)`: POST a version."""

    def post(client, model, *, artifact=None, manifest=None, version=None):
        form = {"artifact": io.BytesIO(linear() if artifact is None else artifact)}
        if manifest is not None:
            form["manifest"] = json.dumps(manifest)
        if version is not None:
            form["version"] = version
        return client.post(f"/api/v1/models/{model}/versions", form, format="multipart")

    return post


@pytest.fixture
def judge():
    """`judge(organization)`: do the intake of all its waiting versions, as the worker does it."""

    from inference.intake.run import run
    from inference.models import ModelVersion
    from tenants.scope import tenant_scope

    def examine(organization):
        with tenant_scope(organization.id):
            waiting = list(ModelVersion.objects.of(organization).filter(state="validating").values_list("id", flat=True))
        return [run(organization.id, version) for version in waiting]

    return examine


@pytest.fixture
def iris(client_of, alice, upload, judge):
    """A model of Alice's organization, with its version 1.0.0 ready."""
    client = client_of(alice)
    assert client.post("/api/v1/models", {"name": "iris", "task": "tabular"}, format="json").status_code == 201
    assert upload(client, "iris").status_code == 202
    judge(alice.organization)
    return "iris"


@pytest.fixture
def artifacts_folder():
    from django.conf import settings

    return Path(settings.CONFIG.data_dir) / "artifacts"
