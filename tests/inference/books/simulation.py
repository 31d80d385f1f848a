"""Many lives of the simulated world, from the command line, with servers of their own.

    python -m tests.inference.books.simulation --seeds 10000
    python -m tests.inference.books.simulation --first 4711 --seeds 1      # the life of a seed that failed, once more

Ends with status 1 and the seed at the first life in which something does not agree.
"""

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="books-simulation-") as directory, _servers(Path(directory)) as server:
        return _run(range(given.first, given.first + given.seeds), server)


def _run(seeds: range, server: Any) -> int:
    from billing.ledger.writing import connect
    from saas.lib.valkey import sync_client
    from tests.inference.books.world import simulate

    logging.disable(logging.CRITICAL)  # what goes wrong here goes wrong on purpose
    verdicts: Counter[str] = Counter()
    with closing(connect()) as connection, sync_client(server.url) as valkey:
        for number, seed in enumerate(seeds, 1):
            try:
                verdicts += simulate(seed, valkey, str(server.socket), connection).verdicts
            except Exception:
                traceback.print_exc()
                print(f"\nseed {seed} failed; again: python -m tests.inference.books.simulation --first {seed} --seeds 1")
                return 1
            if number % 100 == 0 or number == len(seeds):
                print(f"{number} lives agree in everything; last seed {seed}", flush=True)
    print(", ".join(f"{count:,} {name}" for name, count in verdicts.most_common()))
    return 0


@contextmanager
def _servers(directory: Path) -> Iterator[Any]:
    """A PostgreSQL with all tables, and a Valkey of the books'."""
    from saas.local.processes import Guard
    from saas.local.servers import embedded_servers, spawn, wait_ready
    from tests.inference.books.conftest import Server

    postgres = embedded_servers(directory / "data", is_durable=False)[0]
    guard = Guard(directory / "data", [postgres.directory])  # ends it if this process is killed
    valkey = Server(directory)
    os.environ.update(postgres.urls(), STATE_URL=valkey.url, LANES_URL=valkey.url, DATA_DIR=str(directory / "data"))
    postgres.prepare()
    process = spawn(postgres, directory / "data", output=subprocess.DEVNULL)
    try:
        wait_ready(postgres, process)
        postgres.create_database()
        _migrate()
        valkey.start()
        yield valkey
    finally:
        if valkey.process:
            valkey.kill()
        process.send_signal(postgres.stop_signal)
        process.wait(60)
        postgres.home.remove()
        guard.dismiss()


def _migrate() -> None:
    import django
    from django.core.management import call_command

    os.environ.update(DJANGO_SETTINGS_MODULE="saas.settings", DEBUG="1")
    django.setup()
    call_command("migrate", database="owner", verbosity=0)


if __name__ == "__main__":
    sys.exit(main())
