"""A name or key that is taken is an outcome, not a failure: PostgreSQL logs nothing of who asked for it, or with what."""

import secrets
from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction

from inference import registry
from inference.predictions.actions import create_prediction
from saas.lib.errors import IdempotencyKeyReused, StateConflict
from saas.lib.inserts import insert_once
from tenants.actions import create_organization
from tenants.keys import load_key
from tenants.models import User
from tenants.principal import unpack_key
from tenants.scope import tenant_scope
from tests.conftest import DATA_DIR


@pytest.fixture
def mark():
    return f"mark-{secrets.token_hex(8)}"


def is_logged(mark):
    return mark in (DATA_DIR / "servers.log").read_text(errors="replace")


def test_a_constraints_error_is_logged_with_its_row(mark):
    """So that the search below would find one."""
    email = f"{mark}@example.org"
    with pytest.raises(IntegrityError), transaction.atomic():
        [User.objects.create(email=each) for each in (email, email.upper())]

    assert is_logged(mark)


def test_a_taken_address(mark):
    email = f"{mark}@example.org"

    assert insert_once(User(email=email))
    assert not insert_once(User(email=email.upper(), name=mark))
    assert not is_logged(mark)


def test_a_taken_slug(mark):
    with transaction.atomic():
        create_organization(name=mark, slug=mark, owner=None)
    with pytest.raises(StateConflict), transaction.atomic():
        create_organization(name=f"Other {mark}", slug=mark, owner=None)

    assert not is_logged(mark)


def test_a_taken_name_of_a_model(client_of, alice, mark):
    body = {"name": "mine", "description": mark}
    made, again = (client_of(alice).post("/api/v1/models", body, format="json") for _ in range(2))

    assert (made.status_code, again.status_code, again.json()["code"]) == (201, 409, "state_conflict")
    assert not is_logged(mark)


@pytest.fixture
def create(alice, make_key, mark):
    """`create(fingerprint)`: store a prediction for one Idempotency-Key, as who has just looked whether there is one."""
    from inference.models import Alias, MLModel, ModelVersion

    organization = alice.organization
    with tenant_scope(organization.id):
        model = MLModel.objects.create(organization=organization, name="mine", task="tensor")
        version = ModelVersion.objects.create(
            organization=organization, model=model, major=1, minor=0, patch=0, state="ready", digest="0" * 64, size=1,
            inputs=[["x", "FP32", [-1, 3]]], outputs=[["y", "FP32", [-1, 3]]], manifest={"task": "tensor"}, has_batch=True,
        )  # fmt: skip
        Alias.objects.create(organization=organization, model=model, name="production", version=version)
    route = registry.load_route(organization.id, organization.slug, "mine")
    key = unpack_key(load_key(make_key(organization)[0].public_id))

    def create(fingerprint=b"f" * 32):
        with tenant_scope(organization.id):
            return create_prediction(
                organization=organization, key=key, route=route, version=route.version(None), endpoint="predict",
                body=b'{"inputs": [[1, 2, 3]]}', timeout=5.0, retention=timedelta(hours=1), request_id=mark,
                idempotency_key="first", fingerprint=fingerprint,
            )  # fmt: skip

    return create


def test_a_lost_race_for_an_idempotency_key(create, mark):
    (first, is_new), (second, is_second_new) = create(), create()

    assert (first.id, is_new, is_second_new) == (second.id, True, False)
    with pytest.raises(IdempotencyKeyReused):
        create(b"g" * 32)
    assert not is_logged(mark)
