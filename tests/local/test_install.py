"""The virtual environment: made once, completed after an interruption, changed with its lock."""

import hashlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from saas.config import ROOT

pytestmark = pytest.mark.no_servers
# A lock that needs no network: the package cannot be found.
UNKNOWN = "--no-index\nno-such-package==1.0 --hash=sha256:" + "0" * 64 + "\n"


def copy(checkout):
    (checkout / "saas" / "local").mkdir(parents=True)
    shutil.copy(ROOT / "saas" / "local" / "install.py", checkout / "saas" / "local")
    for lock in ("requirements.txt", "requirements-dev.txt"):
        (checkout / lock).write_text("# nothing\n")
    return checkout


def install(checkout, *arguments, before="pass"):
    run = "runpy.run_path('saas/local/install.py', run_name='__main__')"
    program = f"import runpy, sys; {before}; sys.argv[1:] = {arguments!r}; {run}"
    return subprocess.run([sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A checkout with a virtual environment (which takes seconds to make), and what was said."""
    checkout = copy(tmp_path_factory.mktemp("checkout"))
    done = install(checkout)
    assert (done.returncode, "Creating .venv" in done.stdout) == (0, True), done.stderr
    return checkout


@pytest.fixture
def checkout(tmp_path):
    return copy(tmp_path)


def test_it_is_made_once_and_follows_its_lock(installed):
    assert install(installed).stdout == ""

    (installed / "requirements.txt").write_text("# still nothing\n")
    changed = install(installed)
    assert "Installing requirements.txt" in changed.stdout
    assert "Creating" not in changed.stdout


def test_the_development_lock_comes_on_top(installed):
    assert "Installing requirements-dev.txt" in install(installed, "--dev").stdout
    assert install(installed, "--dev").stdout == ""


def test_what_cannot_be_installed_is_said_and_tried_again(installed):
    (installed / "requirements.txt").write_text(UNKNOWN)

    for _ in range(2):
        done = install(installed)
        assert done.returncode == 1
        assert "could not be installed" in done.stderr

    (installed / "requirements.txt").write_text("# nothing\n")
    assert install(installed).returncode == 0


def test_a_package_needs_its_hash(installed):
    wheel = make_wheel(installed)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    for line, status in ((f"thing @ {wheel.as_uri()}\n", 1), (f"thing @ {wheel.as_uri()} --hash=sha256:{digest}\n", 0)):
        (installed / "requirements.txt").write_text(line)

        assert install(installed).returncode == status


def make_wheel(directory):
    path = directory / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("thing.py", "")
        wheel.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        wheel.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: a test\nTag: py3-none-any\n")
        wheel.writestr("thing-1.0.dist-info/RECORD", "")
    return path


def test_a_broken_environment_is_made_anew(installed):
    (installed / "requirements.txt").write_text("# nothing\n")
    (installed / ".venv" / "bin" / "python").unlink()

    done = install(installed)

    assert (done.returncode, "Creating .venv" in done.stdout) == (0, True)


def test_without_python3_venv_it_says_what_to_install(checkout):
    done = install(checkout, before="sys.modules['ensurepip'] = None")

    assert done.returncode == 1
    assert "apt install python3-venv" in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_old_python_is_refused(checkout):
    done = install(checkout, before="sys.version_info = (3, 10, 1)")

    assert done.returncode == 1
    assert "Python 3.11 is needed" in done.stderr
