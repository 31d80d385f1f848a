"""/docs/: the API reference is complete, and the pages of this service load nothing from elsewhere."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.test import RequestFactory
from django.urls import Resolver404, resolve
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator

from tenants.views import LIST_NAMES, ManagementView
from tests.waiting import PATIENCE

OUTSIDE = re.compile(r"""(?:src|href|action|url|from|import)\s*[=(:]?\s*["']?\s*((?:https?:)?//[^"'\s>)]+)""", re.I)


@pytest.fixture(scope="module")
def schema():
    with GENERATOR_STATS.silence():
        GENERATOR_STATS.reset()
        made = SchemaGenerator().get_schema(request=None, public=True)
        complaints = [*GENERATOR_STATS._warn_cache, *GENERATOR_STATS._error_cache]
    assert complaints == []
    return made


def operations(schema):
    return [(path, operation) for path, methods in schema["paths"].items() for operation in methods.values()]


def test_operations_are_grouped_by_what_they_are_about(schema):
    groups = {tag for _, operation in operations(schema) for tag in operation["tags"]}

    assert {"models", "keys", "predictions", "usage", "limits", "members", "invitations", "inference"} <= groups
    assert "api" not in groups


def test_every_operation_has_a_name_of_its_own_and_says_how_to_sign_in(schema):
    names = [operation["operationId"] for _, operation in operations(schema)]

    assert len(names) == len(set(names))
    assert not [name for name in names if re.search(r"_\d+$", name)]
    assert schema["components"]["securitySchemes"].keys() == {"apiKey", "session", "sessionToken"}
    assert not [path for path, operation in operations(schema) if {"session": [], "sessionToken": []} in operation["security"]]
    assert all({"apiKey": []} in operation["security"] for path, operation in operations(schema) if path.startswith("/api/"))


def test_a_query_takes_the_names_that_are_described_and_no_others(schema):
    for place, methods in schema["paths"].items():
        view = view_of(place)
        if "get" in methods and view is not None:
            described = {each["name"] for each in methods["get"].get("parameters", []) if each["in"] == "query"}
            assert described <= view.query_names | LIST_NAMES, place
            assert view.query_names <= described, place


def view_of(place):
    """The management view of a route of the reference; None for the gateway's."""
    try:
        view = getattr(resolve(re.sub(r"\{\w+\}", "x", place)).func, "cls", object)
    except Resolver404:
        return None
    return view if issubclass(view, ManagementView) else None


def test_an_unknown_name_in_a_query_is_refused_on_every_route(schema, client_of, alice):
    client, asked = client_of(alice), 0
    for place, methods in schema["paths"].items():
        if "get" in methods and view_of(place) is not None:
            answer = client.get(re.sub(r"\{\w+\}", "x", place) + "?stauts=failed")
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), place
            assert "'stauts'" in answer.json()["detail"]
            asked += 1
    assert asked > 20


def headers(schema, place, method):
    return {parameter["name"] for parameter in schema["paths"][place][method]["parameters"] if parameter["in"] == "header"}


def test_headers_that_decide_something_are_described(schema):
    assert headers(schema, "/api/v1/keys", "post") == {"X-Organization"}
    assert {"Prefer", "Idempotency-Key", "X-Request-Timeout"} <= headers(schema, "/api/v1/predictions", "post")
    assert "Prefer" in headers(schema, "/api/v1/predictions/{prediction}", "get")
    assert headers(schema, "/api/v1/models/{model}/predict", "post") == {
        "Idempotency-Key",
        "X-Request-Timeout",
        "X-Maas-Receipt",
        "X-Maas-Quote",
    }
    assert "Idempotency-Key" in headers(schema, "/api/v1/billing/plan", "post")
    assert "Inference-Header-Content-Length" in headers(schema, "/v2/models/{model}/versions/{version}/infer", "post")
    assert all("X-Organization" in headers(schema, place, method) for place, method in by_people(schema))


def by_people(schema):
    """(path, method) of the operations that somebody who is signed in may ask for."""
    return [
        (place, method)
        for place, methods in schema["paths"].items()
        for method, operation in methods.items()
        if {"sessionToken": []} in operation["security"]
    ]


def test_every_operation_describes_its_refusals_by_their_form_and_codes(schema):
    for place, operation in operations(schema):
        refusals = {status: response for status, response in operation["responses"].items() if status[0] in "45"}
        form, content_type = (
            ("V2Error", "application/json") if place.startswith("/v2") else ("Problem", "application/problem+json")
        )
        for response in refusals.values():
            assert response["content"][content_type]["schema"] == {"$ref": f"#/components/schemas/{form}"}, place
            assert response["description"]
        wanted = {"500", "503"} | ({"401", "403", "404"} if operation["security"] else set())
        wanted |= {"400", "413", "415", "422"} if "requestBody" in operation else set()
        assert wanted <= refusals.keys(), place
        assert "default" not in operation["responses"]
    conflict = schema["paths"]["/api/v1/keys"]["post"]["responses"]["409"]["description"]
    assert {"`state_conflict`", "`limit_reached`"} <= set(conflict.split(", "))


def test_what_a_refusal_has_is_what_is_described(schema, client_of, alice):
    for refused in (
        client_of(None).get("/api/v1/keys"),
        client_of(alice).post("/api/v1/keys", {}, format="json"),
        client_of(alice).get("/api/v1/keys/key_unknown"),
        client_of(alice).get("/api/v1/usage", {"format": "xml"}),
        client_of(alice).get("/api/v1/models", HTTP_X_ORGANIZATION="nobodys"),
    ):
        problem, described = refused.json(), schema["components"]["schemas"]["Problem"]
        assert set(described["required"]) <= problem.keys() <= described["properties"].keys()
        place = refused.wsgi_request.path.replace("key_unknown", "{key}")
        method = refused.wsgi_request.method.lower()
        assert problem["code"] in schema["paths"][place][method]["responses"][str(refused.status_code)]["description"]


def test_it_says_how_to_sign_up(schema):
    assert "/_allauth/" in schema["info"]["description"]
    assert "/_allauth/" in schema["externalDocs"]["description"]
    assert schema["externalDocs"]["url"].startswith("https://docs.allauth.org/")


@pytest.mark.parametrize("resource", ["keys", "members", "invitations", "models", "predictions", "audit-events"])
def test_a_list_is_described_as_the_pages_it_comes_in(schema, resource):
    operation = schema["paths"][f"/api/v1/{resource}"]["get"]
    reference = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    described = schema["components"]["schemas"][reference.rpartition("/")[2]]

    assert described["required"] == ["results", "next"]
    assert {"limit", "cursor"} <= {parameter["name"] for parameter in operation["parameters"]}


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/html,application/xhtml+xml,*/*;q=0.8", "application/vnd.oai.openapi", "text/html"]
)
def test_the_document_is_always_json(client_of, accept):
    response = client_of(None).get("/docs/openapi.json", HTTP_ACCEPT=accept)

    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.json()["openapi"].startswith("3.")


@pytest.mark.no_servers
def test_the_document_is_made_once_whoever_asks_first_at_the_same_time(monkeypatch):
    from saas import pages

    made, barrier = [], threading.Barrier(8)

    class Counted(SchemaGenerator):
        def get_schema(self, **given):
            made.append(1)
            return super().get_schema(**given)

    def ask(_):
        barrier.wait(PATIENCE)
        return pages.SchemaView.as_view()(RequestFactory().get("/docs/openapi.json"))

    monkeypatch.setattr(pages, "SchemaGenerator", Counted)
    pages._made_schema.cache_clear()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(8)))

    assert made == [1]
    assert len({(answer.status_code, answer.content, answer.headers["ETag"]) for answer in answers}) == 1


def test_who_has_the_document_already_is_told_so(client_of):
    first = client_of(None).get("/docs/openapi.json")
    again = client_of(None).get("/docs/openapi.json", headers={"If-None-Match": first.headers["ETag"]})

    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("page", ["/docs/", "/admin/login/"])
def test_a_page_and_what_it_loads_name_no_outside_host(client_of, page):
    client = client_of(None)
    response = client.get(page)
    text = response.content.decode()

    assert response.status_code == 200
    assert OUTSIDE.findall(text) == []
    assert re.findall(r"/static/[^\"'\s]+", text)  # its own files, which tell that the page was made as usual


def test_the_search_for_outside_hosts_finds_them():
    assert OUTSIDE.findall('<link rel="icon" href="//cdn.example/f.ico"><script src=https://cdn.example/x.js></script>')
