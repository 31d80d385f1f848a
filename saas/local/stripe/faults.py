"""The fault script: what goes wrong next, and how often. It is set over /_standin/faults (saas.local.stripe.steering)."""

from saas.local.stripe.world import World

# Of requests whose path begins with the fault's:
REQUEST_FAULTS = {
    "busy": "429, nothing done",
    "conflict": "409, nothing done",
    "fail_before": "500 saved for its Idempotency-Key, nothing done",
    "fail_after": "500 saved for its Idempotency-Key, although it was done",
    "drop_before": "the connection ends without an answer, nothing done",
    "drop_after": "the connection ends without an answer, although it was done",
    "slow": "the answer takes `value` seconds longer",
}
# Of meter events and webhooks:
OTHER_FAULTS = {
    "reject_usage": "a meter event is taken, and refused later by a thin event",
    "lose": "an event's webhook is never sent",
    "duplicate": "an event's webhook is sent twice",
    "reorder": "an event's webhook waits until the next one was sent",
    "delay": "an event's webhook is sent `value` seconds late",
}
# Not counted; they hold until they are set again:
SETTINGS = {"late_summaries": "usage is seen in summaries and invoices after `value` seconds"}
ACTIONS = {"forget_identifiers": "all identifiers of meter events are forgotten now"}
KINDS = REQUEST_FAULTS | OTHER_FAULTS | SETTINGS | ACTIONS


def put(world: World, kind: str, *, path: str = "/", times: int = 1, value: float = 0.0) -> None:
    """The next `times` requests on `path` (or events) meet this fault. Raises KeyError for an unknown kind."""
    if kind not in KINDS:
        raise KeyError(kind)
    if kind in SETTINGS:
        world.store.set(kind, value)
    elif kind == "forget_identifiers":
        world.store.set("forgotten_before", world.exact_now())
    else:
        row = (kind, path, times, value)
        world.store.db.execute("INSERT INTO fault (kind, path, times, value) VALUES (?, ?, ?, ?)", row)


def clear(world: World) -> None:
    world.store.db.execute("DELETE FROM fault")
    for name in SETTINGS:
        world.store.set(name, 0.0)


def take(world: World, kind: str, path: str = "/") -> float | None:
    """Use up one fault of this kind that is meant for `path`: its value (0.0 without one), None if there is none."""
    rows = world.store.db.execute("SELECT seq, path, value FROM fault WHERE kind = ? AND times > 0 ORDER BY seq", (kind,))
    for seq, wanted, value in rows.fetchall():
        if path.startswith(wanted):
            world.store.db.execute("UPDATE fault SET times = times - 1 WHERE seq = ?", (seq,))
            return float(value)
    return None
