"""Which model a call means: an own one without a ready version does not hide the catalogue's of that name."""

import secrets
from uuid import uuid4

import pytest

from inference.gateway.line import Gateway
from inference.models import ModelVersion
from inference.registry import load_route, model_changed
from saas.lib.errors import NotFound
from tenants.actions import catalog_organization
from tenants.keys import load_key
from tenants.principal import unpack_key
from tenants.scope import tenant_scope


@pytest.fixture
def name(publish):
    """A name that the catalogue has."""
    name = f"shared-{secrets.token_hex(4)}"
    publish(catalog_organization(), name, visibility="public")
    return name


@pytest.fixture(params=["validating", "rejected"])
def hollow(request, alice, publish, name):
    """Alice's model of that name, which cannot be called."""
    return publish(alice.organization, name, request.param)


def make_ready(model):
    with tenant_scope(model.organization_id):
        ModelVersion.objects.filter(model=model).update(state="ready")
        model_changed(model)


def owner_of(alice, name):
    organization = alice.organization
    return load_route(organization.id, organization.slug, name).owner_slug


def test_a_bare_name_is_the_catalogues_until_the_own_model_can_be_called(alice, hollow, name):
    own = alice.organization.slug
    assert owner_of(alice, name) == "catalog"
    assert owner_of(alice, f"catalog/{name}") == "catalog"
    assert owner_of(alice, f"{own}/{name}") == own

    make_ready(hollow)

    assert owner_of(alice, name) == own
    assert owner_of(alice, f"catalog/{name}") == "catalog"


def test_an_own_model_without_a_namesake_is_found_whatever_its_state(alice, publish):
    publish(alice.organization, "lonely", "validating")

    assert owner_of(alice, "lonely") == alice.organization.slug


def test_managing_finds_the_own_model(alice, client_of, hollow, name):
    client = client_of(alice)
    assert client.get(f"/api/v1/models/{name}").json()["visibility"] == "private"
    assert len(client.get(f"/api/v1/models/{name}/versions").json()["results"]) == 1
    assert client.delete(f"/api/v1/models/{name}").status_code == 204


@pytest.fixture
async def gateway(embedded):
    gateway = Gateway(state_url=embedded["STATE_URL"], lanes_url=embedded["LANES_URL"], lane_max_ms=1000, stored=None)
    await gateway.start()
    yield gateway
    await gateway.stop(0)


@pytest.fixture
def key(alice, make_key):
    record, _ = make_key(alice.organization)
    return unpack_key(load_key(record.public_id))


async def test_gateways_mean_the_same(gateway, key, alice, hollow, name):
    async def asked(owner=None):
        fetched = await gateway.access.fetch_route(key, owner, name)
        assert gateway.access.route(key, owner, name) is not None
        assert gateway.access.route(key, owner, name).id == fetched.id
        return fetched.owner_slug

    assert await asked() == "catalog"
    assert await asked(key.slug) == key.slug
    assert await asked("catalog") == "catalog"


async def test_gateways_prefer_an_own_model_that_is_ready(gateway, key, alice, publish_async, name):
    await publish_async(alice.organization, name)

    assert (await gateway.access.fetch_route(key, None, name)).owner_slug == key.slug
    assert gateway.access.route(key, None, name).owner_slug == key.slug
    with pytest.raises(NotFound):
        await gateway.access.fetch_route(key, None, uuid4().hex)


@pytest.fixture
def publish_async(publish):
    from asgiref.sync import sync_to_async

    return sync_to_async(publish)
