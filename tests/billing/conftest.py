import secrets
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg2
import pytest

from saas.lib.ids import uuid7
from tests.billing.journal import Journal, settle


@pytest.fixture
def journal(state) -> Journal:
    """A stream that no other test reads."""
    return Journal(state)


@pytest.fixture
def tenant() -> UUID:
    """An organization's id; the ledger has no foreign key, so nobody else need know it."""
    return uuid7()


@pytest.fixture
def as_role(embedded):
    """Open autocommit sessions as one of the roles: `app`, `owner`, `metering`, `ops`."""
    names = {
        "app": "DATABASE_URL",
        "owner": "DATABASE_OWNER_URL",
        "metering": "DATABASE_METERING_URL",
        "ops": "DATABASE_OPS_URL",
    }
    sessions = []

    def connect(role: str, tenant: UUID | None = None):
        session = psycopg2.connect(embedded[names[role]])
        session.autocommit = True
        if tenant:
            session.cursor().execute("SELECT set_config('app.tenant', %s, false)", [str(tenant)])
        sessions.append(session)
        return session.cursor()

    yield connect
    for session in sessions:
        session.close()


@pytest.fixture
def ledger(as_role):
    """Ask the ledger something, across tenants."""
    cursor = as_role("ops")

    def ask(statement: str, *values):
        cursor.execute(statement, [str(value) if isinstance(value, UUID) else value for value in values])
        return cursor.fetchall()

    return ask


@pytest.fixture
def public_model(embedded):
    """A model of the catalogue. Nobody can call it: it has no version."""
    from inference.models import MLModel
    from tenants.actions import catalog_organization
    from tenants.scope import tenant_scope

    catalog = catalog_organization()
    with tenant_scope(catalog.id):
        return MLModel.objects.create(organization=catalog, name=f"m-{secrets.token_hex(6)}", visibility="public")


@pytest.fixture
def ready_model(public_model):
    """The same with a version that can be called."""
    from inference.models import ModelVersion
    from tenants.scope import tenant_scope

    with tenant_scope(public_model.organization_id):
        ModelVersion.objects.create(
            organization_id=public_model.organization_id, model=public_model, major=1, minor=0, patch=0, digest="0" * 64,
            size=1, state="ready", manifest={}, inputs=[["x", "FP32", [-1, 2]]], outputs=[["y", "FP32", [-1, 2]]],
        )  # fmt: skip
    return public_model


@pytest.fixture
def private_model(alice):
    from inference.models import MLModel
    from tenants.scope import tenant_scope

    with tenant_scope(alice.organization.id):
        return MLModel.objects.create(organization=alice.organization, name="own")


@pytest.fixture
def first_hour() -> int:
    """The first of three hours of one month that are over, in milliseconds since the epoch."""
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    if (start + timedelta(hours=2)).month != start.month:
        start -= timedelta(hours=3)
    return int(start.timestamp() * 1000)


@pytest.fixture
def month(first_hour):
    """The month of `first_hour`, to be billed."""
    from billing.proof.bill import Month

    return Month.parse(f"{datetime.fromtimestamp(first_hour / 1000, UTC):%Y-%m}")


@pytest.fixture
def organization(make_organization):
    return make_organization()


@pytest.fixture
def price(organization):
    """A price of the organization's own: 1000 nano a call, 10 a row, 7000000 a second."""
    from billing.sale import prices
    from inference.models import MLModel
    from tenants.access import Actor
    from tenants.scope import tenant_scope

    with tenant_scope(organization.id):
        model = MLModel.objects.create(organization=organization, name="m", task="tensor")
    return prices.add_price(
        model=model,
        currency="USD",
        call_price=Decimal("0.000001"),
        row_price=Decimal("0.00000001"),
        second_price=Decimal("0.007"),
        actor=Actor("system", ""),
    )


@pytest.fixture
def calls(organization, price, first_hour, state, journal):
    """Records of three sealed hours: 5 live calls in each, one of test mode, one reversed, one clamped."""
    from billing.proof.sealer import Sealer
    from tests.billing.billed import HOUR, record

    made = [
        record(organization, price, first_hour + hour * HOUR + 100 * number, rows=number, compute_us=number * 333)
        for hour in range(3)
        for number in range(5)
    ]
    made.append(record(organization, price, first_hour + 2 * HOUR + 700, mode="test", nano=0))
    made.append(record(organization, price, first_hour + 2 * HOUR + 800, kind="reversed", nano=0, compute_us=0))
    made.append(record(organization, price, first_hour + 2 * HOUR + 900, compute_us=10**6, nano=50, is_clamped=True))
    for each in made:
        journal.add(each, at_ms=each.closed_ms)
    settle(state, journal.name)
    sealer = Sealer(state, stream=journal.name)
    while sealer.step():
        pass
    sealer.close()
    return made
