"""The named points of a drill: moments inside the service at which a fault can strike.

Each is a place in the real modules, told by name, and wrapped from outside (taps.py). The product has no hook for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inference.books.places import GROUPS, KEYED_CLOSES, PLAIN_CLOSES

BEFORE, SENT, HEARD, AFTER = "before", "sent", "heard", "after"
SCRIPT, SCRIPT_SYNC = "saas.lib.valkey:Script.run", "saas.lib.valkey:Script.run_sync"
SUBSCRIBE = "saas.lib.valkey:Connection.subscribe"
Condition = Callable[[tuple[Any, ...], Any], bool]


@dataclass(frozen=True)
class Point:
    """`target` is `module:function` or `module:Class.method`; `moment` is relative to its run.

    SENT and HEARD are for what has a callback: after the function returned, and just before its callback gets the reply; then
    AFTER is after the callback. `condition(arguments, result)` tells which passes count; `result` is None before there is one.
    `trigger` names the part whose kill makes this point be passed at all; one with `needs_hour` is
    passed when an hour has ended and Stripe is told its usage.
    """

    name: str
    part: str  # in whose processes
    target: str
    moment: str
    condition: Condition = lambda arguments, result: True
    trigger: str | None = None
    needs_hour: bool = False

    @property
    def passes(self) -> int:
        """How often a load passes it soon enough that a fault may wait for the last one."""
        if self.trigger or self.needs_hour:
            return 1
        return 2 if self.name.startswith("prediction.") else 20


def _script(file: str, condition: Condition = lambda arguments, result: True) -> Condition:
    return lambda arguments, result: arguments[0].name == file and condition(arguments, result)


KEYS, ARGUMENTS = 3, 4  # of Script.run
OPENS = _script("books.lua", lambda arguments, result: arguments[ARGUMENTS][GROUPS] > 0)
CLOSES = _script(
    "books.lua", lambda arguments, result: arguments[ARGUMENTS][PLAIN_CLOSES] + arguments[ARGUMENTS][KEYED_CLOSES] > 0
)
NUMBER_OF_GROUPS = 1  # of what admit.lua is given, behind the gateway
PUSHES = _script("admit.lua", lambda arguments, result: arguments[ARGUMENTS][NUMBER_OF_GROUPS] > 0)
ADOPTS = _script("session.lua", lambda arguments, result: len(arguments[KEYS]) > 1)
REPLIES: Condition = lambda arguments, result: arguments[0].startswith(b"replies:")  # noqa: E731  # one of a list of names
PUBLISHES: Condition = lambda arguments, result: b"PUBLISH" in b"".join(arguments[1])  # noqa: E731
HAS_RESULT: Condition = lambda arguments, result: bool(result)  # noqa: E731
UNKEYED: Condition = lambda arguments, result: arguments[1].claim is None  # noqa: E731

IS_EVENT: Condition = lambda arguments, result: arguments[2] == "/v1/billing/meter_events"  # noqa: E731

BOOKS, PUMP, LEDGER = "inference.books.client:Books", "inference.pump", "billing.ledger.writing"
USAGE = "billing.stripe.usage"

POINTS = [
    Point("open.before", "gateway", SCRIPT, BEFORE, OPENS),
    Point("open.sent", "gateway", SCRIPT, SENT, OPENS),
    Point("open.heard", "gateway", SCRIPT, HEARD, OPENS),
    Point("open.after", "gateway", SCRIPT, AFTER, OPENS),
    Point("push.before", "gateway", SCRIPT, BEFORE, PUSHES),
    Point("push.sent", "gateway", SCRIPT, SENT, PUSHES),
    Point("push.after", "gateway", SCRIPT, AFTER, PUSHES),
    Point("batch.taken", "worker", f"{PUMP}:Pump._run", BEFORE),
    Point("batch.run", "worker", f"{PUMP}:Pump._run", AFTER),
    Point("reply.sent", "worker", f"{PUMP}:LaneConnection.ask", AFTER, PUBLISHES),
    Point("reply.heard", "gateway", SUBSCRIBE, HEARD, REPLIES),
    Point("reply.after", "gateway", SUBSCRIBE, AFTER, REPLIES),
    Point("answer.before", "gateway", f"{BOOKS}.may_answer", AFTER, HAS_RESULT),
    Point("answer.after", "gateway", f"{BOOKS}.close", BEFORE, UNKEYED),
    Point("close.before", "gateway", SCRIPT, BEFORE, CLOSES),
    Point("close.sent", "gateway", SCRIPT, SENT, CLOSES),
    Point("close.heard", "gateway", SCRIPT, HEARD, CLOSES),
    Point("close.after", "gateway", SCRIPT, AFTER, CLOSES),
    Point("adopt.before", "gateway", SCRIPT, BEFORE, ADOPTS, trigger="state"),
    Point("adopt.heard", "gateway", SCRIPT, HEARD, ADOPTS, trigger="state"),
    Point("prediction.open", "worker", SCRIPT, SENT, OPENS),
    Point("prediction.close", "worker", SCRIPT, SENT, CLOSES),
    Point("prediction.finish", "worker", "inference.predictions.tasks:_finish", BEFORE),
    Point("ledger.before", "bookkeeper", f"{LEDGER}:Writer.write", BEFORE),
    Point("ledger.moved", "bookkeeper", f"{LEDGER}:move_position", AFTER),
    Point("ledger.committed", "bookkeeper", f"{LEDGER}:Writer.write", AFTER),
    Point("trim.after", "bookkeeper", SCRIPT_SYNC, AFTER, _script("trim.lua", HAS_RESULT)),
    Point("hours.added", "bookkeeper", "billing.ledger.hours:_add", AFTER, HAS_RESULT),
    Point("hours.committed", "bookkeeper", "billing.ledger.hours:catch_up", AFTER, HAS_RESULT),
    Point("usage.covered", "ops", "billing.invoicing.push:cover", AFTER, HAS_RESULT, needs_hour=True),
    Point("usage.sent", "ops", f"{USAGE}:send_meter_event", BEFORE, needs_hour=True),
    Point("usage.counted", "stripe", "saas.local.stripe.api:_do", AFTER, IS_EVENT, needs_hour=True),
    Point("usage.heard", "ops", f"{USAGE}:send_meter_event", AFTER, needs_hour=True),
    Point("reap.taken", "bookkeeper", SCRIPT_SYNC, AFTER, _script("take.lua", HAS_RESULT), trigger="gateway"),
    Point("reap.undone", "bookkeeper", SCRIPT_SYNC, AFTER, _script("reap.lua"), trigger="gateway"),
]
BY_NAME = {point.name: point for point in POINTS}
