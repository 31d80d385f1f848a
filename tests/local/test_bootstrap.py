"""The steps before the parts start: repeatable, and a refused example does not take down a service that has another version."""

import json
import secrets
import shutil

import pytest
from django.conf import settings
from django.utils import timezone
from pydantic import SecretStr

from saas.config import INSECURE_SECRETS, ROOT
from saas.local import bootstrap
from tenants import keys
from tenants.keys import authenticate
from tenants.models import ApiKey
from tenants.scope import tenant_scope


@pytest.fixture
def example(tmp_path, monkeypatch):
    """A folder of examples with one model of a new name: a copy of iris."""
    monkeypatch.setattr(bootstrap, "EXAMPLES", tmp_path)
    folder = tmp_path / f"copy-{secrets.token_hex(4)}"
    folder.mkdir()
    for name in ("model.onnx", "manifest.json"):
        shutil.copy(ROOT / "examples" / "iris" / name, folder)
    return folder


def test_migrating_again_finds_nothing_to_do(capsys):
    bootstrap.migrate()

    assert capsys.readouterr().out == ""


def test_an_example_is_published_once(example, capsys):
    bootstrap.publish_catalogue()
    bootstrap.publish_catalogue()

    assert capsys.readouterr().out == f"publishing {example.name}\n"


def test_an_example_that_changed_under_its_version_is_only_said(example, capsys):
    bootstrap.publish_catalogue()
    shutil.copy(ROOT / "examples" / "digits" / "model.onnx", example)

    bootstrap.publish_catalogue()

    assert "goes on with" in capsys.readouterr().out


def test_an_example_that_was_never_published_and_is_refused_ends_the_start(example):
    (example / "model.onnx").write_bytes(b"not a model")

    with pytest.raises(SystemExit, match="was not published"):
        bootstrap.publish_catalogue()


def test_the_demo_keeps_its_key_and_a_lost_one_is_replaced(tmp_path):
    file = tmp_path / "demo.json"
    bootstrap.make_demo(file)
    first = json.loads(file.read_text())
    bootstrap.make_demo(file)
    assert json.loads(file.read_text()) == first
    assert file.stat().st_mode & 0o777 == 0o600

    file.unlink()
    bootstrap.make_demo(file)

    second = json.loads(file.read_text())
    assert second["api_key"] != first["api_key"]
    assert authenticate(second["api_key"]).slug == "demo"


def test_a_key_that_is_not_good_any_more_is_replaced(tmp_path):
    file = tmp_path / "demo.json"
    bootstrap.make_demo(file)
    spoiled = json.loads(file.read_text())
    file.write_text(json.dumps(spoiled | {"api_key": spoiled["api_key"][:-1] + "x"}))

    bootstrap.make_demo(file)

    assert authenticate(json.loads(file.read_text())["api_key"]).slug == "demo"


@pytest.fixture
def with_peppers(monkeypatch):
    """`with_peppers("1:…")`: as a start with that KEY_PEPPERS."""

    def use(text):
        config = settings.CONFIG.model_copy(update={"key_peppers": SecretStr(text)})
        monkeypatch.setattr(settings, "CONFIG", config)
        keys.peppers.cache_clear()

    yield use
    monkeypatch.undo()
    keys.peppers.cache_clear()


def test_a_start_without_a_pepper_that_keys_need_is_refused(with_peppers):
    bootstrap.refuse_missing_peppers()
    with_peppers("2:another-pepper-of-this-test")

    with pytest.raises(SystemExit, match=r"does not contain version 1\b.*restore it, or `make reset`"):
        bootstrap.refuse_missing_peppers()


def test_a_pepper_that_only_ended_keys_need_may_go(with_peppers, make_organization, make_key):
    organization = make_organization()
    with_peppers(f"{INSECURE_SECRETS['key_peppers']},77:another-pepper-of-this-test")
    (revoked, _), (expired, _) = make_key(organization), make_key(organization)
    assert revoked.pepper_version == expired.pepper_version == 77
    with tenant_scope(organization.id):
        ApiKey.objects.of(organization).filter(id=revoked.id).update(revoked_at=timezone.now())
        ApiKey.objects.of(organization).filter(id=expired.id).update(expires_at=timezone.now())

    with_peppers(INSECURE_SECRETS["key_peppers"])

    bootstrap.refuse_missing_peppers()  # exits if one is missing
    assert keys.peppers().keys() == {1}


def test_another_pepper_of_the_same_number_is_refused_and_the_demo_key_kept(tmp_path, with_peppers):
    file = tmp_path / "demo.json"
    bootstrap.make_demo(file)
    before = file.read_text()
    with_peppers("1:another-pepper-of-this-test")

    with pytest.raises(SystemExit, match="restore it, or `make reset`"):
        bootstrap.make_demo(file)

    assert file.read_text() == before
    with_peppers(INSECURE_SECRETS["key_peppers"])
    assert authenticate(json.loads(before)["api_key"]).slug == "demo"
