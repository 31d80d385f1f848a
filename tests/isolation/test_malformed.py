"""Whatever is sent to a management or account route, the answer is JSON and no fault of ours. Generated from the URL table."""

import json
import secrets

import pytest
from django.test import Client

from tests.isolation.routes import ACCOUNT, MANAGEMENT
from tests.isolation.world import all_routes

APP, BROWSER = "/_allauth/app/v1/", "/_allauth/browser/v1/"
PASSWORD = "correct horse battery"
UPLOAD = "POST /api/v1/models/{model}/versions"

BODIES = {
    "PATCH /api/v1/organization": {"name": "x"},
    "PATCH /api/v1/members/{member}": {"role": "viewer"},
    "DELETE /api/v1/members/{member}": {},
    "POST /api/v1/invitations": {"email": "eve@example.org", "role": "viewer"},
    "POST /api/v1/invitations/accept": {"token": "x"},
    "DELETE /api/v1/invitations/{invitation}": {},
    "POST /api/v1/keys": {
        "name": "x", "scopes": ["models:read"], "models": ["iris"], "mode": "live", "expires_at": "2030-01-01T00:00:00Z",
        "limits": {"rate": 1, "burst": 1, "concurrency": 1, "monthly_calls": 1},
    },
    "PATCH /api/v1/keys/{key}": {
        "name": "x", "scopes": ["models:read"], "models": ["iris"], "expires_at": "2030-01-01T00:00:00Z",
        "limits": {"rate": 1, "burst": 1, "concurrency": 1, "monthly_calls": 1},
    },
    "DELETE /api/v1/keys/{key}": {},
    "POST /api/v1/keys/{key}/rotate": {"overlap_seconds": 1, "expires_at": "2030-01-01T00:00:00Z"},
    "POST /api/v1/models": {"name": "x", "task": "tensor", "description": "x", "visibility": "private"},
    "PATCH /api/v1/models/{model}": {"task": "tensor", "description": "x", "visibility": "private"},
    "DELETE /api/v1/models/{model}": {},
    UPLOAD: {},  # a form: its own tests are below
    "DELETE /api/v1/models/{model}/versions/{version}": {},
    "PUT /api/v1/models/{model}/aliases/{alias}": {"version": "1.0.0"},
    "DELETE /api/v1/models/{model}/aliases/{alias}": {},
    "POST /api/v1/models/{model}/aliases/{alias}/rollback": {},
    "POST /api/v1/predictions": {"model": "{model}", "version": "1.0.0", "endpoint": "predict", "input": {"inputs": [[1, 2]]}},
    "POST /api/v1/predictions/{prediction}/cancel": {},
    "POST /api/v1/quote": {"model": "{model}", "rows": 3, "inputs": [1], "timeout": 1.5},
    "POST /api/v1/billing/plan": {"plan": "free", "proration_at": "2026-11-20T00:00:00Z"},
    "POST /api/v1/billing/cancel": {"at": "period_end"},
    "DELETE /api/v1/billing/cancel": {},
    "POST /api/v1/billing/checkout": {"plan": "pro", "credit": "5.00"},
    "POST /api/v1/billing/portal": {},
    "PUT /api/v1/billing/budgets/organization": {"amount": "5.00"},
    "DELETE /api/v1/billing/budgets/organization": {},
    "PUT /api/v1/billing/budgets/{key}": {"amount": "5.00"},
    "DELETE /api/v1/billing/budgets/{key}": {},
}  # fmt: skip
"""Every management route that may have a body, with all of its fields."""

ACCOUNT_BODIES = {
    "DELETE auth/session": {},
    "POST auth/reauthenticate": {"password": PASSWORD},
    "POST auth/code/confirm": {"code": "123456"},
    "POST auth/password/request": {"email": "eve@example.org"},
    "POST auth/password/reset": {"key": "x", "password": PASSWORD},
    "POST auth/login": {"email": "eve@example.org", "password": PASSWORD},
    "POST auth/signup": {"email": "eve@example.org", "password": PASSWORD, "organization": "Eve"},
    "POST auth/email/verify": {"key": "x"},
    "POST auth/email/verify/resend": {},
    "POST auth/phone/verify": {"code": "123456"},
    "POST auth/phone/verify/resend": {},
    "POST account/password/change": {"current_password": PASSWORD, "new_password": PASSWORD + "!"},
    "POST account/email": {"email": "eve@example.org"},
    "PUT account/email": {"email": "eve@example.org"},
    "PATCH account/email": {"email": "eve@example.org", "primary": True},
    "DELETE account/email": {"email": "eve@example.org"},
    "POST account/phone": {"phone": "+123456789"},
    "POST tokens/refresh": {"refresh_token": "x"},
}
"""The same of allauth's."""

