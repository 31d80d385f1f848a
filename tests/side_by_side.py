"""How the tests are shared out when several processes run them, as `make test` does: whole files, the longest first.

Each process has its own PostgreSQL and Valkeys; what asks the one running platform stays together, so that one starts it.
"""

import re

import pytest
from xdist.scheduler import LoadScopeScheduling

PLATFORM = "the running platform"
OF_PLATFORM = re.compile(r"tests/(e2e/test_(?!caps|memory)|inference/registry/test_over_http)")  # these two start their own
LONG = [PLATFORM, "tests/drill/test_drill.py", "tests/e2e/test_caps.py", "tests/e2e/test_memory.py"]
"""What takes minutes comes first, or one process would end long after the others."""


class ByFile(LoadScopeScheduling):
    """Gives each process one file after the other, in the order of `in_order`."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)


def scope(nodeid: str) -> str:
    """What is run by one process."""
    return PLATFORM if OF_PLATFORM.match(nodeid) else nodeid.partition("::")[0]


def in_order(items: list[pytest.Item]) -> None:
    """Sort the tests as they are to be given out."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(scope(item.nodeid), len(LONG)))
