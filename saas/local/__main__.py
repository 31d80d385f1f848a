"""`python -m saas.local run|restart|status|stop|reset`: the local service of this checkout, or of DATA_DIR."""

import argparse
import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from saas.config import INSECURE_SECRETS, Config, describe
from saas.local.control import ask, control_path
from saas.local.environment import UnusableEnvironment
from saas.local.home import HomeError, claim
from saas.local.parts import PartFailed
from saas.local.preconditions import CannotStart, lock_or_refuse, wait_until_ended
from saas.local.processes import end_leftovers
from saas.local.servers import embedded_servers
from saas.local.supervisor import Supervisor

STOP_SECONDS = 60.0  # that a stop may take: the parts end in stages, each within its grace


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m saas.local", description=__doc__)
    parser.add_argument("command", choices=("run", "restart", "status", "stop", "reset"))
    command = parser.parse_args().command
    try:
        # Secrets that are not given are made at the start, and kept; these only stand in for them here.
        absent: Any = {name: value for name, value in INSECURE_SECRETS.items() if not os.environ.get(name.upper())}  # fields
        config = Config(**absent)
    except ValidationError as error:
        sys.exit(describe(error))
    if command in ("restart", "status", "stop"):
        return tell(config.data_dir, command)
    try:
        return reset(config.data_dir) if command == "reset" else asyncio.run(run(config))
    except (CannotStart, HomeError, UnusableEnvironment) as error:
        print(f"Refused: {error}", file=sys.stderr)
    except PermissionError as error:
        print(f"Refused: no permission for {error.filename}: does it belong to another user?", file=sys.stderr)
    return 1


async def run(config: Config) -> int:
    """Serve until stopped. Whatever this process and its parts make is for this user only."""
    os.umask(0o077)
    return await Supervisor(config.data_dir, port=config.port, given=dict(os.environ)).run()


def reset(data_dir: Path) -> int:
    """Delete the data of a service that is not running."""
    os.close(lock_or_refuse(claim(data_dir)))
    servers = embedded_servers(data_dir)
    end_leftovers(data_dir, [server.directory for server in servers])
    servers[0].home.remove()
    shutil.rmtree(data_dir)
    print(f"The data in {data_dir} was deleted.")
    return 0


def tell(data_dir: Path, command: str) -> int:
    """Send `command` to the running service and print what it answers. After `stop`, the service has ended."""
    try:
        for line in ask(control_path(data_dir), command):
            print(_table(json.loads(line)) if command == "status" else line, flush=True)
        if command == "stop":
            wait_until_ended(data_dir, STOP_SECONDS)
    except OSError:
        print("No service is running here: start it with `make run`.", file=sys.stderr)
        return 1
    except (CannotStart, PartFailed) as error:
        print(f"It did not work: {error}", file=sys.stderr)
        return 1
    return 0


def _table(status: dict[str, dict[str, Any]]) -> str:
    return "\n".join(
        f"{name:<12} {part['pid'] or 'starting':>9}  {part['seconds']:>9} s  {part['crashes']} crashes"
        for name, part in status.items()
    )


if __name__ == "__main__":
    sys.exit(main())
