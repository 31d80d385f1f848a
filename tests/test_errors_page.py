"""docs/errors.md lists what saas/lib/errors.py has."""

import re
from pathlib import Path

import pytest

from saas.lib import errors
from saas.lib.errors import AppError
from tenants.problems import problem

pytestmark = pytest.mark.no_servers


PAGE = (Path(__file__).parent.parent / "docs/errors.md").read_text()


def test_the_members_of_a_problem_are_those_that_the_page_names():
    whose = {"key", "organization", "platform"}
    first = PAGE.partition("Under `/v2/`")[0]
    error = AppError(source="key", errors=[])

    assert set(re.findall(r"`([a-z_]+)`", first)) - whose == set(problem(error, "id"))


def test_every_error_is_in_the_table_with_its_status():
    listed = {(int(status), code) for status, code in re.findall(r"^\| (\d{3}) \| `(\w+)`", PAGE, re.M)}
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AppError)]

    assert listed == {(error.status, error.code) for error in classes}
