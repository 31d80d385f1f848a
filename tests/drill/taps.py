"""Inside a drilled process: wraps the functions of the named points, and sends the signal that the drill has planned for one.

`DRILL_DIR` is where drill and processes meet: `plan.json` says {"number", "point", "nth", "signal", "pids"} (no pids: the very
process that passes the point); `fired-{number}` says which process it was. `missing-…` names a point whose function is not
there: the drill fails then.
"""

import functools
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.drill.points import AFTER, BEFORE, HEARD, POINTS, SCRIPT, SENT, SUBSCRIBE, Point


def part_of(command: Sequence[str]) -> str | None:
    """Which part of the service a command line starts; None: one that is not drilled at points."""
    words = " ".join(command)
    if "gunicorn" in words:
        return "gateway"
    if "celery" in words and " infer." in words:
        return "worker"
    if "celery" in words and " -Q ops" in words:
        return "ops"
    if "saas.local.stripe" in words:
        return "stripe"
    return "bookkeeper" if "manage.py bookkeeper" in words else None


def install() -> None:
    """Wrap the points of this process's part as their modules are imported."""
    directory, part = os.environ.get("DRILL_DIR"), part_of(sys.orig_argv)
    if directory and part:
        sys.meta_path.insert(0, Importer(Trigger(Path(directory)), [point for point in POINTS if point.part == part]))


class Trigger:
    """Counts the passes of the planned point and strikes once, whichever process is first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._plan_path = str(directory / "plan.json")
        self._read_at = 0
        self._plan: dict[str, Any] = {}
        self._passes = 0
        self._lock = threading.Lock()

    def passed(self, point: Point, arguments: tuple[Any, ...], result: Any) -> None:
        if self._planned().get("point") != point.name or not self._is_it(point, arguments, result):
            return
        with self._lock:
            self._passes += 1
            if self._passes != self._plan["nth"]:
                return
        self._strike(self._plan)

    def _is_it(self, point: Point, arguments: tuple[Any, ...], result: Any) -> bool:
        try:
            return point.condition(arguments, result)
        except Exception as error:  # it would end in the product, which must not know that it is watched
            self.missing(point, f"{point.target} is called in another way: {error!r}")
            return False

    def missing(self, point: Point, why: str = "") -> None:
        (self.directory / f"missing-{point.name}").write_text(why or f"{point.target} is not there")

    def _planned(self) -> dict[str, Any]:
        try:
            changed_at = os.stat(self._plan_path).st_mtime_ns
        except FileNotFoundError:
            return {}
        if changed_at != self._read_at:
            with self._lock:
                self._plan, self._passes, self._read_at = json.loads(Path(self._plan_path).read_text()), 0, changed_at
        return self._plan

    def _strike(self, plan: dict[str, Any]) -> None:
        try:
            descriptor = os.open(self.directory / f"fired-{plan['number']}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            return
        os.write(descriptor, str(os.getpid()).encode())
        os.close(descriptor)
        for pid in plan["pids"] or [os.getpid()]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.Signals[plan["signal"]])


class Importer(importlib.abc.MetaPathFinder):
    """Wraps the targets of `points` right after their module was executed."""

    def __init__(self, trigger: Trigger, points: list[Point]) -> None:
        self.trigger = trigger
        self.by_module: dict[str, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
        for point in points:
            module, _, name = point.target.partition(":")
            self.by_module[module][name].append(point)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.by_module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self.wrap(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def wrap(self, module: ModuleType) -> None:
        for name, points in self.by_module[module.__name__].items():
            try:
                owner, attribute = place_of(module, name)
            except AttributeError:
                for point in points:
                    self.trigger.missing(point)
            else:
                setattr(owner, attribute, wrapped(getattr(owner, attribute), points, self.trigger))


def place_of(module: ModuleType, name: str) -> tuple[Any, str]:
    """The module or class that holds a function, and its name there. Raises AttributeError."""
    *path, attribute = name.split(".")
    owner = functools.reduce(getattr, path, module)
    getattr(owner, attribute)
    return owner, attribute


def wrapped(function: Callable[..., Any], points: list[Point], trigger: Trigger) -> Callable[..., Any]:
    """`function`, which now tells `trigger` when one of `points` is passed."""
    target = points[0].target
    at: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        at[point.moment].append(point)

    def tell(moment: str, arguments: tuple[Any, ...], result: Any = None) -> None:
        for point in at[moment]:
            trigger.passed(point, arguments, result)

    if target == SUBSCRIBE:
        return _with_messages(function, tell)
    if target == SCRIPT:
        return _with_callback(function, tell)

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        tell(BEFORE, arguments)
        result = function(*arguments, **options)
        tell(AFTER, arguments, result)
        return result

    return run


def _with_callback(function: Callable[..., Any], tell: Callable[..., None]) -> Callable[..., Any]:
    """Script.run(script, connection, done, keys, arguments)."""

    @functools.wraps(function)
    def run(script: Any, connection: Any, done: Any, keys: Any, arguments: Any) -> None:
        passed = (script, connection, done, keys, arguments)

        def heard(reply: Any) -> None:
            if not isinstance(reply, Exception):
                tell(HEARD, passed, reply)
            done(reply)
            tell(AFTER, passed, reply)

        tell(BEFORE, passed)
        function(script, connection, done and heard, keys, arguments)
        tell(SENT, passed)

    return run


def _with_messages(function: Callable[..., Any], tell: Callable[..., None]) -> Callable[..., Any]:
    """Connection.subscribe(connection, channels, on_message)."""

    @functools.wraps(function)
    def subscribe(connection: Any, channels: Any, on_message: Callable[[bytes, bytes], None]) -> None:
        def heard(channel: bytes, data: bytes) -> None:
            tell(HEARD, (channel, data))
            on_message(channel, data)
            tell(AFTER, (channel, data))

        function(connection, channels, heard)

    return subscribe
