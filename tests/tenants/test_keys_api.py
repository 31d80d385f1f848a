"""/keys: create, list, get, change, revoke, rotate."""

import json
from datetime import timedelta

import pytest
from django.utils import timezone

from saas.lib.ids import shown
from tenants import keys
from tenants.models import ApiKey, AuditEvent
from tenants.permissions import SCOPES
from tenants.principal import unpack_key
from tenants.scope import tenant_scope
from tests.waiting import PATIENCE

URL = "/api/v1/keys"


@pytest.fixture
def alice_key(make_key, alice):
    return make_key(alice.organization, expires_at=timezone.now() + timedelta(days=30))


def post(client, body, url=URL):
    return client.post(url, json.dumps(body), content_type="application/json")


def test_a_session_makes_the_first_key_and_the_key_works(client_of, alice):
    made = post(client_of(alice), {"name": "first", "scopes": ["keys:read", "predictions:write"]})

    assert made.status_code == 201, made.content
    text = made.json()["key"]
    assert keys.parse(text) == text.split("_")[2]
    listed = client_of(text).get(URL)
    assert listed.status_code == 200
    assert [key["id"] for key in listed.json()["results"]] == [made.json()["id"]]
    assert "key" not in listed.json()["results"][0]
    assert client_of(None).get(URL, headers={"X-API-Key": text}).status_code == 200


def test_the_secret_is_kept_nowhere_and_the_creation_is_noted(client_of, alice):
    body = post(client_of(alice), {"name": "first"}).json()

    with tenant_scope(alice.organization.id):
        key = ApiKey.objects.get(public_id=body["key"].split("_")[2])
        noted = AuditEvent.objects.get(action="key.created")
    secret = body["key"].split("_")[3]
    assert secret not in repr(key.__dict__)
    assert secret.encode() not in bytes(key.hash)
    assert (noted.target, noted.actor_kind) == (body["id"], "user")
    assert secret not in repr(noted.details)


def test_a_key_shows_who_made_it_also_after_they_left(client_of, alice, bob):
    made = post(client_of(bob), {"name": "bob's"}).json()
    own = post(client_of(alice), {"name": "maker", "scopes": ["keys:read", "keys:write"]}).json()
    by_key = post(client_of(own["key"]), {"name": "made by a key", "scopes": ["keys:read"]}).json()
    client_of(alice).delete(f"/api/v1/members/{shown('usr', bob.id)}")

    makers = {key["id"]: key["created_by"] for key in client_of(alice).get(URL).json()["results"]}

    assert makers == {made["id"]: shown("usr", bob.id), own["id"]: shown("usr", alice.id), by_key["id"]: None}


def test_a_key_lives_ninety_days_unless_told(client_of, alice):
    ends = post(client_of(alice), {"name": "first"}).json()["expires_at"]

    assert abs(timezone.datetime.fromisoformat(ends) - timezone.now() - timedelta(days=90)) < timedelta(minutes=1)


def test_only_an_owner_makes_a_key_that_never_expires(client_of, alice, bob, join, make_user):
    admin = join(make_user("dana"), alice.organization, "admin")

    assert post(client_of(alice), {"name": "x", "expires_at": None}).json()["expires_at"] is None
    for who in (bob, admin):
        refused = post(client_of(who), {"name": "x", "expires_at": None})
        assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")


@pytest.mark.parametrize("who", [None, "maas_live_nonsense", "maas_live_aaaaaaaaaaaa_" + "b" * 38])
def test_without_a_valid_key_everything_is_refused(client_of, who, alice_key):
    key = f"{URL}/{alice_key[0].shown_id}"
    client = client_of(who)
    for response in (client.get(URL), post(client, {}), client.get(key), client.delete(key), post(client, {}, f"{key}/rotate")):
        assert response.status_code == 401
        assert response["Content-Type"] == "application/problem+json"
        assert response["WWW-Authenticate"].startswith("Bearer")
        assert response.json()["code"] == ("api_key_missing" if who is None else "api_key_invalid")


def test_a_wrong_secret_with_a_right_checksum_is_refused(client_of, alice_key):
    forged = alice_key[1][:-38] + "A" * 32
    forged += keys._checksum(forged)

    assert keys.parse(forged) == alice_key[0].public_id
    assert client_of(forged).get(URL).status_code == 401


def test_scopes_are_needed(client_of, make_key, alice, alice_key):
    url = f"{URL}/{alice_key[0].shown_id}"
    client = client_of(make_key(alice.organization, scopes=[s for s in SCOPES if not s.startswith("keys:")])[1])
    reader = client_of(make_key(alice.organization, scopes=["keys:read"])[1])

    assert [client.get(URL).status_code, client.get(url).status_code, reader.get(url).status_code] == [403, 403, 200]
    for response in (post(reader, {"name": "x"}), reader.delete(url), post(reader, {}, f"{url}/rotate")):
        assert (response.status_code, response.json()["code"]) == (403, "scope_missing")


