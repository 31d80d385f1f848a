"""The variables that the supervisor gives its parts."""

from types import SimpleNamespace

import pytest

from saas.local.environment import service_environment
from saas.local.servers import Postgres

pytestmark = pytest.mark.no_servers


def test_the_disk_of_its_own_postgresql_is_looked_at(tmp_path):
    home = SimpleNamespace(root=tmp_path / "servers", sockets=tmp_path / "run")
    server = Postgres(home, dict.fromkeys(["maas_app", "maas_owner", "maas_metering", "maas_ops"], "secret"))

    assert service_environment(tmp_path, [server], {}, port=8000)["DATABASE_DIR"] == str(server.directory)
    assert "DATABASE_DIR" not in service_environment(tmp_path, [], {}, port=8000)
