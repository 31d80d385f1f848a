"""A model that can be called, without an artifact: these tests create predictions and run none."""

import pytest


@pytest.fixture
def publish(embedded):
    """`publish(organization, name, state="ready", **columns)`: a model with a version 1.0.0 in that state."""
    from django.db import transaction

    from inference.models import Alias, MLModel, ModelVersion
    from inference.registry import model_changed
    from tenants.scope import tenant_scope

    def make(organization, name, state="ready", **columns):
        with tenant_scope(organization.id), transaction.atomic():
            model = MLModel.objects.create(organization=organization, name=name, task="tensor", **columns)
            version = ModelVersion.objects.create(
                organization=organization, model=model, major=1, minor=0, patch=0, state=state, digest="0" * 64,
                size=1, inputs=[["x", "FP32", [-1, 3]]], outputs=[["y", "FP32", [-1, 3]]],
                manifest={"task": "tensor"}, has_batch=True, is_batchable=True, load_bytes=1,
            )  # fmt: skip
            if state == "ready":
                Alias.objects.create(organization=organization, model=model, name="production", version=version)
            model_changed(model)
        return model

    return make


@pytest.fixture
def caller(alice, make_key, client_of, publish):
    """Alice's key, which is kept as `alice.key`, with her model `mine`."""
    publish(alice.organization, "mine")
    alice.key = make_key(alice.organization)[1]
    return client_of(alice.key)
