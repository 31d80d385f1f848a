"""A part: its output, its end, and that it comes back."""

import os
import signal
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from saas.local.log import Log
from saas.local.parts import Part, PartFailed, Recipe
from saas.local.processes import processes_in
from tests.waiting import until_async

pytestmark = pytest.mark.no_servers

SLEEPER = "import time; print('up', flush=True); time.sleep(100)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(100)"
WITH_CHILD = "import subprocess, time; subprocess.Popen(['sleep', '100']); print('up', flush=True); time.sleep(100)"


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "log")


@pytest.fixture
async def make_part(log, tmp_path):
    made = []

    async def make(program, *, grace=5.0):
        recipe = Recipe("part", [sys.executable, "-c", program], os.environ, grace=grace, process_options={"cwd": tmp_path})
        part = Part(recipe, log)
        made.append(part)
        await part.start()
        part.keep()
        return part

    yield make
    for part in made:
        await part.stop(grace=0.1)
    assert processes_in(tmp_path) == set()


def text_of(log):
    return log.path.read_text()


async def test_its_lines_carry_its_name(make_part, log):
    await make_part(SLEEPER)

    await until_async(lambda: "part       │ up\n" in text_of(log))


async def test_a_crashed_part_is_started_again_and_it_is_said(make_part, log):
    part = await make_part(SLEEPER)
    first = part.pid
    part.signal(signal.SIGKILL)

    await until_async(lambda: part.pid not in (None, first))

    assert "part was ended by SIGKILL: it is started again" in text_of(log)
    assert part.crashes == 1


async def test_a_stopped_part_stays_away(make_part):
    part = await make_part(SLEEPER)

    await part.stop()

    assert part.pid is None
    assert part.crashes == 0


async def test_a_part_that_does_not_listen_is_killed(make_part, log):
    part = await make_part(STUBBORN)
    await until_async(lambda: "up" in text_of(log))

    await part.stop(grace=0.2)

    assert part.pid is None
    assert "did not end within" in text_of(log)


@pytest.mark.parametrize("how", ["stop", "crash"])
async def test_its_children_end_with_it(make_part, log, tmp_path, how):
    part = await make_part(WITH_CHILD)
    await until_async(lambda: "up" in text_of(log))
    child = (processes_in(tmp_path) - {part.pid}).pop()

    if how == "stop":
        await part.stop()
    else:
        part.signal(signal.SIGKILL)

    await until_async(lambda: child not in processes_in(tmp_path))


async def test_waiting_for_one_that_always_ends_gives_up(make_part):
    part = await make_part("raise SystemExit(3)")

    async def never():
        return False

    with pytest.raises(PartFailed, match="ends as soon as it is started"):
        await part.wait_until(never, seconds=60)


async def test_waiting_gives_up_when_another_part_that_is_needed_always_ends(make_part):
    part, other = await make_part(SLEEPER), await make_part("raise SystemExit(3)")

    async def never():
        return False

    with pytest.raises(PartFailed, match="ends as soon as it is started"):
        await part.wait_until(never, seconds=60, needs=[other])


async def test_the_pause_grows_too_where_a_part_cannot_even_be_started(make_part, log, monkeypatch):
    part = await make_part(SLEEPER)
    monkeypatch.setattr("saas.local.parts.Process", Mock(side_effect=OSError("no process")))
    part.signal(signal.SIGKILL)

    await until_async(lambda: "cannot be started: no process: it is tried again in 0.8 s" in text_of(log))
    assert "it is tried again in 0.4 s" in text_of(log)


async def test_waiting_has_an_end(make_part):
    part = await make_part(SLEEPER)

    async def never():
        return False

    with pytest.raises(PartFailed, match="not ready within"):
        await part.wait_until(never, seconds=0.1)


def test_the_log_is_private(log):
    assert log.path.stat().st_mode & 0o077 == 0


def test_the_log_puts_a_line_together_that_came_in_pieces(log):
    log.write("gateway", b"one li")
    log.write("worker", b"another\n")
    log.write("gateway", b"ne\nand a second\n")

    assert text_of(log) == "worker     │ another\ngateway    │ one line\ngateway    │ and a second\n"


def test_what_is_only_shown_is_not_kept(log, capfdbinary):
    log.show("maas_live_secret")

    assert "maas_live_secret" not in text_of(log)


def test_a_large_log_is_set_aside(log, monkeypatch):
    monkeypatch.setattr("saas.local.log.LARGEST", 10)

    log.write("part", b"more than ten bytes\n")

    assert "more than ten" in Path(f"{log.path}.1").read_text()
    assert text_of(log) == ""