def test_a_stranger_does_not_learn_that_the_key_exists(client_of, charlie, alice, alice_key, make_key):
    url = f"{URL}/{alice_key[0].shown_id}"
    for who in (charlie, make_key(charlie.organization)[1]):
        client = client_of(who)
        answers = [
            client.get(url),
            client.patch(url, {"name": "x"}, format="json"),
            client.delete(url),
            post(client, {}, f"{url}/rotate"),
        ]
        assert [answer.status_code for answer in answers] == [404] * 4
        assert alice_key[0].shown_id not in client.get(URL).content.decode()
    assert client_of(charlie).get(URL, headers={"X-Organization": alice.organization.slug}).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\x00"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": ["x"]}, "name"),
        ({"name": "x", "tenant": "other"}, "tenant"),
        ({"name": "x", "hash": "00"}, "hash"),
        ({"name": "x", "scopes": ["everything"]}, "scopes.0"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "mode": "free"}, "mode"),
        ({"name": "x", "models": ["a/b/c"]}, "models.0"),
        ({"name": "x", "expires_at": "yesterday"}, "expires_at"),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "expires_at": "2120-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "limits": {"rate": 0}}, "limits.rate"),
        ({"name": "x", "limits": {"rate": 1e9}}, "limits.rate"),
        ({"name": "x", "limits": {"burst": 10_000}}, "limits.burst"),
        ({"name": "x", "limits": {"monthly_calls": -1}}, "limits.monthly_calls"),
        ({"name": "x", "limits": {"seconds": 1}}, "limits.seconds"),
    ],
)
def test_bad_input_names_the_field(client_of, alice, body, field):
    response = post(client_of(alice), body)

    assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
    assert [error["field"] for error in response.json()["errors"]] == [field]
    assert response.json()["request_id"] == response["X-Request-Id"]


@pytest.mark.parametrize(("text", "status"), [("{", 400), ("[]", 400), ('{"name": NaN}', 400), ("1e999", 400), ('"x"', 400)])
def test_what_is_no_json_object_is_refused(client_of, alice, text, status):
    response = client_of(alice).post(URL, text, content_type="application/json")

    assert (response.status_code, response.json()["code"]) == (status, "invalid_request")


def test_another_content_type_is_refused(client_of, alice):
    response = client_of(alice).post(URL, "name=x", content_type="text/plain")

    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


def test_nobody_gives_a_key_more_than_they_hold(client_of, alice, bob, make_key):
    assert post(client_of(bob), {"name": "x", "scopes": ["members:write"]}).status_code == 403
    narrow = make_key(alice.organization, scopes=["keys:write", "models:read"], models=["iris"], mode="test")[1]
    wide = {"name": "x", "scopes": ["models:read"], "mode": "test", "models": ["iris"]}
    assert post(client_of(narrow), wide | {"expires_at": None}).status_code == 403
    assert post(client_of(narrow), wide).status_code == 201
    assert post(client_of(narrow), wide | {"mode": "live"}).status_code == 403
    assert post(client_of(narrow), wide | {"scopes": ["keys:read"]}).status_code == 403
    for models in (None, ["iris", "digits"]):
        refused = post(client_of(narrow), wide | {"models": models})
        assert (refused.status_code, refused.json()["code"]) == (403, "model_not_allowed")


LESSER = {"scopes": ["keys:write", "models:read", "limits:write"], "models": ["iris"], "rate": 5.0, "mode": "live"}
"""A key that may write keys, and what of another key is more than it holds."""
MORE = [
    {"scopes": ["models:read", "usage:read"]},
    {"models": None},
    {"models": ["iris", "digits"]},
    {"rate": None},
    {"rate": 6.0},
]


@pytest.mark.parametrize("more", [*MORE, {"expires_at": None}])
def test_a_key_changes_rotates_and_revokes_none_that_holds_more_than_it(client_of, alice, make_key, more):
    soon = timezone.now() + timedelta(days=1)
    lesser = client_of(make_key(alice.organization, **LESSER, expires_at=soon)[1])
    columns = LESSER | {"scopes": ["models:read"], "expires_at": soon}
    equal, above = (make_key(alice.organization, **columns | each)[0] for each in ({}, more))
    url = f"{URL}/{above.shown_id}"

    answers = [
        lesser.patch(url, {"name": "mine"}, format="json"),
        post(lesser, {"overlap_seconds": 0}, f"{url}/rotate"),
        lesser.delete(url),
    ]

    assert [answer.status_code for answer in answers] == [403] * 3
    shown = client_of(alice).get(url).json()
    assert (shown["name"], shown["status"]) == ("test", "active")
    url = f"{URL}/{equal.shown_id}"
    assert lesser.patch(url, {"name": "mine"}, format="json").status_code == 200
    assert lesser.delete(url).status_code == 204


