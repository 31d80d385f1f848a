"""docs/errors.md lists what saas/lib/errors.py has."""

import re
from pathlib import Path

import pytest

from saas.lib import errors
from saas.lib.errors import AppError

pytestmark = pytest.mark.no_servers


def test_every_error_is_in_the_table_with_its_status():
    page = (Path(__file__).parent.parent / "docs/errors.md").read_text()
    listed = {(int(status), code) for status, code in re.findall(r"^\| (\d{3}) \| `(\w+)`", page, re.M)}
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AppError)]

    assert listed == {(error.status, error.code) for error in classes}
