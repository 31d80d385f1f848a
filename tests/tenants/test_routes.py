"""Every route under /api/v1/, found in the URL table: none answers without a key, none without its scope."""

import re

import pytest
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
