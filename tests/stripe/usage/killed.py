"""A process that pushes an organization's usage and is killed: `python -m tests.stripe.usage.killed TENANT POINT`."""

import os
import signal
import sys
from uuid import UUID

import django


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(module: object, name: str) -> None:
    """Let the function do its work once, and end there."""
    function = getattr(module, name)

    def done(*args: object, **more: object) -> None:
        function(*args, **more)
        die()

    setattr(module, name, done)


def main(tenant: UUID, point: str) -> None:
    django.setup()
    from billing.invoicing import push
    from billing.stripe import usage

    if point == "a row is made, not committed":
        after(push, "_add")
    elif point == "the rows are committed":
        push.send_due = die
    elif point == "the time is written":
        usage.send_meter_event = die
    elif point == "Stripe has answered":
        after(usage, "send_meter_event")
    elif point == "the answer is written":
        after(push, "_deliver")
    push.push(tenant)


if __name__ == "__main__":
    main(UUID(sys.argv[1]), sys.argv[2])
