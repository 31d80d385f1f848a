"""Which predictions a key sees, lists and cancels: those of models that it may call, and a test key only those of test keys."""

import secrets

import pytest

from inference.predictions.models import Prediction
from tenants.actions import catalog_organization
from tenants.scope import tenant_scope

URL = "/api/v1/predictions"


@pytest.fixture
def made(alice, caller, client_of, make_key, publish):
    """Ids of predictions by name, oldest first: live ones of two models, and one of a test key."""
    publish(alice.organization, "secret")
    tester = client_of(make_key(alice.organization, mode="test")[1])
    body = {"input": {"inputs": [[1, 2, 3]]}}
    asked = {"mine": (caller, "mine"), "secret": (caller, "secret"), "test": (tester, "mine")}
    return {
        name: client.post(URL, body | {"model": model}, format="json").json()["id"] for name, (client, model) in asked.items()
    }


@pytest.fixture
def seen(alice, client_of, make_key, made):
    """`seen(**columns of a key)`: which of `made` it lists, and which it reads."""

    def see(**columns):
        client = client_of(make_key(alice.organization, **columns)[1])
        listed = {row["id"] for row in client.get(URL).json()["results"]}
        read = {name for name, pk in made.items() if client.get(f"{URL}/{pk}").status_code == 200}
        return {name for name, pk in made.items() if pk in listed}, read

    return see


def test_a_key_without_an_allow_list_sees_all_live_and_test(seen, made):
    assert seen() == (set(made), set(made))


@pytest.mark.parametrize("form", ["{name}", "{slug}/{name}"])
def test_a_key_for_some_models_sees_the_predictions_of_these(alice, seen, form):
    def allow(name):
        return [form.format(slug=alice.organization.slug, name=name)]

    assert seen(models=allow("mine")) == ({"mine", "test"},) * 2
    assert seen(models=allow("mine") + allow("secret")) == ({"mine", "secret", "test"},) * 2


@pytest.mark.parametrize("models", [["catalog/mine"], ["catalog/secret", "mine/secret"], ["min", "ecret", "%"], []])
def test_a_key_for_other_models_sees_none(seen, models):
    assert seen(models=models) == (set(), set())


def test_a_test_key_sees_only_those_of_test_keys(seen):
    assert seen(mode="test") == ({"test"}, {"test"})
    assert seen(mode="test", models=["mine"]) == ({"test"}, {"test"})
    assert seen(mode="test", models=["secret"]) == (set(), set())


def test_a_person_sees_all_of_the_organization(alice, client_of, made):
    client = client_of(alice)

    assert {row["id"] for row in client.get(URL).json()["results"]} == set(made.values())
    assert [client.get(f"{URL}/{pk}").status_code for pk in made.values()] == [200] * len(made)


def test_a_namesake_in_the_catalogue_is_another_model(alice, client_of, make_key, publish):
    name = f"twin-{secrets.token_hex(4)}"
    publish(catalog_organization(), name, visibility="public")
    publish(alice.organization, name)
    client = client_of(make_key(alice.organization)[1])
    own = client.post(
        URL, {"model": f"{alice.organization.slug}/{name}", "input": {"inputs": [[1, 2, 3]]}}, format="json"
    ).json()["id"]
    limited = client_of(make_key(alice.organization, models=[f"catalog/{name}"])[1])

    assert limited.get(URL).json()["results"] == []
    assert limited.get(f"{URL}/{own}").status_code == 404


def test_what_a_key_does_not_see_it_cannot_tell_from_what_does_not_exist_nor_cancel(alice, client_of, make_key, made):
    for columns in ({"models": ["mine"]}, {"mode": "test"}):
        client = client_of(make_key(alice.organization, **columns)[1])
        absent = "pred_" + "0" * (len(made["secret"]) - 5)
        for ask, suffix in ((client.get, ""), (client.post, "/cancel")):
            hidden, none = ask(f"{URL}/{made['secret']}{suffix}"), ask(f"{URL}/{absent}{suffix}")
            assert (hidden.status_code, hidden.json()["code"]) == (404, "not_found")
            assert hidden.json()["code"] == none.json()["code"]
    with tenant_scope(alice.organization.id):
        assert {row.status for row in Prediction.objects.of(alice.organization)} == {"starting"}


def test_what_a_key_sees_it_cancels(alice, client_of, make_key, made):
    limited = client_of(make_key(alice.organization, models=["secret"])[1])
    tester = client_of(make_key(alice.organization, mode="test")[1])
    live = client_of(make_key(alice.organization)[1])

    for client, name in ((limited, "secret"), (tester, "test"), (live, "mine")):
        assert client.post(f"{URL}/{made[name]}/cancel").json()["status"] == "canceled"


def test_pages_are_full_of_what_is_seen_and_lead_through_all_of_it(alice, caller, client_of, make_key, publish):
    publish(alice.organization, "secret")
    tester = client_of(make_key(alice.organization, mode="test")[1])
    made = {"mine": [], "secret": [], "test": []}
    for _ in range(5):
        for name, client, model in (("mine", caller, "mine"), ("secret", caller, "secret"), ("test", tester, "mine")):
            body = {"model": model, "input": {"inputs": [[1, 2, 3]]}}
            made[name].append(client.post(URL, body, format="json").json()["id"])

    def pages(**columns):
        client, at = client_of(make_key(alice.organization, **columns)[1]), f"{URL}?limit=2"
        while at:
            page = client.get(at).json()
            yield [row["id"] for row in page["results"]]
            at = page["next"]

    for columns, ids in (({"models": ["secret"]}, made["secret"]), ({"mode": "test"}, made["test"])):
        newest = ids[::-1]
        assert list(pages(**columns)) == [newest[:2], newest[2:4], newest[4:]]
    found = client_of(make_key(alice.organization, models=["secret"])[1]).get(f"{URL}?model=mine").json()
    assert (found["results"], found["next"]) == ([], None)
