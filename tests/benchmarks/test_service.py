"""What the benchmark does to the service that it measures, and that it takes it back."""

import pytest
import requests

from benchmarks.service import Service as Measured
from tests.service import Service

pytestmark = pytest.mark.no_servers


@pytest.fixture
def measured(service: Service):
    found = Measured(service.data_dir)
    found.port = service.port
    return found


def budgets(service):
    headers = {"Authorization": f"Bearer {service.api_key}"}
    found = requests.get(f"{service.base_url}/api/v1/billing/budgets", headers=headers, timeout=30)
    return [budget["key"] for budget in found.json()["results"]]


def test_the_organization_and_its_keys_have_budgets_meanwhile(service, measured):
    with measured.budgets():
        organization, *keys = budgets(service)

    assert organization is None
    assert keys
    assert budgets(service) == []
