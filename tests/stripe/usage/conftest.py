"""An organization that pays by the stand-in, on a clock that moves the stand-in's too."""

import secrets
from datetime import UTC, datetime

import psycopg2
import pytest

from saas.lib import clock
from tests.inference.books.conftest import Server

PRO = [{"up_to": None, "rate": "1"}]


@pytest.fixture
def movable(tmp_path, settings, standin):
    """This process may move its clock, on a server of its own: its address. The books stay on the tests' shared one."""
    (tmp_path / "clock").mkdir()
    server = Server(tmp_path / "clock")
    server.start()
    shared = settings.CONFIG.state_url
    settings.CONFIG = settings.CONFIG.model_copy(update={"clock_movable": True, "state_url": server.url})
    seen, clock._seen = clock._seen, clock._Seen()
    clock._client.cache_clear()
    clock._client()
    settings.CONFIG = settings.CONFIG.model_copy(update={"state_url": shared})
    yield server.url
    clock._client().close()
    clock._client.cache_clear()
    clock._seen = seen
    server.kill()


@pytest.fixture
def on(embedded):
    """`on(organization_id, "pro", at)`: on our own plan of what `catalogue` sells by that name, from then on."""
    from billing.models import Plan, PlanVersion
    from billing.sale import plans
    from tenants.access import SYSTEM
    from tenants.databases import as_operator

    suffix, versions = secrets.token_hex(4), {}

    def version(name):
        fee, tiers = {"pro": (50, PRO), "team": (200, PRO), "flat": (20, [])}[name]
        with as_operator():
            plan = Plan.objects.create(slug=f"{name}-{suffix}", name=name.title())
            return PlanVersion.objects.create(
                plan=plan, version=1, currency="USD", monthly_fee=fee, included_amount=10 if tiers else 0, overage=tiers
            )

    def do(organization_id, name, at):
        versions[name] = versions.get(name) or version(name)
        return plans.change(organization_id, versions[name].plan_id, version=versions[name], actor=SYSTEM, at=at)

    return do


@pytest.fixture
def world(standin, movable, subscribe, make_organization, as_role, on):
    """On Pro since a moment ago; the clock stands at the beginning of the second hour after that."""
    from billing.models import Subscription
    from billing.proof.billed import hour_of
    from tenants.databases import as_operator
    from tests.stripe.usage.world import HOUR, World

    standin.advance(1200)  # into the middle of an hour
    clock.advance(datetime.fromtimestamp(standin.now, UTC))
    organization = make_organization()
    found = subscribe()
    on(organization.id, "pro", found.created_at)
    with as_operator():
        rows = Subscription.objects.of(organization).current()
        rows.update(stripe_customer=found.customer, stripe_subscription=found.id, stripe_status=found.status)
    made = World(organization.id, standin, found, as_role("metering"))
    made.move_to(hour_of(clock.now()) + 2 * HOUR)
    return made


@pytest.fixture
def as_role(embedded):
    """As in tests/billing: an autocommit session's cursor as one of the roles."""
    names = {"metering": "DATABASE_METERING_URL", "ops": "DATABASE_OPS_URL", "owner": "DATABASE_OWNER_URL"}
    sessions = []

    def connect(role):
        session = psycopg2.connect(embedded[names[role]])
        session.autocommit = True
        sessions.append(session)
        return session.cursor()

    yield connect
    for session in sessions:
        session.close()
