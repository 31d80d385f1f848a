"""service.log: a bounded number of bounded files, and no line lost between them."""

import pytest

from saas.local import log as log_module
from saas.local.log import KEPT, Log

pytestmark = pytest.mark.no_servers

LINES = [f"line {number:05}" for number in range(2000)]


@pytest.fixture
def small_log(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "LARGEST", 20_000)
    return Log(tmp_path / "log")


def files_of(log):
    """Oldest first."""
    older = [log.path.with_name(f"service.log.{number}") for number in range(KEPT - 1, 0, -1)]
    return [path for path in (*older, log.path) if path.exists()]


def test_a_full_file_is_put_aside_and_no_line_is_lost(small_log):
    for line in LINES:
        small_log.write("part", f"{line}\n".encode())

    files = files_of(small_log)
    text = "".join(path.read_text() for path in files)
    assert len(files) > 2
    assert [line.rpartition("│ ")[2] for line in text.splitlines()] == LINES


def test_only_the_newest_files_are_kept(small_log):
    for line in LINES * 5:
        small_log.write("part", f"{line}\n".encode())

    assert sorted(path.name for path in small_log.path.parent.iterdir()) == sorted(path.name for path in files_of(small_log))
    assert len(files_of(small_log)) == KEPT
    assert small_log.path.stat().st_size <= 20_000
    assert LINES[-1] in "".join(path.read_text() for path in files_of(small_log)[-2:])


def test_a_line_that_is_not_finished_goes_whole_into_the_next_file(small_log):
    small_log.write("part", b"begun, ")
    for line in LINES[:900]:
        small_log.write("other", f"{line}\n".encode())
    small_log.write("part", b"and ended\n")

    assert "begun, and ended" in small_log.path.read_text()


def test_a_line_without_end_is_kept_in_pieces(tmp_path):
    log = Log(tmp_path / "log")
    for _ in range(30):
        log.write("part", b"x" * 10_000)
    log.write("part", b"\n")

    assert log.path.read_text().count("x") == 300_000
