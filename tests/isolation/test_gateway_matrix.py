"""The gateway's own routes, in process on the real servers: who may call each, and that a stranger learns nothing."""

import json
import secrets

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from inference.gateway import stored
from inference.gateway.front import Front
from inference.gateway.line import Gateway
from inference.gateway.metadata import Metadata
from inference.gateway.targets import SERVER_TARGETS, target_of
from saas.asgi import answer, list_routes
from tenants import records
from tests.isolation.routes import GATEWAY, OPEN
from tests.isolation.world import World

MODELS = ["{model}", "{organization}/{model}"]
VERSIONS = ["", "/versions/{version}", "/versions/{alias}"]
CLOSED = [kind for kind, (_, scope) in GATEWAY.items() if scope != OPEN]
NAMING = [kind for kind, (route, _) in GATEWAY.items() if "{model}" in route]
BODY = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}'


@pytest.fixture
def world(make_user, make_organization, join, make_key):
    """One of which the gateway has seen nothing yet."""
    return World(make_user, make_organization, join, make_key)


@pytest.fixture(scope="module")
def one_world(module_fixtures):
    """For tests that look nothing up, so that it does not matter what was asked before."""
    return World(**module_fixtures)


class Door:
    """Asks a gateway as its protocol does. `queries` are the numbers of SQL queries of the lookups since the last ask."""

    def __init__(self, front):
        self.front, self.queries = front, []

    async def ask(self, method, path, key=None, body=BODY):
        """(status, sorted header names, body)."""
        target, sent = target_of(path.encode()), []
        assert target is not None, f"{path} is not the gateway's"
        self.queries.clear()
        headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
        scope = {"method": method, "raw_path": path.encode(), "query_string": b"", "headers": headers}

        async def receive():
            return {"type": "http.request", "body": body if method == "POST" else b""}

        async def send(message):
            sent.append(message)

        await answer(self.front, target, scope, receive, send)
        names = sorted(name for name, _ in sent[0]["headers"])
        return sent[0]["status"], names, json.loads(sent[1]["body"])


@pytest.fixture
async def door(embedded, monkeypatch):
    async def is_ready():
        return True

    gateway = Gateway(
        state_url=embedded["STATE_URL"], lanes_url=embedded["LANES_URL"], lane_max_ms=10_000, stored=stored.Answers()
    )
    await gateway.start()
    door = Door(Front(gateway, list_routes=list_routes, is_ready=is_ready))
    for prefix, maker in list(records.makers.items()):
        monkeypatch.setitem(records.makers, prefix, counting(maker, door.queries))
    yield door
    await gateway.stop(0)
    await door.front.log.close()


def counting(maker, counts):
    def made(name):
        with CaptureQueriesContext(connection) as queries:
            found = maker(name)
        counts.append((name.partition(":")[0], len(queries)))
        return found

    return made


def place(kind, names, model="{model}", version=""):
    """(method, path) of a route with `names`; models are named by `model`, and their versions by `version`."""
    method, path = GATEWAY[kind][0].split(" ", 1)
    return method, path.replace("{model}", model + version).format(**names)


def shape(answered, names):
    status, headers, body = answered
    text = json.dumps(body)
    for word in sorted(names.values(), key=len, reverse=True):
        text = text.replace(word, "…")
    body = json.loads(text)
    body.pop("request_id", None)
    return status, headers, body


@pytest.mark.parametrize("kind", GATEWAY)
async def test_a_format_that_the_route_does_not_have_is_refused(one_world, door, kind):
    method, path = place(kind, one_world.names())
    for query in ("format=xml", "a=1&format=csv", "format=", "format=json&format=xml"):
        status, _, body = await door.ask(method, f"{path}?{query}", one_world.key_text)
        assert (status, body["code"]) == (422, "validation_failed"), query
        assert "json" in body.get("error", body.get("detail"))
    for query in ("format=json", "information=xml", "a=format=xml"):
        assert target_of(f"{path}?{query}".encode()).kind == kind


def test_every_route_of_the_gateway_is_in_the_reviewed_table():
    kinds = {*Metadata(None, list, None).kinds, "infer", "predict"}  # all that `Front.handle` knows
    assert kinds == set(GATEWAY)
    assert {target.kind for target in SERVER_TARGETS.values()} <= kinds
    for kind, (route, _) in GATEWAY.items():
        method, path = route.split(" ", 1)
        target = target_of(path.replace("{model}", "m").encode())
        assert (target.kind, target.method) == (kind, method.encode())
    for path in (b"/v2/models/m/stats", b"/v2/models/m/load", b"/v2/repository/models/m/unload", b"/v2/config", b"/v2/models"):
        assert target_of(path).kind == "unknown"


