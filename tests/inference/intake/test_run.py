"""Intake as a job: claimed once, tried again when it failed through no fault of the model, given up after three times."""

import json
import secrets
from datetime import timedelta

import pytest
from django.utils import timezone

from tests.inference.intake.onnx_models import linear


@pytest.fixture
def version(alice, tmp_path):
    """A version of Alice's that waits for intake."""
    import hashlib

    from inference.actions import create_model, upload_version
    from tenants.access import SYSTEM
    from tenants.scope import tenant_scope

    data, path = linear(), tmp_path / "model.onnx"
    path.write_bytes(data)
    with tenant_scope(alice.organization.id):
        model = create_model(organization=alice.organization, actor=SYSTEM, name=f"m{secrets.token_hex(4)}")
    digest = hashlib.sha256(data).hexdigest()
    return upload_version(model=model, actor=SYSTEM, path=path, digest=digest, size=len(data), manifest={})


def now(version):
    from inference.models import ModelVersion
    from tenants.scope import tenant_scope

    with tenant_scope(version.organization_id):
        return ModelVersion.objects.of(version.organization_id).get(id=version.id)


def set_columns(version, **columns):
    from inference.models import ModelVersion
    from tenants.scope import tenant_scope

    with tenant_scope(version.organization_id):
        ModelVersion.objects.of(version.organization_id).filter(id=version.id).update(**columns)


def run(version):
    from inference.intake.run import run

    return run(version.organization_id, version.id)


def test_a_version_is_judged_once(version):
    assert run(version) is True
    assert run(version) is False

    assert (now(version).state, now(version).attempts) == ("ready", 1)
    assert now(version).ready_at is not None


def test_a_claimed_version_is_in_one_pair_of_hands(version):
    from inference.models import INTAKE_LEASE, ModelVersion
    from tenants.scope import tenant_scope

    with tenant_scope(version.organization_id):
        assert ModelVersion.objects.of(version.organization_id).claim(version.id) is not None
        assert ModelVersion.objects.of(version.organization_id).claim(version.id) is None

    assert run(version) is False
    set_columns(version, next_try_at=timezone.now() - timedelta(seconds=1))
    assert run(version) is True  # the first one died: its lease ran out
    assert timedelta(seconds=120) < INTAKE_LEASE  # both stages' deadlines


def test_another_tenants_id_claims_nothing(version, charlie):
    from inference.intake.run import run

    assert run(charlie.organization.id, version.id) is False
    assert now(version).attempts == 0


def test_a_store_that_fails_is_asked_again_and_in_the_end_nothing_is_said_against_the_model(version):
    from django.conf import settings

    file = settings.CONFIG.data_dir / "artifacts" / version.artifact_key
    file.rename(file.with_suffix(".away"))
    for attempt in (1, 2):
        assert run(version) is True
        assert (now(version).state, now(version).attempts) == ("validating", attempt)
        assert now(version).next_try_at > timezone.now()
        set_columns(version, next_try_at=timezone.now())
    run(version)

    assert now(version).state == "rejected"
    assert now(version).verdict["code"] == "intake_failed"


def test_whatever_goes_wrong_a_version_is_not_left_in_somebodys_hands(version, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("the table does not take it")

    monkeypatch.setattr("inference.intake.run.accept", broken)
    for attempt in (1, 2):
        run(version)
        assert (now(version).state, now(version).attempts) == ("validating", attempt)
        assert now(version).next_try_at - timezone.now() < timedelta(minutes=1)
        set_columns(version, next_try_at=timezone.now())
    run(version)

    assert (now(version).state, now(version).verdict["code"]) == ("rejected", "intake_failed")


def test_a_changed_artifact_is_never_judged_as_the_uploaded_one(version):
    from django.conf import settings

    (settings.CONFIG.data_dir / "artifacts" / version.artifact_key).write_bytes(linear(seed=3))

    run(version)

    assert now(version).state == "validating"


def test_the_sweeper_gives_up_what_killed_its_worker_each_time_and_leaves_the_rest(version):
    from inference.intake.tasks import sweep

    set_columns(version, attempts=3, next_try_at=timezone.now() - timedelta(minutes=1))
    sweep()

    assert now(version).state == "rejected"
    assert now(version).verdict["code"] == "intake_failed"


def test_the_sweeper_asks_again_where_a_message_was_lost(version, state):
    from saas.celery import app

    set_columns(version, next_try_at=timezone.now() - timedelta(minutes=1))
    state.delete("ops")
    app.tasks["inference.intake.sweep"]()

    tasks = [json.loads(message)["headers"]["task"] for message in state.lrange("ops", 0, -1)]
    assert "inference.intake.examine_next" in tasks


def test_the_sweeper_removes_the_artifacts_of_deleted_versions(version):
    from django.conf import settings

    from inference.intake.tasks import sweep

    file = settings.CONFIG.data_dir / "artifacts" / version.artifact_key
    assert file.exists()
    set_columns(version, deleted_at=timezone.now())
    sweep()

    assert not file.exists()
    assert now(version).removed_at is not None
    assert run(version) is False


def test_a_model_that_was_deleted_meanwhile_does_not_come_back(version, client_of, alice):
    client_of(alice).delete(f"/api/v1/models/{version.model.name}")

    assert run(version) is False
    assert now(version).state == "validating"


def test_old_uploads_in_quarantine_are_removed():
    import os

    from inference import artifacts

    old, new = (artifacts.quarantine() / name for name in (f"old-{secrets.token_hex(4)}", f"new-{secrets.token_hex(4)}"))
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))

    artifacts.sweep_quarantine(3600)

    assert not old.exists()
    assert new.exists()
    new.unlink()