DEEP = 3000
UNREADABLE = {
    "nested lists": b"[" * DEEP + b"]" * DEEP,
    "nested objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "nested in a field": b'{"name":' + b"[" * 900 + b"]" * 900 + b"}",
    "a list": b"[]",
    "a text": b'"x"',
    "a number": b"1",
    "null": b"null",
    "half of an object": b'{"name": ',
    "NaN": b'{"name": NaN}',
    "-Infinity": b'{"name": -Infinity}',
    "beyond a double": b'{"name": 1e999}',
    "10**400": b'{"name": 1' + b"0" * 400 + b"}",
    "5,000 digits": b'{"name": ' + b"9" * 5000 + b"}",
    "NUL": b'{"name": "\x00"}',
    "invalid UTF-8": b'{"name": "\xff\xfe"}',
    "UTF-16": '{"name": "x"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"name": "x"}',
    "half a pair in a name": b'{"\\ud800": "x"}',
    "half a pair in a text": b'{"name": "\\ud800", "email": "\\udfff@example.org", "password": "correct horse \\ud800"}',
    "a form": b"name=x&email=y",
    "a form of parts": b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nx\r\n--x--\r\n',
}
CONTENT_TYPES = [
    "", "x", "text/plain", "application/xml", "application/json; charset=hex", "application/json; charset=utf-16",
    "application/json; charset=nonsense", "application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=zip",
    "multipart/form-data", "multipart/form-data; boundary=x", "multipart/form-data; boundary=\xff",
    "multipart/form-data; boundary=" + "y" * 500,
]  # fmt: skip
ODD = [
    None, True, 0, -1, 1.5, 10**18, 10**30, 10**400, 1e308, float("nan"), "", " ", "x\x00", "\ud800", "nan", "1e999",
    "9" * 5000, "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", [], [[]], [None], [1], ["\x00"], ["\ud800"], {},
    {"a": 1}, {"\x00": 1}, {"\ud800": 1}, {"a": {"\x00": "\x00"}},
]  # fmt: skip
QUERY = [
    "%00", "a%00b", "%FF", "%ED%A0%80", "%F0%9F%90%8D", "9" * 400, "-1", "%C2%B2", "[]", "{}", "nan", "%",
    "0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59", "0001-01-01", "9999-12-31", "'", "{00000000}",
]  # fmt: skip
LISTED = ["limit", "cursor", "%FF"]
PARAMETERS = {
    "GET /api/v1/models": [*LISTED, "visibility"],
    "GET /api/v1/predictions": [*LISTED, "status", "model", "created_after", "created_before"],
    "GET /api/v1/usage": ["group_by", "granularity", "from", "to", "format"],
    "GET /api/v1/billing/bill": ["month", "format"],
    "GET /api/v1/billing/plan/preview": ["plan"],
    "GET /api/v1/billing/receipts": ["call"],
    "GET /api/v1/billing/usage": ["granularity", "month", "from", "to", "format"],
    "GET /api/v1/billing/usage/calls": [*LISTED, "hour"],
    "GET /api/v1/usage/calls": [*LISTED, "day", "model", "key", "request_id"],
}
"""What routes read of their query; others that list take what all lists take."""
PATHS = [
    "%00",
    "a%00b",
    "%FF",
    "%ED%A0%80",
    "%C0%80",
    "a%2Fb",
    "%0D%0A",
    "%F0%9F%90%8D",
    "x" * 5000,
    "%",
    "key_" + "%C2%B2" * 32,
]
HEADERS = [
    "X-Organization", "X-Session-Token", "Authorization", "X-API-Key", "Prefer", "Idempotency-Key", "X-Request-Timeout",
    "X-Request-Id", "Traceparent", "Accept", "Accept-Language", "Cookie", "Host", "X-Forwarded-For", "X-CSRFToken", "Referer",
    "X-Email-Verification-Key", "X-Password-Reset-Key", "If-None-Match", "If-Modified-Since", "Range",
]  # fmt: skip
VALUES = [
    "",
    "\xff",
    "é ü",
    "x" * 9000,
    "Bearer \xff",
    "sessionid=\xff; csrftoken=\xff",
    "; ;=,,",
    "wait=99999999999",
    '"',
    "[",
    "1e999",
]
READS = [route for route in MANAGEMENT if route.startswith("GET ")]
WRITES = [route for route in BODIES if BODIES[route]]
ASKED = [(APP, False), (BROWSER, True)]
"""Each account route is asked by nobody and by somebody, since the views of both prefixes are the same."""
ACCOUNT_HEADERS = [
    name for name in HEADERS if name.startswith("X-") or name in ("Authorization", "Cookie", "Host", "Accept-Language")
]


