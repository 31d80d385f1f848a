"""Bodies of management requests: their size, and texts that are none."""

import gzip
import io

import pytest


class Unread(io.RawIOBase):
    """A request's body that must not be read."""

    def read(self, size=-1):
        raise AssertionError("the body was read")


@pytest.mark.parametrize(
    ("url", "body", "field"),
    [
        ("/api/v1/models", {"name": 5}, "name"),
        ("/api/v1/models", {"name": "m", "description": 1.5}, "description"),
        ("/api/v1/models", {"name": True}, "name"),
        ("/api/v1/keys", {"name": 5, "scopes": ["models:read"]}, "name"),
        ("/api/v1/keys", {"name": "k", "scopes": ["models:read"], "models": ["iris", 5]}, "models"),
        ("/api/v1/invitations", {"email": 5}, "email"),
    ],
)
def test_a_number_is_no_text(client_of, alice, url, body, field):
    refused = client_of(alice).post(url, body, format="json")

    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
    assert refused.json()["errors"][0]["field"].startswith(field)


def test_a_body_above_a_mebibyte_is_refused_before_it_is_read(client_of, alice):
    large = {"CONTENT_LENGTH": str((1 << 20) + 1), "wsgi.input": Unread()}
    refused = client_of(alice).post("/api/v1/models", "{}", content_type="application/json", **large)

    assert (refused.status_code, refused.json()["code"]) == (413, "payload_too_large")


def test_a_body_of_a_mebibyte_is_read(client_of, alice):
    body = '{"name": "large"}'.ljust(1 << 20)

    assert client_of(alice).post("/api/v1/models", body, content_type="application/json").status_code == 201


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
@pytest.mark.parametrize(
    ("url", "content_type"),
    [
        ("/api/v1/models", "application/json"),
        ("/_allauth/app/v1/auth/login", "application/json"),
        ("/api/v1/predictions", "application/json"),
        ("/api/v1/models/m/versions", "multipart/form-data; boundary=x"),
    ],
)
def test_a_compressed_body_is_refused_as_what_it_is(client_of, alice, make_key, url, content_type, encoding):
    client = client_of(make_key(alice.organization)[1])
    client.post("/api/v1/models", {"name": "m"}, format="json")
    body = gzip.compress(b'{"name": "packed"}')

    refused = client.post(url, body, content_type=content_type, HTTP_CONTENT_ENCODING=encoding)

    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")
    assert "Content-Encoding" in refused.json()["detail"]


def test_a_body_may_say_that_it_is_not_compressed(client_of, alice):
    body = {"name": "plain"}

    assert client_of(alice).post("/api/v1/models", body, format="json", HTTP_CONTENT_ENCODING="identity").status_code == 201


@pytest.mark.parametrize("body", ["[" * 3000 + "]" * 3000, '{"name": ' + "[" * 900 + "]" * 900 + "}"])
def test_deep_nesting_is_refused_and_no_fault_of_ours(client_of, alice, body):
    answer = client_of(alice).post("/api/v1/keys", body, content_type="application/json")

    assert answer.status_code in (400, 422), answer.content
