"""The stand-in for Stripe beside a local service: started while there is no key of Stripe, at an address of its own."""

import json
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

from saas.local.servers import keep_private, write_private

FILE = "standin.json"
STANDIN = "stripe"  # the part's name


def standin_environment(data_dir: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The STRIPE_… variables of saas/config.py by which everybody finds it; {} where `given` has a key of Stripe.

    Key, secret and port are kept, so that links and webhooks of an earlier start stay good; a taken port is replaced.
    """
    if given.get("STRIPE_SECRET_KEY"):
        return {}
    made = {
        "STRIPE_SECRET_KEY": f"sk_test_standin_{secrets.token_hex(16)}",
        "STRIPE_WEBHOOK_SECRETS": f"whsec_{secrets.token_hex(16)}",
        "STRIPE_API_BASE": f"http://127.0.0.1:{_port(0)}",
    }
    kept: dict[str, str] = json.loads(keep_private(data_dir / FILE, json.dumps(made)))
    port = int(kept["STRIPE_API_BASE"].rpartition(":")[2])
    if not _port(port):
        kept["STRIPE_API_BASE"] = made["STRIPE_API_BASE"]
        write_private(data_dir / FILE, json.dumps(kept))
    return kept


def _port(wanted: int) -> int:
    """`wanted` if it can be listened on (any free one for 0), else 0."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", wanted))
        except OSError:
            return 0
        return int(trial.getsockname()[1])
