"""Where PostgreSQL has no room: nothing more is kept, nothing that waits fails, and calls without a key go on."""

from types import SimpleNamespace

import pytest
from django.conf import settings

from inference import disk
from inference.gateway.stored import MAX_IN_BOOKS, Answers
from inference.predictions.models import Prediction, Status
from inference.predictions.tasks import _take
from saas.lib.errors import Unavailable
from tenants.scope import tenant_scope
from tests.inference.predictions.test_kept_data import SEALED, counted, create, keyed


@pytest.fixture
def look(monkeypatch):
    """`look(**settings)`: what this process sees of PostgreSQL with these."""

    def again(**given):
        monkeypatch.setattr(settings, "CONFIG", settings.CONFIG.model_copy(update=given))
        monkeypatch.setattr(disk, "DATABASE", disk.Database())

    yield again
    monkeypatch.undo()


def states(alice):
    with tenant_scope(alice.organization.id):
        return [(row.status, row.attempts, row.error_code) for row in Prediction.objects.of(alice.organization)]


def test_a_prediction_is_refused_for_now_and_nothing_is_kept(caller, alice, look):
    look(database_max_bytes=1)
    refused = create(caller)

    assert (refused.status_code, refused.json()["code"], refused["Retry-After"]) == (503, "unavailable", "60")
    assert states(alice) == []
    assert counted(alice) == 0
    look(database_max_bytes=1 << 50)
    assert create(caller).status_code == 202


def test_a_full_disk_refuses_too(caller, look, monkeypatch, tmp_path):
    monkeypatch.setattr(disk, "FULL", 0.0)
    look(database_dir="")
    assert create(caller).status_code == 202
    look(database_dir=str(tmp_path))
    assert create(caller).status_code == 503


def test_what_a_disk_keeps_for_itself_is_no_room(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=1000, used=91, free=9))
    assert not disk.has_room(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=1000, used=89, free=11))
    assert disk.has_room(tmp_path)


def test_a_folder_that_cannot_be_looked_at_refuses_nothing_and_is_told(caller, look, tmp_path, caplog):
    look(database_dir=str(tmp_path / "gone"))

    assert create(caller).status_code == 202
    assert any("DATABASE_DIR" in record.getMessage() for record in caplog.records)


def test_a_large_answer_is_not_stored_and_a_small_one_is(caller, alice, look):
    look(database_max_bytes=1)
    with pytest.raises(Unavailable):
        Answers().seal(*keyed(caller, alice, MAX_IN_BOOKS))

    assert Answers().seal(*keyed(caller, alice, 100))
    assert counted(alice) == 0


def test_a_prediction_that_waits_goes_on_waiting(caller, alice, look):
    create(caller)
    look(database_max_bytes=1)
    with tenant_scope(alice.organization.id):
        (row,) = Prediction.objects.of(alice.organization)

    assert _take(alice.organization.id, row.pk) is None
    assert states(alice) == [(Status.PROCESSING, 0, "")]
    with tenant_scope(alice.organization.id):
        Prediction.objects.of(alice.organization).update(next_try_at=row.created_at)
    look(database_max_bytes=0)
    assert _take(alice.organization.id, row.pk) is not None
    assert counted(alice) == SEALED


def test_it_is_looked_at_once_in_a_while(caller, look):
    now = [1000.0]
    database = disk.Database(lambda: now[0])
    look(database_max_bytes=0)
    database.check()
    look(database_max_bytes=1)
    database.check()
    now[0] += disk.LOOK_EVERY
    with pytest.raises(Unavailable):
        database.check()
