"""The commands that README.md and docs/*.md show run as they stand, in the order of the page, against `make run`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

pytestmark = [pytest.mark.no_servers, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.M | re.S)
OF_THE_CHECKOUT = re.compile(r"\A(?:make \w+.*\n)+\Z")  # these start, stop and test the service itself
STRICT = """set -eu -o pipefail
curl() { command curl --fail-with-body --max-time 60 "$@"; }
"""


def samples(page: Path) -> list[tuple[str, str]]:
    return [block for block in BLOCK.findall(page.read_text()) if not OF_THE_CHECKOUT.match(block[1])]


def script(page: Path) -> str:
    """All samples of the page for one shell; what the first ones set, the later ones use."""
    programs = (text if language == "sh" else f"python3 - <<'PROGRAM'\n{text}PROGRAM\n" for language, text in samples(page))
    return STRICT + "\n".join(programs)


@pytest.fixture
def checkout(service, tmp_path):
    """A directory that looks like the service's checkout."""
    for entry in ROOT.iterdir():
        if entry.name not in (".local", ".venv"):
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / ".local").symlink_to(service.data_dir)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if samples(page)], ids=lambda page: page.name)
def test_its_samples_run_as_they_stand(service, checkout, page):
    text = script(page).replace("127.0.0.1:8000", service.base_url.removeprefix("http://"))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    done = subprocess.run(
        ["bash", "-xc", text], cwd=checkout, env=environment, capture_output=True, text=True, timeout=3 * PATIENCE
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_there_are_samples():
    assert {"README.md", "accounts.md", "billing.md", "calling.md", "models.md"} <= {
        page.name for page in PAGES if samples(page)
    }