def is_fine(answer, what):
    """The answer is no failure, and JSON unless it is a page of usage as CSV or has no body."""
    if answer.status_code == 503 and answer.json()["code"] == "payments_unavailable":
        return True  # there is no Stripe here
    assert answer.status_code < 500, (what, answer.content[:300])
    if answer.status_code not in (204, 304):
        assert answer.headers["Content-Type"].partition(";")[0] in ("application/json", "application/problem+json"), what
        json.loads(answer.content)
    return True


def is_refused(answer, what):
    is_fine(answer, what)
    assert 400 <= answer.status_code < 500, (what, answer.status_code)
    return True


def place(world, route):
    """(method, path) with Alice's names, but what would be deleted is nobody's."""
    method, path = route.split(" ", 1)
    names = world.nobodys() if method == "DELETE" else world.names()
    return method, path.format(**names)


def address():
    """A network address of its own: accounts are limited by address."""
    return "10.{}.{}.{}".format(*secrets.token_bytes(3))


@pytest.fixture
def send(world):
    """`send(method, path, body, content_type, **headers)` as Alice's key."""
    client = Client(raise_request_exception=False)

    def send(method, path, body=b"", content_type="application/json", **headers):
        headers = {"Authorization": f"Bearer {world.key_text}"} | headers
        return client.generic(method, path, body, content_type, headers=headers)

    return send


@pytest.fixture
def account(module_fixtures):
    """`account(prefix, route, is_signed_in=…)(body, …)`: a route of allauth's, asked by somebody new or by nobody."""

    def asked(prefix, route, *, is_signed_in):
        client, (method, path) = Client(raise_request_exception=False), route.split(" ", 1)
        if is_signed_in:
            client.force_login(module_fixtures["make_user"]("eve"))

        def send(body=b"", content_type="application/json", *, query="", **headers):
            return client.generic(method, f"{prefix}{path}?{query}", body, content_type, headers=headers, REMOTE_ADDR=address())

        return send

    return asked


def everything_can_still_be_read(world, send):
    for route in READS:
        assert is_fine(send(*place(world, route)), route)


# --- the table


def test_no_route_is_missing_here():
    routes = set(all_routes())
    accounts = {route.replace(APP, "") for route in routes if f" {APP}" in route}

    assert {route for route in routes if " /api/" in route} == {*BODIES, *READS}
    assert {route.replace(BROWSER, "") for route in routes if f" {BROWSER}" in route} <= accounts == set(ACCOUNT)
    assert {route for route in ACCOUNT if not route.startswith("GET ")} == set(ACCOUNT_BODIES)


# --- bodies


@pytest.mark.parametrize("route", BODIES)
def test_a_body_that_cannot_be_read_is_refused(world, send, route):
    method, path = place(world, route)
    check = is_refused if BODIES[route] else is_fine  # who needs no body reads none
    for name, body in UNREADABLE.items():
        assert check(send(method, path, body), name)
    assert is_fine(send(method, path), "empty")


