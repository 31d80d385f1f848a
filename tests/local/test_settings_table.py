"""docs/settings.md is the table of saas.config.Config, and a wrong environment is said by name."""

import os
import subprocess
import sys
from typing import Literal, get_args, get_origin

import pytest
from pydantic import ValidationError

from saas.config import INSECURE_SECRETS, ROOT, Config, describe

pytestmark = pytest.mark.no_servers


def rows():
    for name, field in Config.model_fields.items():
        default = field.default
        if hasattr(default, "get_secret_value"):
            default = default.get_secret_value()
        if name == "data_dir":
            default = ".local"
        shown = f"`{default}`" if default not in ("", None) else ""
        yield f"| `{name.upper()}` | {shown} | {allowed(field)} | {field.description} |"


def bounds(field):
    """(lowest, highest) of a number; None for anything else."""
    found = {name: getattr(bound, name) for bound in field.metadata for name in ("ge", "le") if hasattr(bound, name)}
    return (found["ge"], found["le"]) if found else None


def allowed(field):
    if field.annotation is bool:
        return "0 or 1"
    if get_origin(field.annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(field.annotation))
    return "{} to {}".format(*bounds(field)) if bounds(field) else ""


def test_the_table_in_the_documentation_is_the_class():
    text = (ROOT / "docs" / "settings.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| `")]

    assert table == list(rows()), "docs/settings.md should hold:\n" + "\n".join(rows())


NUMBERS = {name: field for name, field in Config.model_fields.items() if field.annotation in (int, float)}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_its_bounds_is_refused_by_its_name_with_the_bound(monkeypatch, name):
    lowest, highest = bounds(NUMBERS[name])
    monkeypatch.setenv("TIMEOUT_DEFAULT", str(Config.model_fields["timeout_default"].metadata[0].ge))
    for value, bound in ((lowest - 1, lowest), (highest + 1, highest), (10 * 2**40 * highest, highest)):
        monkeypatch.setenv(name.upper(), str(value))
        with pytest.raises(ValidationError) as refused:
            Config()
        assert f"{name.upper()}: Input should be " in describe(refused.value)
        assert f"than or equal to {bound}" in describe(refused.value)
    for odd in ("nan", "inf", "-inf", "1e400", "ten", " "):
        monkeypatch.setenv(name.upper(), odd)
        with pytest.raises(ValidationError):
            Config()
    for value in (lowest, highest):
        monkeypatch.setenv(name.upper(), str(value))
        assert getattr(Config(), name) == value


