"""What Stripe does not have, over /_standin/…: a clock to move, faults, the requests that came. And test clocks."""

import json
from typing import Any

from saas.local.stripe import faults
from saas.local.stripe.catalogue import need
from saas.local.stripe.refusals import invalid
from saas.local.stripe.routes import route
from saas.local.stripe.store import Json, page
from saas.local.stripe.world import World

MOST_REQUESTS = 10_000


@route("GET", "/_standin/clock")
def show_clock(world: World, params: Json) -> Json:
    return {"now": world.exact_now()}


@route("POST", "/_standin/clock")
def move_clock(world: World, params: Json) -> Json:
    """`to` (seconds since 1970) or `by` (seconds): all that falls due until then is done, in order, before this answers."""
    now = world.exact_now()
    to = float(params["to"]) if "to" in params else now + float(params.get("by", 0))
    if to < now:
        raise invalid("to", "The clock never goes back")
    world.advance(to)
    return {"now": world.exact_now()}


@route("GET", "/_standin/faults")
def show_faults(world: World, params: Json) -> Json:
    rows = world.store.db.execute("SELECT kind, path, times, value FROM fault WHERE times > 0 ORDER BY seq").fetchall()
    waiting = [dict(zip(("kind", "path", "times", "value"), row, strict=True)) for row in rows]
    return {
        "waiting": waiting,
        "settings": {name: world.store.setting(name) for name in faults.SETTINGS},
        "kinds": faults.KINDS,
    }


@route("POST", "/_standin/faults")
def add_fault(world: World, params: Json) -> Json:
    """`kind`, and where it makes sense `path` (a beginning), `times` and `value`."""
    kind = str(params.get("kind"))
    if kind not in faults.KINDS:
        raise invalid("kind", f"There is no fault {kind}: {', '.join(faults.KINDS)}")
    path, times, value = params.get("path", "/"), int(params.get("times", 1)), float(params.get("value", 0))
    faults.put(world, kind, path=path, times=times, value=value)
    return show_faults(world, {})


@route("DELETE", "/_standin/faults")
def remove_faults(world: World, params: Json) -> Json:
    faults.clear(world)
    return show_faults(world, {})


@route("GET", "/_standin/requests")
def show_requests(world: World, params: Json) -> Json:
    """The requests since number `after`, with their parameters as they were read from the form."""
    after = int(params.get("after", 0))
    rows = world.store.db.execute("SELECT seq, method, path, params, status FROM request WHERE seq > ? ORDER BY seq", (after,))
    names = ("seq", "method", "path", "params", "status")
    return {"requests": [dict(zip(names, row, strict=True)) | {"params": json.loads(row[3])} for row in rows.fetchall()]}


@route("GET", "/_standin/deliveries")
def show_deliveries(world: World, params: Json) -> Json:
    """How many webhooks are in which state."""
    rows = world.store.db.execute("SELECT state, count(*) FROM delivery GROUP BY state").fetchall()
    return dict(rows)


@route("POST", "/v1/test_helpers/test_clocks")
def create_clock(world: World, params: Json) -> Json:
    """The world has one clock, which every test clock moves."""
    need(params, "frozen_time")
    _move(world, params)
    body: dict[str, Any] = {"created": world.now(), "deletes_after": world.now() + 30 * 86_400, "name": params.get("name")}
    return world.store.add("test_helpers.test_clock", "clock", body | {"frozen_time": world.now(), "status": "ready"})


@route("POST", "/v1/test_helpers/test_clocks/{id}/advance")
def advance_clock(world: World, params: Json, id: str) -> Json:
    need(params, "frozen_time")
    clock = world.store.get("test_helpers.test_clock", id)
    if int(params["frozen_time"]) > world.now() + 63 * 86_400:
        raise invalid("frozen_time", "A test clock moves at most two intervals at a time")
    _move(world, params)
    return world.store.save(clock | {"frozen_time": world.now()})


@route("GET", "/v1/test_helpers/test_clocks/{id}")
def retrieve_clock(world: World, params: Json, id: str) -> Json:
    return world.store.get("test_helpers.test_clock", id)


@route("GET", "/v1/test_helpers/test_clocks")
def list_clocks(world: World, params: Json) -> Json:
    return page(world.store.all("test_helpers.test_clock"), params, "/v1/test_helpers/test_clocks")


def _move(world: World, params: Json) -> None:
    if int(params["frozen_time"]) < world.now():
        raise invalid("frozen_time", "The clock never goes back")
    world.advance(int(params["frozen_time"]))


def remember(world: World, method: str, path: str, params: Json, status: int) -> None:
    """Note a request for who checks them later."""
    row = (method, path, json.dumps(params), status)
    done = world.store.db.execute("INSERT INTO request (method, path, params, status) VALUES (?, ?, ?, ?)", row)
    world.store.db.execute("DELETE FROM request WHERE seq <= ?", ((done.lastrowid or 0) - MOST_REQUESTS,))