@pytest.mark.parametrize("route", BODIES)
def test_another_content_type_is_refused(world, send, route):
    method, path = place(world, route)
    check = is_refused if BODIES[route] else is_fine
    for content_type in CONTENT_TYPES:
        for body in (b'{"name": "x"}', UNREADABLE["a form of parts"], b"\xff\x00"):
            assert check(send(method, path, body, content_type), content_type)


@pytest.mark.parametrize("route", WRITES)
def test_odd_values_are_taken_or_refused(world, send, route):
    method, path = place(world, route)
    whole = BODIES[route] | ({"model": world.name} if "model" in BODIES[route] else {})
    bodies = [whole | {field: odd} for field in whole for odd in ODD]
    for field, inner in whole.items():
        if isinstance(inner, dict):
            bodies += [whole | {field: inner | {name: odd}} for name in inner for odd in ODD]
        elif isinstance(inner, list):
            bodies += [whole | {field: [odd]} for odd in ODD]
    for body in bodies:
        assert is_fine(send(method, path, json.dumps(body)), body)
    everything_can_still_be_read(world, send)


@pytest.mark.parametrize("route", BODIES)
def test_a_sessions_odd_form_is_refused_when_its_token_is_looked_for(world, route):
    method, path = place(world, route)
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    client.force_login(world.alice)
    for content_type in CONTENT_TYPES:
        for body in (b'{"name": "x"}', UNREADABLE["a form of parts"], b"a=1&" * 2000):
            assert is_refused(client.generic(method, path, body, content_type), content_type)


def test_a_form_is_no_body_though_its_token_was_read(world):
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    client.force_login(world.alice)
    client.cookies["csrftoken"] = token = "t" * 32
    form = {"csrfmiddlewaretoken": token, "overlap_seconds": "0"}

    answer = client.post(f"/api/v1/keys/{world.nobodys()['key']}/rotate", form)

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


MANIFESTS = [
    *[body for name, body in UNREADABLE.items() if name != "a form of parts"],
    b"",
    b'{"labels": ["\\u0000"]}',
    b'{"labels": ["a\\u0000b", "c"]}',
    b'{"\\u0000": 1}',
    b'{"tokenizer": {"a": "\\u0000"}}',
    b'{"tokenizer": ' + b'{"a":' * 500 + b"1" + b"}" * 501,
    b'{"task": "text-classification", "preprocessing": [{"step": "tokenize"}], "tokenizer": {"a": "\\u0000"}}',
    b'{"preprocessing": [{"step": "scale", "by": 1' + b"0" * 400 + b"}]}",
    b'{"version": 1}',
    b'{"version": "\\u0000"}',
    b'{"task": ["tensor"]}',
]


def form(**fields):
    parts = [b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name.encode(), more, value)
             for name, (more, value) in fields.items()]  # fmt: skip
    return b"".join(parts) + b"--x--\r\n"


@pytest.mark.parametrize("how", [b"", b'; filename="manifest.json"'])
def test_an_upload_with_an_odd_manifest_is_refused(world, send, how):
    path, artifact = f"/api/v1/models/{world.name}/versions", (b'; filename="a"', b"x")
    for manifest in MANIFESTS:
        body = form(artifact=artifact, manifest=(how, manifest))
        assert is_refused(send("POST", path, body, "multipart/form-data; boundary=x"), manifest[:80])
    everything_can_still_be_read(world, send)


def test_an_upload_whose_form_is_odd_is_refused(world, send):
    path, artifact = f"/api/v1/models/{world.name}/versions", (b'; filename="a"', b"x")
    odd = [
        form(artifact=artifact)[:-20],
        form(artifact=artifact, version=(b"", b"1.0.\xff")),
        form(artifact=artifact, version=(b"", b"9.9.\x00")),
        form(artifact=artifact, version=(b'; filename="v"', b"1.0.1")),
        form(artifact=(b"", b"x")),
        form(artifact=artifact, **{"\x00": (b"", b"x")}),
        form(**{f"f{number}": (b"", b"x") for number in range(2000)}),
        form(**{f"f{number}": (b'; filename="a"', b"x") for number in range(200)}),
        b"--x\r\n" * 1000,
        b"",
    ]
    for body in odd:
        assert is_refused(send("POST", path, body, "multipart/form-data; boundary=x"), body[:200])


# --- queries, paths, headers


