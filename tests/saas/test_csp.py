"""What a browser is told of every answer: what it may load, run and frame, and what it says about where it came from."""

import base64
import hashlib
import re

import pytest
from django.urls import get_resolver

from tests.isolation.world import walk

PAGES = [
    "/docs/",
    "/docs/?script=",
    "/docs/openapi.json",
    "/account/signup",
    "/account/verify-email/x",
    "/livez",
    "/readyz",
    "/nothing",
    "/api/v1/nothing",
    "/api/v1/me",
]
PAGES += [
    "/static/admin/css/base.css",
    "/_allauth/app/v1/config",
    "/_allauth/app/v1/nothing",
    "/api/v1/models?a=%00",
    "/admin/login/",
]


@pytest.fixture
def operator(make_user, client_of):
    from tenants.databases import as_operator

    user = make_user("operator")
    user.is_staff = user.is_superuser = True
    with as_operator():
        user.save()
        return client_of(user)


def admin_pages():
    """Every page of the admin that needs no object."""
    for path, _ in walk([each for each in get_resolver().url_patterns if str(each.pattern) == "admin/"]):
        if path.startswith("/") and "{object_id}" not in path and "{content_type_id}" not in path:
            yield path.replace("{app_label}", "tenants")


def policy_of(response):
    directives = (part.strip().partition(" ") for part in response["Content-Security-Policy"].split(";"))
    return {name: set(sources.split()) for name, _, sources in directives}


def is_guarded(response):
    policy = policy_of(response)
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == {"'none'"}
    for sources in policy.values():
        assert not [each for each in sources if not re.fullmatch(r"'(none|self|sha256-[^']+)'|data:", each)]
    assert "data:" not in policy.get("script-src", set())
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["X-Frame-Options"] == "DENY"
    assert response["Referrer-Policy"] == "same-origin"
    return True


def fits_its_policy(response):
    """A page has no script, handler or style of its own but what its policy allows, and loads nothing from elsewhere."""
    text, policy = response.content.decode(), policy_of(response)
    for kind in ("script", "style"):
        for attributes, inner in re.findall(rf"<{kind}\b([^>]*)>(.*?)</{kind}>", text, re.S | re.I):
            if inner.strip() and "json" not in attributes:
                digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
                assert f"'sha256-{digest}'" in policy[f"{kind}-src"], f"<{kind}> needs 'sha256-{digest}'"
    assert not re.findall(r"<[^>]+\s(?:on[a-z]+|style)\s*=", text)
    assert not re.findall(r"""<(?:script|link|img|iframe|form)\b[^>]*(?:src|href|action)=["'](?:[a-z]+:)?//""", text)
    return True


@pytest.mark.parametrize("path", PAGES)
def test_every_page_tells_what_may_be_loaded(client_of, path):
    response = client_of(None).get(path)
    response.close()

    assert is_guarded(response)
    if response["Content-Type"].startswith("text/html"):
        assert fits_its_policy(response)
    elif path != "/docs/?script=":
        assert policy_of(response).keys() == {"default-src", "base-uri", "form-action", "frame-ancestors"}


def test_so_does_every_page_of_the_admin(operator):
    pages = {path: operator.get(path) for path in sorted(admin_pages()) if path != "/admin/logout/"}

    assert sum(page.status_code == 200 for page in pages.values()) > 20
    for path, page in pages.items():
        assert is_guarded(page), path
        if page["Content-Type"].startswith("text/html"):
            assert fits_its_policy(page), path


def test_what_the_reference_loads_is_there(client_of):
    client = client_of(None)
    text = client.get("/docs/").content.decode()
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)["']""", text)

    assert len(loaded) >= 5
    for address in loaded:
        response = client.get(address.replace("&amp;", "&"))
        response.close()
        assert response.status_code == 200, address
        kind = response["Content-Type"].partition(";")[0]
        if "script" in address or address.endswith(".js"):
            assert kind in ("application/javascript", "text/javascript"), address
