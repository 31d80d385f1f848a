"""docs/settings.md is the table of saas.config.Config, and a wrong environment is said by name."""

import os
import subprocess
import sys

import pytest

from saas.config import ROOT, Config

pytestmark = pytest.mark.no_servers


def rows():
    for name, field in Config.model_fields.items():
        default = field.default
        if hasattr(default, "get_secret_value"):
            default = default.get_secret_value()
        if name == "data_dir":
            default = ".local"
        shown = f"`{default}`" if default not in ("", None) else ""
        yield f"| `{name.upper()}` | {shown} | {field.description} |"


def test_the_table_in_the_documentation_is_the_class():
    text = (ROOT / "docs" / "settings.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| `")]

    assert table == list(rows()), "docs/settings.md should hold:\n" + "\n".join(rows())


def start(**environment):
    environment = {"PATH": os.environ["PATH"], **environment}
    command = [sys.executable, "-c", "import saas.settings"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_wrong_value_stops_the_start_with_its_name():
    done = start(DEBUG="1", PORT="eighty")

    assert done.returncode == 1
    assert "PORT: Input should be a valid integer" in done.stderr


@pytest.mark.parametrize("name", ["SECRET_KEY", "KEY_PEPPERS", "KEK"])
def test_without_debug_a_missing_secret_stops_the_start(name):
    secrets = {"SECRET_KEY": "s" * 40, "KEY_PEPPERS": "1:" + "p" * 40, "KEK": "1:aW5zZWN1cmUtZm9yLWRldmVsb3BtZW50LW9ubHktMzI="}
    del secrets[name]

    done = start(DEBUG="0", **secrets)

    assert done.returncode == 1
    assert f"{name} is missing" in done.stderr