@pytest.mark.parametrize("route", READS)
def test_an_odd_query_is_taken_or_refused(world, send, route):
    method, path = place(world, route)
    for value in QUERY:
        for name in PARAMETERS.get(route, LISTED):
            assert is_fine(send(method, f"{path}?{name}={value}"), (name, value))
    assert is_fine(send(method, f"{path}?{'a=1&' * 2000}"), "2,000 parameters")


@pytest.mark.parametrize("route", MANAGEMENT)
def test_a_format_that_the_route_does_not_have_is_refused(world, send, route):
    method, path = place(world, route)
    for other in ("xml", "api", "", "JSON") + (() if path.endswith("/usage") else ("csv",)):
        answer = send(method, f"{path}?format={other}")
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), other
        assert [error["field"] for error in answer.json()["errors"]] == ["format"]
        assert "json" in answer.json()["detail"]
        assert send(method, f"{path}?format={other}", Authorization="").status_code == 401
    if method == "GET":
        # A test above may have removed a budget; a preview is of a plan.
        of_plan = "&plan=free" if path.endswith("/preview") else ""
        assert send(method, f"{path}?format=json{of_plan}").status_code in (200, 404)


def test_a_nul_in_a_query_is_refused_everywhere(world, send):
    for route in READS:
        answer = send(*place(world, f"{route}?x=%00"))
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("route", [route for route in MANAGEMENT if "{" in route])
def test_an_odd_path_is_refused(world, send, route):
    method, path = route.split(" ", 1)
    body = json.dumps(BODIES.get(route, {}))
    for field in {word.partition("}")[0] for word in path.split("{")[1:]}:
        for odd in PATHS:
            assert is_refused(send(method, path.format(**world.names() | {field: odd}), body), (field, odd))


@pytest.mark.parametrize("route", ["GET /api/v1/me", "GET /api/v1/usage", "POST /api/v1/keys", "POST /api/v1/predictions"])
def test_odd_headers_are_taken_or_refused(world, send, route):
    method, path = place(world, route)
    body = json.dumps(BODIES.get(route, {}))
    for name in HEADERS:
        for value in VALUES:
            assert is_fine(send(method, path, body, **{name: value}), (name, value))


# --- accounts


@pytest.mark.parametrize(("prefix", "is_signed_in"), ASKED)
@pytest.mark.parametrize("route", ACCOUNT_BODIES)
def test_an_account_body_that_cannot_be_read_is_refused(account, prefix, route, is_signed_in):
    asks = account(prefix, route, is_signed_in=is_signed_in)
    for name, body in UNREADABLE.items():
        assert is_refused(asks(body), name)
    for content_type in CONTENT_TYPES[4:]:
        assert is_refused(asks(b"\xff\x00", content_type), content_type)
    assert is_refused(asks(b'{"a": "%b"}' % (b"x" * (1 << 20))), "large")


@pytest.mark.parametrize(("prefix", "is_signed_in"), ASKED)
@pytest.mark.parametrize("route", ACCOUNT_BODIES)
def test_odd_values_in_an_account_body_are_taken_or_refused(account, prefix, route, is_signed_in):
    whole = ACCOUNT_BODIES[route]
    for field in whole:
        asks = account(prefix, route, is_signed_in=is_signed_in)
        for odd in ODD:
            body = json.dumps(whole | {field: odd})
            assert is_fine(asks(body), body)


@pytest.mark.parametrize(
    ("route", "prefix", "is_signed_in"),
    [
        (route, *asked)
        for route in ACCOUNT
        for asked in ASKED
        if route != "DELETE auth/session" and (route, asked[0]) != ("POST tokens/refresh", BROWSER)  # browsers have no tokens
    ],
)
def test_odd_headers_and_queries_of_accounts_are_taken_or_refused(account, prefix, route, is_signed_in):
    body, asks = json.dumps(ACCOUNT_BODIES.get(route, {})), account(prefix, route, is_signed_in=is_signed_in)
    for name in ACCOUNT_HEADERS:
        assert is_fine(asks(body, **{name: "\xff; ;=,," + "x" * 9000}), name)
    assert is_fine(asks(body, query="&".join(f"x={value}&{value}=x" for value in QUERY if "%00" not in value)), "query")
