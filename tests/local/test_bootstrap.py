"""The steps before the parts start: repeatable, and a refused example does not take down a service that has another version."""

import json
import secrets
import shutil

import pytest

from saas.config import ROOT
from saas.local import bootstrap
from tenants.keys import authenticate


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
