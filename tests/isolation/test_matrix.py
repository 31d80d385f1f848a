"""Every management route, from the URL table: who may call it, and that a stranger learns nothing from it."""

import io
import json
from uuid import UUID

import pytest
from django.contrib import admin
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import get_resolver

from saas.lib.ids import uuid7
from tests.isolation.routes import ACCOUNT, ANONYMOUS, MANAGEMENT, OPEN, PAGES, SESSION, SIGNED_IN
from tests.isolation.world import all_routes, walk

BODIES = {
    "PATCH /api/v1/organization": {"name": "x"},
    "PATCH /api/v1/members/{member}": {"role": "viewer"},
    "POST /api/v1/invitations": {"email": "eve@example.org"},
    "POST /api/v1/invitations/accept": {"token": "{token}"},
    "POST /api/v1/keys": {"name": "x"},
    "PATCH /api/v1/keys/{key}": {"name": "x"},
    "POST /api/v1/models": {"name": "x"},
    "PATCH /api/v1/models/{model}": {"description": "x"},
    "PUT /api/v1/models/{model}/aliases/{alias}": {"version": "1.0.0"},
    "POST /api/v1/predictions": {"model": "{model}", "input": {"inputs": [[1, 2]]}},
    "POST /api/v1/quote": {"model": "{model}", "rows": 3},
    "POST /api/v1/billing/plan": {"plan": "free"},
    "POST /api/v1/billing/checkout": {"plan": "pro"},
    "POST /api/v1/billing/cancel": {"at": "period_end"},
}
"""Bodies that would do, so that nothing else is refused before the name is looked up."""

SCOPED = [route for route, scope in MANAGEMENT.items() if scope != SIGNED_IN]
NAMING = [route for route in MANAGEMENT if "{" in route] + ["POST /api/v1/predictions", "POST /api/v1/quote"]
CLIENTS = ("/_allauth/browser/v1/", "/_allauth/app/v1/")


def send(client, route, names, *, model="{model}", **headers):
    """Send `route` with `names` in its path and body; `model` is how the model is named."""
    method, path = route.split(" ", 1)
    named = names | {"model": model.format(**names)}
    headers = {"headers": headers} if headers else {}
    if route == "POST /api/v1/models/{model}/versions":
        return client.post(path.format(**named), {"artifact": io.BytesIO(b"x")}, format="multipart", **headers)
    body = {field: value.format(**named) if isinstance(value, str) else value for field, value in BODIES.get(route, {}).items()}
    if method == "GET":
        return client.get(path.format(**named), **headers)
    return getattr(client, method.lower())(path.format(**named), body, format="json", **headers)


def counted(client, route, names, **options):
    """(answer, number of SQL queries)."""
    with CaptureQueriesContext(connection) as queries:
        answer = send(client, route, names, **options)
    return answer, len(queries)


def shape(answer, names):
    """The answer without what differs by call, and with the caller's own words taken out."""
    text = answer.content.decode()
    for word in sorted(names.values(), key=len, reverse=True):
        text = text.replace(word, "…")
    body = json.loads(text)
    body.pop("request_id", None)
    return answer.status_code, sorted(answer.headers), body


# --- the table


def test_every_route_is_in_the_reviewed_table():
    reviewed = {*MANAGEMENT, *PAGES}
    for client in CLIENTS:
        reviewed |= {route.replace(" ", f" {client}") for route in ACCOUNT}
    reviewed.discard(f"POST {CLIENTS[0]}tokens/refresh")  # browsers have cookies, no tokens

    assert set(all_routes()) == reviewed


def test_a_views_scope_is_the_tables():
    from tenants.permissions import SIGNED_IN as ANY_SIGNED_IN
    from tenants.permissions import required_scope

    views = dict(walk(get_resolver().url_patterns))
    for route, scope in MANAGEMENT.items():
        method, path = route.split(" ", 1)
        assert required_scope(views[path].cls, method) == (ANY_SIGNED_IN if scope == SIGNED_IN else scope), route


# --- no key, no scope


@pytest.mark.parametrize("route", MANAGEMENT)
def test_without_a_key_there_is_nothing(world, client_of, route):
    for names in (world.names(), world.nobodys()):
        answer = send(client_of(None), route, names)
        assert (answer.status_code, answer.json()["code"]) == (401, "api_key_missing")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    wrong = send(client_of("maas_live_nothing"), route, world.names())
    assert (wrong.status_code, wrong.json()["code"]) == (401, "api_key_invalid")
    assert client_of(None).options(route.split(" ")[1].format(**world.names())).status_code == 401


