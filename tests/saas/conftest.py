from collections.abc import Iterator

import pytest

from saas.lib.prices import FREE


@pytest.fixture(scope="module")
def running() -> Iterator["Served"]:  # noqa: F821  # imported once Django is set up
    from tests.saas.serving import Served

    with Served(body_max=200_000) as served:
        yield served


@pytest.fixture
def served(running) -> Iterator["Served"]:  # noqa: F821
    """A running front with a small gateway behind it; bodies may have 200,000 bytes."""
    yield running
    gateway = running.gateway
    gateway.hold, gateway.fail_with = False, None
    gateway.price, gateway.cost_nano, gateway.left = FREE, 0, None
    for key in gateway.keys.values():
        key.terms.state = "active"
    running.on_loop(lambda: [gateway.finish(call) for call in gateway.held if call not in gateway.abandoned])
    for kept in (gateway.calls, gateway.held, gateway.abandoned):
        kept.clear()
    gateway.stored.clear()