def start(**environment):
    environment = {"PATH": os.environ["PATH"], **environment}
    command = [sys.executable, "-c", "import saas.settings"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_wrong_value_stops_the_start_with_its_name():
    done = start(DEBUG="1", PORT="eighty")

    assert done.returncode == 1
    assert "PORT: Input should be a valid integer" in done.stderr


@pytest.mark.parametrize("name", ["SECRET_KEY", "KEY_PEPPERS", "KEK", "SIGNING_KEYS"])
def test_without_debug_a_missing_secret_stops_the_start(name):
    secrets = {"SECRET_KEY": "s" * 40, "KEY_PEPPERS": "1:" + "p" * 40, "KEK": "1:aW5zZWN1cmUtZm9yLWRldmVsb3BtZW50LW9ubHktMzI="}
    secrets["SIGNING_KEYS"] = secrets["KEK"]
    del secrets[name]

    done = start(DEBUG="0", **secrets)

    assert done.returncode == 1
    assert f"{name} is missing" in done.stderr


URLS = {
    "DATABASE_URL": [
        "mysql://u:hidden@h/db",
        "hidden",
        "postgresql://u:hidden@h",
        "postgresql://u:a:hidden/x@h/db",
        "postgresql://u:hidden@h/",
        "postgresql://u:p#hidden@h/db",
        "postgresql://u:hidden@h/db#",
        "postgresql://u:hidden@h/db?sslmode=require",
        "postgresql://u:hidden@h/db?host=/run/hidden",
        "postgresql://u:hidden@/db?host=/run&sslmode=require",
        "postgresql://u:hidden@/db?host",
    ],
    "DATABASE_OWNER_URL": ["redis://:hidden@h/0"],
    "DATABASE_METERING_URL": ["postgresql://u:hidden@h:99999/db"],
    "DATABASE_OPS_URL": ["postgresql://u:hidden@[h/db"],
    "STATE_URL": [
        "http://:hidden@h",
        "unix://",
        "redis:///hidden",
        "h:6379/hidden",
        "redis://:p@h/hidden",
        "redis://:p@h/0/hidden",
        "redis://:hidden@h/0?db=1",
        "redis://:hidden@h/0#hidden",
        "unix:///run/hidden?db=1",
        "unix://hidden/run/state.sock",
    ],
    "LANES_URL": ["memcached://hidden", "rediss://:hid/hidden@h:1", "rediss://:hidden@h/0?ssl_cert_reqs=none"],
    "ARTIFACTS_URL": ["/srv/hidden", "s3://", "https://hidden/prefix", "s3://hidden:hidden@bucket/p", "s3://bucket/p?hidden=1"],
    "EMAIL_URL": ["http://u:hidden@h", "smtp://", "smtps://u:hidden@", "smtp://u:hidden@h/hidden", "smtp://u:hidden@h?tls=1"],
    "BASE_URL": [
        "hidden.example",
        "ftp://hidden",
        "https://",
        "https:///hidden",
        "https://user:hidden@h",
        "https://hidden@h",
        "https://h/hidden",
        "https://h/?hidden=1",
        "https://h?hidden",
        "https://h#hidden",
    ],
    "S3_ENDPOINT": ["hidden:9000", "s3://hidden", "http://", "http://hidden:hidden@h", "http://h?hidden=1"],
}
SECRETS = {
    "SECRET_KEY": ["hidden"],
    "KEY_PEPPERS": ["hidden", "1:hidden", "1:" + "hidden" * 5 + ",2:hidden", "x:" + "hidden" * 5, "1:" + "hidden" * 5 + ",1:x"],
    "KEK": ["hidden", "1:hidden", "1:aGlkZGVu", "1:!!hidden"],
    "SIGNING_KEYS": ["hidden", "1:hidden", "1:aGlkZGVu", "1:!!hidden"],
    "METRICS_TOKEN": ["hidden token", "hidden\n", "hiddén", "hidden\x7f"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in (URLS | SECRETS).items() for value in values])
def test_a_wrong_address_or_secret_is_refused_by_its_name_and_never_quoted(monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    with pytest.raises(ValidationError) as refused:
        Config()

    assert f"  {name}: " in describe(refused.value)
    assert "hidden" not in describe(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://maas_app:p%40ss@/maas?host=%2Frun%2Fsockets"),
        ("DATABASE_URL", "postgres://maas_app:word@db.example:5432/maas"),
        ("DATABASE_URL", "postgresql://maas_app:p%23%3F@db.example/maas"),
        ("STATE_URL", "unix:///run/state.sock"),
        ("STATE_URL", "redis://:word@state:6379"),
        ("LANES_URL", "rediss://:word@lanes:6379/1?ssl_ca_certs=/etc/ca.pem"),
        ("LANES_URL", "rediss://:word@[::1]:6379/0"),
        ("ARTIFACTS_URL", "s3://bucket/prefix"),
        ("EMAIL_URL", "smtp://user:word@mail.example:587"),
        ("BASE_URL", "https://models.example"),
        ("S3_ENDPOINT", "http://storage:9000"),
        ("SECRET_KEY", "s" * 32),
        ("KEY_PEPPERS", "1:" + "p" * 16 + ", 2:" + "q" * 16),
        ("KEK", INSECURE_SECRETS["kek"]),
        ("SIGNING_KEYS", INSECURE_SECRETS["signing_keys"]),
        ("METRICS_TOKEN", "a+B/9=._~-"),
    ],
)
def test_a_right_address_or_secret_is_taken(monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    taken = getattr(Config(), name.lower())

    assert getattr(taken, "get_secret_value", lambda: taken)() == value


def test_links_in_mails_have_one_slash_behind_the_base_url(monkeypatch):
    monkeypatch.setenv("BASE_URL", "https://models.example/")

    assert Config().base_url == "https://models.example"


@pytest.mark.parametrize("name", INSECURE_SECRETS)
def test_the_insecure_defaults_would_be_taken_from_the_environment(monkeypatch, name):
    monkeypatch.setenv(name.upper(), INSECURE_SECRETS[name])

    assert getattr(Config(), name).get_secret_value() == INSECURE_SECRETS[name]


def test_make_run_refuses_a_wrong_secret_before_it_makes_anything(tmp_path):
    data = tmp_path / "data"
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(data), "KEY_PEPPERS": "1:hidden"}
    command = [sys.executable, "-m", "saas.local", "run"]

    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "KEY_PEPPERS: Value error, version 1 is shorter" in done.stderr
    assert "hidden" not in done.stderr + done.stdout
    assert not data.exists()