@pytest.mark.parametrize("route", SCOPED)
def test_a_key_without_the_scope_is_refused_before_anything_is_looked_up(world, client_of, route):
    client, before = client_of(world.key_without(MANAGEMENT[route])), world.state()

    refused = [send(client, route, names) for names in (world.names(), world.nobodys())]

    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
        assert MANAGEMENT[route] in answer.json()["detail"]
    assert world.state() == before


@pytest.mark.parametrize("route", SCOPED)
def test_a_role_without_the_permission_is_refused(world, client_of, route):
    from tenants.permissions import ROLES

    before = world.state()
    answer = send(client_of(world.viewer), route, world.names())

    if MANAGEMENT[route] in ROLES["viewer"]:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    assert world.state() == before


def test_routes_for_whoever_is_signed_in_decide_themselves(world, client_of):
    before = world.state()
    removed = send(client_of(world.key_without("members:write")), "DELETE /api/v1/members/{member}", world.names())
    assert removed.status_code == 403
    assert send(client_of(world.viewer), "DELETE /api/v1/members/{member}", world.names()).status_code == 403
    assert send(client_of(world.key_text), "POST /api/v1/invitations/accept", world.names()).status_code == 403
    assert world.state() == before


# --- strangers


@pytest.fixture(params=["session", "key"])
def stranger(request, world, client_of):
    client = client_of(world.charlie if request.param == "session" else world.stranger_key)
    if request.param == "session":
        client.get("/api/v1/me")
    return client


def answered_as_if_it_had_never_existed(stranger, route, world, **options):
    mine, nobodys, before = world.names(), world.nobodys(), world.state()
    send(stranger, route, nobodys, **options)  # what is done once only is done by now

    existing, queries = counted(stranger, route, mine, **options)
    missing, queries_for_nothing = counted(stranger, route, nobodys, **options)

    is_keys_alone = route == "POST /api/v1/predictions" and "sessionid" in stranger.cookies
    assert existing.status_code == (401 if is_keys_alone else 404), existing.content
    assert shape(existing, mine) == shape(missing, nobodys)
    assert queries == queries_for_nothing
    assert world.state() == before


@pytest.mark.parametrize("route", NAMING)
def test_what_is_alices_does_not_exist_for_a_stranger(world, stranger, route):
    answered_as_if_it_had_never_existed(stranger, route, world)


@pytest.mark.parametrize("route", [route for route in NAMING if "{model}" in route or "predictions" in route.rsplit("/", 1)[1]])
def test_nor_does_it_under_her_organizations_name(world, stranger, route):
    answered_as_if_it_had_never_existed(stranger, route, world, model="{organization}/{model}")


@pytest.mark.parametrize("route", MANAGEMENT)
def test_nor_does_her_organization(world, client_of, route):
    """A session names its organization by header: another's is answered as one that never was."""
    client, before, answers = client_of(world.charlie), world.state(), []
    client.get("/api/v1/me")
    for names in (world.names(), world.nobodys()):
        answer, queries = counted(client, route, names, **{"X-Organization": names["organization"]})
        answers.append((shape(answer, names), queries))
    assert answers[0] == answers[1]
    assert answers[0][0][0] == 404
    assert world.state() == before


LISTS = [
    "GET /api/v1/keys?cursor={key_hex}",
    "GET /api/v1/members?limit=100",
    "GET /api/v1/invitations?limit=100",
    "GET /api/v1/models?limit=100",
    "GET /api/v1/models?visibility=public&limit=100",
    "GET /api/v1/audit-events?limit=100",
    "GET /api/v1/predictions?model={organization}/{model}",
    "GET /api/v1/predictions?model={model}",
    "GET /api/v1/predictions?cursor={prediction_hex}",
    "GET /api/v1/usage?group_by=model,version,key,mode",
    "GET /api/v1/usage/calls?model={organization}/{model}",
    "GET /api/v1/usage/calls?key={public_id}",
    "GET /api/v1/usage/calls?request_id={request_id}",
    "GET /api/v1/limits",
    "GET /api/v1/me",
    "GET /api/v1/organization",
]


@pytest.fixture(scope="module")
def used(world, embedded):
    """Alice's model was called once, and the call is in the ledger."""
    import redis

    from tests.billing.journal import Journal, settle, usage

    names = world.names()
    with redis.Redis.from_url(embedded["STATE_URL"]) as state:
        journal = Journal(state)
        full_name = f"{names['organization']}/{names['model']}"
        journal.add(
            usage(
                world.organization.id,
                key=world.key.id.hex,
                model=world.model.id.hex,
                version=world.version.id.hex,
                model_name=full_name,
                request_id=names["request_id"],
            )
        )
        settle(state, journal.name)