def test_a_test_key_changes_no_live_key(client_of, alice, make_key):
    test_key = client_of(make_key(alice.organization, mode="test")[1])
    live = make_key(alice.organization, rate=1.0, burst=1, concurrency=1)[0]

    assert test_key.delete(f"{URL}/{live.shown_id}").status_code == 403


def test_a_person_revokes_no_key_that_may_more_than_they(client_of, alice, bob, alice_key, make_key):
    assert client_of(bob).delete(f"{URL}/{alice_key[0].shown_id}").status_code == 403
    key = make_key(alice.organization, scopes=["models:read"])[0]
    assert client_of(bob).delete(f"{URL}/{key.shown_id}").status_code == 204


def test_a_key_that_is_given_no_scopes_calls_and_reads_its_limits(client_of, alice, make_key):
    made = post(client_of(alice), {"name": "x"}).json()
    assert client_of(made["key"]).get("/api/v1/limits").status_code == 200

    without = make_key(alice.organization, scopes=["keys:write", "models:read", "predictions:read", "predictions:write"])[1]
    assert post(client_of(without), {"name": "x"}).json()["scopes"] == ["models:read", "predictions:read", "predictions:write"]


def test_a_key_with_limits_hands_them_on(client_of, alice, make_key):
    giver = make_key(alice.organization, scopes=["keys:write", "limits:write", "models:read"], rate=3.0, monthly_calls=7)[1]

    silent = post(client_of(giver), {"name": "x", "scopes": ["models:read"]}).json()
    greedy = post(
        client_of(giver), {"name": "x", "scopes": ["models:read"], "limits": {"rate": 50, "monthly_calls": None}}
    ).json()
    modest = post(client_of(giver), {"name": "x", "scopes": ["models:read"], "limits": {"rate": 2, "monthly_calls": 0}}).json()

    assert [silent["limits"][name] for name in ("rate", "monthly_calls")] == [3, 7]
    assert [greedy["limits"][name] for name in ("rate", "monthly_calls")] == [3, 7]
    assert [modest["limits"][name] for name in ("rate", "monthly_calls")] == [2, 0]


def test_only_who_may_write_limits_sets_them(client_of, alice, bob, alice_key):
    url = f"{URL}/{alice_key[0].shown_id}"
    body = {"limits": {"rate": 2.5, "monthly_calls": 100}}

    assert client_of(bob).patch(url, body, format="json").status_code == 403
    changed = client_of(alice).patch(url, body, format="json")
    assert changed.status_code == 200
    assert changed.json()["limits"] == {"rate": 2.5, "burst": None, "concurrency": None, "monthly_calls": 100}
    record = unpack_key(keys.load_key(alice_key[0].public_id))
    assert (record.limits.rate, record.limits.burst, record.is_capped) == (2.5, 200, True)


def test_a_test_key_has_low_limits_and_no_cap(client_of, alice):
    body = post(client_of(alice), {"name": "x", "mode": "test", "limits": {"monthly_calls": 5}}).json()

    assert body["key"].startswith("maas_test_")
    record = unpack_key(keys.load_key(body["key"].split("_")[2]))
    assert (record.limits.rate, record.limits.burst, record.limits.concurrency, record.is_capped) == (5.0, 10, 2, False)


def test_a_test_key_is_shown_the_limits_that_bind(client_of, alice, make_key):
    high, low = {"rate": 90, "burst": 150, "concurrency": 60}, {"rate": 5, "burst": 10, "concurrency": 2}
    for name, value in high.items():
        refused = post(client_of(alice), {"name": "x", "mode": "test", "limits": {name: value}})
        assert [error["field"] for error in refused.json()["errors"]] == [f"limits.{name}"]
    made = post(client_of(alice), {"name": "x", "mode": "test", "limits": dict.fromkeys(high)}).json()
    url = f"{URL}/{made['id']}"

    assert client_of(alice).patch(url, {"limits": high}, format="json").status_code == 422
    changed = client_of(alice).patch(url, {"limits": dict.fromkeys(high)}, format="json").json()
    assert made["limits"] == changed["limits"] == low | {"monthly_calls": None}
    lower = client_of(alice).patch(url, {"limits": {"rate": 1}}, format="json").json()
    assert lower["limits"] == low | {"rate": 1, "monthly_calls": None}


