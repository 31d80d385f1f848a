"""Every route under /api/v1/, found in the URL table: none answers without a key, none without its scope."""

import json
import re

import pytest
from django.test import Client
from django.urls import URLPattern, get_resolver

from saas.lib.errors import MethodNotAllowed, Unavailable
from tenants import events
from tenants.permissions import SCOPES, SIGNED_IN, required_scope

METHODS = ("get", "post", "put", "patch", "delete")
VALUES = {"uuid": "00000000-0000-7000-8000-000000000001", "int": "1"}


def routes(patterns, prefix=""):
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            yield path, pattern.callback
        else:
            yield from routes(pattern.url_patterns, path)


def calls():
    """(method, path with values filled in, view class) of every management route."""
    for path, callback in routes(get_resolver().url_patterns):
        view = getattr(callback, "cls", None)
        if path.startswith("api/v1/") and view is not None:
            filled = re.sub(r"<(?:(\w+):)?\w+>", lambda part: VALUES.get(part[1], "x"), path)
            for method in METHODS:
                if hasattr(view, method):
                    yield method, f"/{filled}", view


def test_the_table_is_not_empty():
    assert len(list(calls())) > 20


def test_every_view_says_what_it_needs():
    for method, path, view in calls():
        try:
            needed = required_scope(view, method.upper())
        except MethodNotAllowed:
            pytest.fail(f"{method} {path} has a method but no scope")
        assert needed == SIGNED_IN or needed in SCOPES, (method, path, needed)


def test_without_a_key_every_route_answers_401(client_of):
    client = client_of(None)
    for method, path, _ in calls():
        response = getattr(client, method)(path)
        assert (response.status_code, response.json()["code"]) == (401, "api_key_missing"), (method, path)


def test_without_the_scope_every_route_answers_403(client_of, make_key, alice):
    lacking = {scope: make_key(alice.organization, scopes=[s for s in SCOPES if s != scope])[1] for scope in SCOPES}
    for method, path, view in calls():
        needed = required_scope(view, method.upper())
        if needed == SIGNED_IN:
            continue
        response = getattr(client_of(lacking[needed]), method)(path)
        assert (response.status_code, response.json()["code"]) == (403, "scope_missing"), (method, path)


def test_a_failure_after_the_commit_is_a_problem_too(client_of, alice):
    def unavailable(organization_id):
        raise Unavailable("Stored, but it does not hold yet.", retry_after=1)

    events.quota_changed.append(unavailable)
    try:
        response = client_of(alice).post("/api/v1/keys", {"name": "x"}, format="json")
    finally:
        events.quota_changed.remove(unavailable)

    assert (response.status_code, response.json()["code"], response["Retry-After"]) == (503, "unavailable", "1")


UNKNOWN = ["/api", "/api/", "/api/v1", "/api/v1/", "/api/v1/nothing", "/api/v1/keys/", "/api/v1/models/a/b/c/d", "/api/v2/keys"]
ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]


def clients(make_key, user):
    """Nobody, a key, a session with its token for CSRF, and one without."""
    nobody, keyed, session, untold = (Client(enforce_csrf_checks=True) for _ in range(4))
    keyed.defaults["HTTP_AUTHORIZATION"] = f"Bearer {make_key(user.organization)[1]}"
    session.force_login(user)
    session.cookies["csrftoken"] = session.defaults["HTTP_X_CSRFTOKEN"] = "t" * 32
    untold.force_login(user)
    return nobody, keyed, session, untold


@pytest.mark.parametrize("path", UNKNOWN)
def test_an_unknown_route_is_not_found_by_any_method(alice, make_key, path):
    for client in clients(make_key, alice):
        for method in ALL_METHODS:
            response = client.generic(method, path, b'{"a": 1}', "application/json")
            assert (response.status_code, response["Content-Type"]) == (404, "application/problem+json"), (method, path)


def test_a_wrong_method_is_refused_whoever_asks(alice, make_key):
    asked = clients(make_key, alice)
    for path, view in {(path, view) for _, path, view in calls()}:
        taken = {method.upper() for method in METHODS if hasattr(view, method)}
        allowed = {*taken, "OPTIONS"} | ({"HEAD"} if "GET" in taken else set())
        for method in set(ALL_METHODS) - allowed:
            for client in asked:
                response = client.generic(method, path, b"{}", "application/json")
                assert (response.status_code, response["Content-Type"]) == (405, "application/problem+json"), (method, path)
                assert set(response["Allow"].split(", ")) == allowed
                assert method == "HEAD" or response.json()["code"] == "method_not_allowed"


def test_the_methods_of_a_route_can_be_asked_for(client_of, alice):
    for path in {path for _, path, _ in calls() if "x" not in path.split("/")}:
        response = client_of(alice).options(path)
        assert response.status_code == 200, (path, response.content)
        assert "OPTIONS" in response["Allow"]


@pytest.mark.parametrize(("path", "status"), [("auth/login", 405), ("nothing", 404), ("", 404)])
@pytest.mark.parametrize("client", ["app", "browser"])
def test_accounts_answer_alike(client, path, status):
    for method in ("TRACE", "PUT", "PROPFIND"):
        response = Client(enforce_csrf_checks=True).generic(method, f"/_allauth/{client}/v1/{path}", b"{}", "application/json")
        assert (response.status_code, response["Content-Type"]) == (status, "application/problem+json")


def test_a_session_without_its_token_is_told_so_as_a_problem(alice):
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    body = json.dumps({"email": "x@example.org"})
    for path, method in (("/_allauth/browser/v1/account/email", "PUT"), ("/api/v1/keys", "POST")):
        response = client.generic(method, path, body, "application/json")
        assert (response.status_code, response["Content-Type"]) == (403, "application/problem+json")
        assert response.json()["code"] == "scope_missing"
        assert "CSRF" in response.json()["detail"]
