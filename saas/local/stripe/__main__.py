"""`python -m saas.local.stripe`: the stand-in as a process of its own, until SIGTERM.

It takes from the environment what the platform has: STRIPE_API_BASE (where to listen), STRIPE_SECRET_KEY,
STRIPE_WEBHOOK_SECRETS, PORT (where webhooks go), DATA_DIR (its state is in stripe/state.sqlite), STATE_URL and CLOCK_MOVABLE
(the platform's clock).
"""

import logging
import math
import os
import signal
import threading
from pathlib import Path
from urllib.parse import urlsplit

from saas.local.stripe.server import Server
from saas.local.stripe.store import Store
from saas.local.stripe.world import World


def main() -> None:
    logging.basicConfig(format="%(levelname)s %(message)s")
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.set())
    directory = Path(os.environ["DATA_DIR"]) / "stripe"
    directory.mkdir(mode=0o700, exist_ok=True)
    base = os.environ["STRIPE_API_BASE"]
    world = World(
        Store(directory / "state.sqlite"),
        base_url=base,
        secret_key=os.environ["STRIPE_SECRET_KEY"],
        webhook_url=f"http://127.0.0.1:{os.environ['PORT']}/stripe/webhook",
        webhook_secret=os.environ["STRIPE_WEBHOOK_SECRETS"].partition(",")[0],
        follow=move_platform,
    )
    server = Server(world, urlsplit(base).port or 0)
    server.start()
    ending.wait()
    server.end()


def move_platform(seconds: float) -> None:
    """Put the platform's clock so far ahead of real time, where it may be moved (saas.lib.clock)."""
    if os.environ.get("CLOCK_MOVABLE") != "1" or seconds <= 0:
        return
    import redis  # neither is needed before: this process starts beside everything else

    from saas.lib.clock import raise_offset

    with redis.Redis.from_url(os.environ["STATE_URL"]) as state:
        raise_offset(state, math.ceil(seconds * 1000))


if __name__ == "__main__":
    main()