def test_a_change_is_refused_for_unknown_fields_and_leaves_everything(client_of, alice, alice_key):
    url = f"{URL}/{alice_key[0].shown_id}"

    assert client_of(alice).patch(url, {"name": "new", "mode": "test"}, format="json").status_code == 422
    assert client_of(alice).get(url).json()["name"] == "test"
    assert client_of(alice).patch(url, {"name": "new"}, format="json").json()["name"] == "new"
    assert client_of(alice).patch(url, {"scopes": ["models:read"], "models": ["iris"]}, format="json").status_code == 200
    assert client_of(alice).get(url).json()["limits"]["rate"] is None


def test_a_revoked_key_is_refused_and_its_record_says_so(client_of, alice, alice_key, lanes):
    key, text = alice_key
    pushed = lanes.pubsub(ignore_subscribe_messages=True)
    pushed.subscribe("records")
    pushed.get_message(timeout=1)

    assert client_of(alice).delete(f"{URL}/{key.shown_id}").status_code == 204
    assert client_of(alice).delete(f"{URL}/{key.shown_id}").status_code == 204

    assert client_of(text).get(URL).status_code == 401
    assert unpack_key(lanes.get(f"key:{key.public_id}")).is_active is False
    names = {pushed.get_message(timeout=PATIENCE)["data"] for _ in range(1)}
    assert f"key:{key.public_id}".encode() in names
    assert client_of(alice).get(f"{URL}/{key.shown_id}").json()["status"] == "revoked"
    assert client_of(alice).patch(f"{URL}/{key.shown_id}", {"name": "x"}, format="json").status_code == 409
    with tenant_scope(alice.organization.id):
        assert AuditEvent.objects.filter(action="key.revoked", target=key.shown_id).count() == 1
    pushed.close()


def test_an_expired_key_is_refused(client_of, alice, make_key):
    text = make_key(alice.organization, expires_at=timezone.now() - timedelta(seconds=1))[1]

    assert client_of(text).get(URL).status_code == 401


def test_a_rotated_key_goes_on_for_the_overlap(client_of, alice, alice_key):
    key, text = alice_key
    made = post(client_of(alice), {"overlap_seconds": 3600}, f"{URL}/{key.shown_id}/rotate")

    assert made.status_code == 201, made.content
    new = made.json()
    assert new["replaces"] == key.shown_id
    assert client_of(text).get(URL).status_code == client_of(new["key"]).get(URL).status_code == 200
    left = timezone.datetime.fromisoformat(client_of(alice).get(f"{URL}/{key.shown_id}").json()["expires_at"]) - timezone.now()
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    assert timezone.datetime.fromisoformat(new["expires_at"]) - timezone.now() > timedelta(days=29)


def test_a_rotation_without_overlap_ends_the_old_key(client_of, alice, alice_key):
    key, text = alice_key

    assert post(client_of(alice), {"overlap_seconds": 0}, f"{URL}/{key.shown_id}/rotate").status_code == 201
    assert client_of(text).get(URL).status_code == 401
    assert post(client_of(alice), {}, f"{URL}/{key.shown_id}/rotate").status_code == 409


def test_nobody_rotates_a_key_that_may_do_more_than_they(client_of, alice, bob, alice_key, make_key):
    url = f"{URL}/{alice_key[0].shown_id}/rotate"
    limited = make_key(alice.organization, rate=1.0)[1]

    assert post(client_of(bob), {}, url).status_code == 403
    assert post(client_of(limited), {}, url).status_code == 403


def test_the_last_use_is_noted_at_most_once_a_minute(client_of, alice, alice_key):
    url = f"{URL}/{alice_key[0].shown_id}"
    client_of(alice_key[1]).get(URL)
    first = client_of(alice).get(url).json()["last_used_at"]
    client_of(alice_key[1]).get(URL)

    assert first is not None
    assert client_of(alice).get(url).json()["last_used_at"] == first


def test_lists_come_in_pages(client_of, alice, make_key):
    made = [make_key(alice.organization)[0].shown_id for _ in range(5)]
    client = client_of(alice)
    seen, url = [], f"{URL}?limit=2"
    while url:
        body = client.get(url).json()
        seen += [key["id"] for key in body["results"]]
        url = body["next"]

    assert seen == made[::-1]
    for query in ("limit=0", "limit=101", "limit=x", "cursor=zzz", "limit=²"):
        assert client.get(f"{URL}?{query}").status_code == 422


def test_a_method_that_is_not_there_is_refused_as_a_problem(client_of, alice):
    response = client_of(alice).put(URL, {}, format="json")

    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
