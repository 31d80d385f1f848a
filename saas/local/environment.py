"""The environment of a local service: addresses of its servers and its secrets, made once and kept private.

What is set in the caller's environment wins. The result is also written to `.local/environment.json` (mode 0600), so that
`manage.py` finds the running service without further words.
"""

import base64
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from saas.local.servers import URL_ROLES, Postgres, Valkey, embedded_servers, keep_private, write_private
from saas.local.standin import standin_environment

FILE = "environment.json"
VALKEYS = ("STATE_URL", "LANES_URL")


class UnusableEnvironment(Exception):
    """The caller's environment cannot be used; the message names the variable."""


def chosen_servers(data_dir: Path, given: Mapping[str, str]) -> list[Postgres | Valkey]:
    """The embedded servers that `given` does not replace by an address. Raises UnusableEnvironment, HomeError."""
    missing = [name for name in URL_ROLES if not given.get(name)]
    if missing and len(missing) < len(URL_ROLES):
        raise UnusableEnvironment(
            f"{', '.join(missing)} must be set too: one address for each database role, or none for the embedded PostgreSQL"
        )
    postgres, state, lanes = embedded_servers(data_dir)
    chosen: list[Postgres | Valkey] = [postgres] if missing else []
    return chosen + [valkey for valkey, name in zip((state, lanes), VALKEYS, strict=True) if not given.get(name)]


def service_environment(
    data_dir: Path, servers: list[Postgres | Valkey], given: Mapping[str, str], *, port: int
) -> dict[str, str]:
    """All variables of saas/config.py that the parts need beside the caller's own. Secrets are kept across starts."""
    made = {
        "SECRET_KEY": secrets.token_urlsafe(48),
        "KEY_PEPPERS": f"1:{secrets.token_urlsafe(32)}",
        "KEK": f"1:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        "SIGNING_KEYS": f"1:{base64.b64encode(secrets.token_bytes(32)).decode()}",
    }
    file = data_dir / "secrets.json"
    kept = made | json.loads(keep_private(file, json.dumps(made)))
    write_private(file, json.dumps(kept))  # an older start did not know all of them
    own = {
        "DATA_DIR": str(data_dir),
        "PORT": str(port),
        "LOG_FORMAT": "text",
        "CLOCK_MOVABLE": "0" if given.get("STRIPE_SECRET_KEY") else "1",
        "DJANGO_SETTINGS_MODULE": "saas.settings",
        **kept,
    }
    variables = {name: given.get(name) or value for name, value in own.items()}
    variables |= {name: given[name] for name in (*URL_ROLES, *VALKEYS) if given.get(name)}
    variables |= standin_environment(data_dir, given)
    for server in servers:
        variables |= server.urls()
        if isinstance(server, Postgres):
            variables["DATABASE_DIR"] = str(server.directory)
    return variables


def save(data_dir: Path, variables: Mapping[str, str]) -> None:
    write_private(data_dir / FILE, json.dumps(dict(variables), indent=1))


def forget(data_dir: Path) -> None:
    (data_dir / FILE).unlink(missing_ok=True)


def use_running_service(root: Path) -> None:
    """For `manage.py`: without DATABASE_URL, take the environment of the service that was started here."""
    file = Path(os.environ.get("DATA_DIR") or root / ".local") / FILE
    if os.environ.get("DATABASE_URL") or not file.exists():
        return
    for name, value in json.loads(file.read_text()).items():
        os.environ.setdefault(name, value)