@pytest.mark.parametrize("kind", GATEWAY)
async def test_without_a_key_only_what_is_open_answers(one_world, door, kind):
    for names in (one_world.names(), one_world.nobodys()):
        status, _, body = await door.ask(*place(kind, names))
        if kind in CLOSED:
            assert (status, body["code"]) == (401, "api_key_missing")
            status, _, body = await door.ask(*place(kind, names), "maas_live_nothing")
            assert (status, body["code"]) == (401, "api_key_invalid")
            assert door.queries == []
        else:
            assert status == 200


@pytest.fixture
def without(world):
    """Scope → a key of Alice's with all others."""
    return {scope: world.key_without(scope) for _, scope in GATEWAY.values() if scope != OPEN}


@pytest.mark.parametrize("kind", CLOSED)
async def test_a_key_without_the_scope_is_refused_before_anything_is_looked_up(world, door, without, kind):
    key = without[GATEWAY[kind][1]]
    for names in (world.names(), world.nobodys()):
        status, _, body = await door.ask(*place(kind, names), key)
        assert (status, body["code"]) == (403, "scope_missing")
        assert [kind for kind, _ in door.queries if kind == "route"] == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", NAMING)
async def test_a_strangers_model_does_not_exist(world, door, kind, model, version):
    """Asked for the first time and again: the same answer, and the same lookups, as for a name that never was."""
    mine, nobodys = world.names(), world.nobodys()
    await door.ask(*place(kind, world.nobodys(), model, version), world.stranger_key)  # now the key is known
    answers = []
    for names in (mine, nobodys):
        first = await door.ask(*place(kind, names, model, version), world.stranger_key)
        queries = list(door.queries)
        again = await door.ask(*place(kind, names, model, version), world.stranger_key)
        answers.append((shape(first, names), queries, shape(again, names), list(door.queries)))

    assert answers[0] == answers[1]
    assert answers[0][0][0] == 404
    own = await door.ask(*place(kind, mine, model, version), world.key_text, b"{")
    assert own[0] == (400 if kind in ("infer", "predict") else 200), own


async def test_what_alice_has_called_is_no_answer_for_a_stranger(world, door):
    """Her lookup leaves the model in the memory of the process: the stranger's is another one."""
    mine, nobodys = world.names(), world.nobodys()
    for model in MODELS:
        assert (await door.ask(*place("metadata", mine, model), world.key_text))[0] == 200
        answers = [shape(await door.ask(*place("metadata", n, model), world.stranger_key), n) for n in (mine, nobodys)]
        assert answers[0] == answers[1]
        assert answers[0][0] == 404


async def test_the_index_shows_ones_own_and_the_catalogue(world, door):
    own = await door.ask("POST", "/v2/repository/index", world.key_text, b"")
    strangers = await door.ask("POST", "/v2/repository/index", world.stranger_key, b"")

    assert world.name in [entry["name"] for entry in own[2]]
    assert all(entry["name"].startswith("catalog/") for entry in strangers[2])
    assert world.name not in json.dumps(strangers[2])


@pytest.fixture
def namesake(world):
    """A model of the stranger's under the name of Alice's."""
    from inference.models import MLModel
    from tenants.scope import tenant_scope

    with tenant_scope(world.stranger.id):
        return MLModel.objects.create(organization=world.stranger, name=world.name, task="tensor")


async def test_of_two_models_of_one_name_each_tenant_gets_its_own(world, namesake, door):
    status, _, body = await door.ask("GET", f"/v2/models/{world.name}", world.stranger_key)

    assert (status, body["error"]) == (404, f"{world.stranger.slug}/{world.name} has no version in production yet")
    assert (await door.ask("GET", f"/v2/models/{world.name}", world.key_text))[0] == 200


async def test_slugs_cannot_be_guessed_by_errors(world, door):
    """An organization that exists and one that does not differ in nothing, whatever the model is called."""
    names = [{"organization": world.organization.slug}, {"organization": f"org-{secrets.token_hex(6)}"}]
    answers = [
        shape(await door.ask("GET", "/v2/models/{organization}/iris".format(**each), world.stranger_key), each)
        for each in names
    ]
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


@pytest.fixture
def key(make_organization, make_key):
    """Of an organization of which the gateway has seen nothing yet."""
    return make_key(make_organization())[1]


@pytest.mark.parametrize("kind", NAMING)
@pytest.mark.parametrize("model", ["%00", "a%00b", "UPPER", "a" * 70, "a%20b", "%F0%9F%90%8D", "a:b", "catalog/%00", "%00/a"])
async def test_what_cannot_be_a_name_is_not_found_before_anything_is_looked_up(key, door, kind, model):
    status, _, body = await door.ask(*place(kind, {}, model), key)
    assert (status, body["code"]) == (404, "not_found")
    assert [kind for kind, _ in door.queries if kind == "route"] == []
