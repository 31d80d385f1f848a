"""A call's frame, which is what travels to its worker: into a lane, and out of it if nobody waits for the call any more."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference.gateway.call import Call
from inference.lanes import WITHDRAWN, Work, lane_key, pack_work, pool_key, resident_key
from saas.lib.valkey import Connection, Script

PUSH = Script(Path(__file__).with_name("push.lua"))
LONG_SECONDS = 1.0  # since its push: a worker may be told that nobody waits for the call any more


def pack(call: Call, session: str) -> bytes:
    """`call` as a worker takes it. `session` is the gateway that hears the reply."""
    return pack_work(
        Work(
            gateway=session,
            number=call.number,
            call=call.id,
            tenant=call.key.organization,
            owner=call.route.owner,
            version=call.version.id,
            deadline=call.deadline,
            sent=time.time(),
            rows=call.rows,
            inputs=call.inputs,
            outputs=call.outputs,
            items=call.items,
            top=call.top,
            prepare_us=call.prepare_us,
            is_slow=call.is_slow,
            is_public=call.route.is_public,
        )
    )


def push(call: Call, connection: Connection, session: str, done: Callable[[Any], None]) -> None:
    """Send the frame of a call that was admitted without it. `done` gets an error if it came into no lane, else None."""
    call.frame = pack(call, session)
    version, low = call.version, call.is_low
    lane, pool = lane_key(version.id, low=low, slow=call.is_slow), pool_key(version.hardware, low=low)
    PUSH.run(connection, done, [lane, resident_key(version.id), pool], [call.frame])


def withdraw(call: Call, connection: Connection, now: float) -> None:
    """Take it out of its lane; if it may run long, tell the workers, too. `connection` is the one that pushed it, `now` the
    loop's time.

    Only runs of organizations' own models are ended: of these they are told at once, if the call lay in its lane no more.
    """
    version = call.version
    found: list[Any] = []  # what each LREM says: how many, or an error

    def removed(count: Any) -> None:
        found.append(count)
        if found == [0, 0]:
            connection.send(None, "PUBLISH", WITHDRAWN, call.id)

    is_running = time.time() < call.deadline  # at its deadline it ends by itself
    is_long = call.is_low or now - call.pushed >= LONG_SECONDS
    done = removed if is_running and not is_long and not call.route.is_public else None
    for lane in (lane_key(version.id, low=call.is_low, slow=call.is_slow), pool_key(version.hardware, low=call.is_low)):
        connection.send(done, "LREM", lane, 1, call.frame)
    if is_running and is_long:
        connection.send(None, "PUBLISH", WITHDRAWN, call.id)