@pytest.mark.parametrize("route", LISTS)
def test_lists_and_filters_tell_a_stranger_nothing(world, used, stranger, client_of, route):
    found = []
    for names, change in (
        (world.names(), 0),
        (world.nobodys(), 1),
    ):  # ids are ordered by time: a cursor's neighbour is no row's
        cursors = {"key_hex": world.key.id, "prediction_hex": world.prediction.id}
        named = names | {field: UUID(int=row.int ^ change).hex for field, row in cursors.items()}
        answer, queries = counted(stranger, route, named)
        assert answer.status_code == 200, answer.content
        body = answer.json()
        found.append((body.get("results") if isinstance(body.get("results"), list) else None, queries))
        secrets_ = {value for field, value in world.names().items() if field not in ("version", "alias")}
        shown = answer.content.decode().replace(json.dumps(body.get("next")), "")
        assert not [word for word in secrets_ | {world.organization.id.hex, str(world.organization.id)} if word in shown]
    assert found[0] == found[1]
    if "{model}" in route or "{public_id}" in route or "{request_id}" in route:
        assert found[0][0] == []
        own = send(client_of(world.key_text), route, world.names())
        assert len(own.json()["results"]) == 1, "the filter finds nothing, so this proves nothing"


def test_an_invitation_is_for_whom_it_was_sent_to(world, stranger):
    accept = "POST /api/v1/invitations/accept"
    before = world.state()
    answers = [send(stranger, accept, names) for names in (world.names(), world.nobodys())]
    assert shape(answers[0], world.names()) == shape(answers[1], world.nobodys())
    assert answers[0].status_code in (403, 404)  # 403 for any key: only people accept
    assert world.state() == before


# --- what nobody may set


NOBODY = UUID("01980000-0000-7000-8000-000000000000")
FORBIDDEN = [
    *[("PATCH /api/v1/organization", field, value) for field, value in {
        "id": f"org_{NOBODY.hex}", "slug": "taken", "is_active": True, "rate": 1e9, "limits": {"rate": 1e9},
        "monthly_calls": None, "created_at": "2020-01-01", "tenant_id": str(NOBODY),
    }.items()],
    *[(f"{method}", field, value) for method in ("POST /api/v1/keys", "PATCH /api/v1/keys/{key}") for field, value in {
        "organization": "catalog", "tenant_id": str(NOBODY), "id": f"key_{NOBODY.hex}", "public_id": "a" * 12, "hash": "00",
        "pepper_version": 9, "created_by": f"usr_{NOBODY.hex}", "last_used_at": "2020-01-01", "revoked_at": None,
        "is_staff": True, "rate": 1e9,
    }.items()],
    ("PATCH /api/v1/keys/{key}", "mode", "test"),
    ("POST /api/v1/keys", "models", [".*"]),
    ("POST /api/v1/keys", "scopes", ["*"]),
    *[("PATCH /api/v1/members/{member}", field, value) for field, value in {
        "user": f"usr_{NOBODY.hex}", "organization": "catalog", "is_staff": True, "email": "x@example.org", "role": "operator",
    }.items()],
    *[("POST /api/v1/invitations", field, value) for field, value in {
        "organization": "catalog", "token": "x", "accepted_at": "2020-01-01", "expires_at": "2100-01-01", "role": "operator",
    }.items()],
    *[(method, field, value) for method in ("POST /api/v1/models", "PATCH /api/v1/models/{model}") for field, value in {
        "organization": "catalog", "tenant_id": str(NOBODY), "id": f"mdl_{NOBODY.hex}", "state": "ready", "digest": "0" * 64,
        "deleted_at": None, "aliases": {"production": "1.0.0"},
    }.items()],
    ("PATCH /api/v1/models/{model}", "name", "renamed"),
    ("PUT /api/v1/models/{model}/aliases/{alias}", "organization", "catalog"),
    ("PUT /api/v1/models/{model}/aliases/{alias}", "model", "iris"),
    *[("POST /api/v1/predictions", field, value) for field, value in {
        "organization": "catalog", "status": "succeeded", "key": "x", "attempts": 0, "output": {}, "hardware": "gpu",
    }.items()],
]  # fmt: skip


@pytest.mark.parametrize(("route", "field", "value"), FORBIDDEN)
def test_protected_fields_are_refused(world, client_of, monkeypatch, route, field, value):
    before = world.state()
    monkeypatch.setitem(BODIES, route, BODIES[route] | {field: value})

    answer = send(client_of(world.key_text), route, world.names())

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), answer.content
    assert any(error["field"].partition(".")[0] == field for error in answer.json()["errors"])
    assert world.state() == before


@pytest.mark.parametrize("who", ["alice", "key"])
@pytest.mark.parametrize("route", ["POST /api/v1/models", "PATCH /api/v1/models/{model}"])
def test_nobody_but_operators_publishes(world, client_of, monkeypatch, route, who):
    before = world.state()
    monkeypatch.setitem(BODIES, route, BODIES[route] | {"visibility": "public"})
    answer = send(client_of(world.alice if who == "alice" else world.key_text), route, world.names())
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    assert world.state() == before


