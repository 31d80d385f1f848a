from uuid import UUID

import psycopg2
import pytest

from saas.lib.ids import uuid7
from tests.billing.journal import Journal


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