@pytest.mark.parametrize("field", ["digest", "state", "organization", "hardware", "verdict", "is_batchable"])
def test_an_upload_says_nothing_of_what_is_measured(world, client_of, field):
    url, form = f"/api/v1/models/{world.name}/versions", {"artifact": io.BytesIO(b"x"), field: "ready"}
    answer = client_of(world.key_text).post(url, form, format="multipart")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert client_of(world.key_text).get(url).json()["results"][0]["version"] == "1.0.0"


def test_signing_up_makes_no_operator(embedded):
    from tenants.databases import as_operator
    from tenants.models import User

    email = f"eve-{uuid7().hex}@example.org"
    body = {"email": email, "password": "correct horse battery", "is_staff": True, "is_superuser": True, "role": "owner"}
    answer = Client().post("/_allauth/app/v1/auth/signup", body, content_type="application/json")

    assert answer.status_code in (200, 400), answer.content
    with as_operator():
        assert not User.objects.filter(email=email, is_staff=True).exists()
        assert not User.objects.filter(email=email, is_superuser=True).exists()


# --- pages, accounts, the admin


@pytest.mark.parametrize("path", ["/docs/", "/docs/openapi.json", "/livez", "/readyz"])
def test_open_pages_show_nothing_of_anybody(world, client_of, path):
    answer = client_of(None).get(path)
    assert answer.status_code == 200
    assert world.name not in answer.content.decode()
    assert client_of(None).get("/api/v1/nothing").status_code == 404


@pytest.mark.parametrize(
    ("prefix", "route"), [(p, r) for p in CLIENTS for r in ACCOUNT if (p, r) != (CLIENTS[0], "POST tokens/refresh")]
)
def test_accounts_are_for_the_person_who_is_signed_in(world, client_of, route, prefix):
    method, path = route.split(" ", 1)
    for client in (client_of(None), client_of(world.key_text)):
        answer = getattr(client, method.lower())(prefix + path, {} if method != "GET" else None, format="json")
        if ACCOUNT[route] == SESSION:
            assert answer.status_code == 401, answer.content
        elif ACCOUNT[route] == OPEN:
            assert answer.status_code == 200
        else:
            assert ACCOUNT[route] == ANONYMOUS
            assert answer.status_code in (400, 401, 404, 409), answer.content
        assert world.alice.email not in answer.content.decode()


def admin_paths():
    for path, _ in walk([each for each in get_resolver().url_patterns if str(each.pattern) == "admin/"]):
        path = path.replace("{app_label}", "tenants").replace("{content_type_id}", "1")
        yield path if path.startswith("/") else "/admin/nothing"


def test_the_admin_is_the_operators_alone(world, client_of):
    paths = {path.replace("{object_id}", str(world.model.id)) for path in admin_paths()}
    assert len(paths) > 5 * len(admin.site._registry)  # five pages a table: the walk found them
    for client in (client_of(None), client_of(world.alice), client_of(world.key_text)):
        for path in sorted(paths - {"/admin/login/", "/admin/logout/"}):
            for method in (client.get, client.post):
                answer = method(path)
                assert answer.status_code in (302, 404, 405), path
                if answer.status_code == 302:
                    assert answer.headers["Location"].startswith("/admin/login/"), path
                assert world.name not in answer.content.decode()


# --- names that cannot be


IMPOSSIBLE = ["%00", "a%00b", "UPPER", "a" * 70, "a%20b", "%F0%9F%90%8D", "a:b", "%0A"]
NAMED_IN_THE_PATH = [route for route in MANAGEMENT if "{" in route]


@pytest.mark.parametrize("route", NAMED_IN_THE_PATH)
def test_what_cannot_be_a_name_is_not_found(world, client_of, route):
    client, before = client_of(world.alice), world.state()
    names = world.names()
    for field in [
        field for field in ("model", "version", "alias", "key", "member", "invitation", "prediction") if f"{{{field}}}" in route
    ]:
        for impossible in IMPOSSIBLE:
            answer = send(client, route, names | {field: impossible})
            # Who sets an alias is told what is wrong with its name; a NUL is no name of anything.
            is_told = field == "alias" and route.startswith("PUT") and "%00" not in impossible
            assert answer.status_code == (422 if is_told else 404), (field, impossible, answer.content)
    assert world.state() == before


@pytest.mark.parametrize("model", [name for name in IMPOSSIBLE if "%00" not in name])  # in a query that is refused everywhere
def test_predictions_of_what_cannot_be_a_model_are_not_found(world, client_of, model):
    assert client_of(world.key_text).get(f"/api/v1/predictions?model={model}").status_code == 404
