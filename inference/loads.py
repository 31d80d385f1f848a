"""Whose cold version is loaded next: organizations take turns, and their own models never hold all loaders.

A place has one loader at a time. Of an organization's own models the organization is the place: one child process loads them
all, one after the other, and a second loader would only wait for it. Of a catalogue model it is the version, also while it is a
suspect and has a process for itself.

A loader that is free takes a catalogue model first, then one of the organization whose turn it has been for longest. Either
kind leaves a loader to the other: however long organizations' own models take, one of the catalogue is begun at once, and a
catalogue that is larger than the memory keeps no organization from its own.
"""

import threading
from collections import deque
from typing import NamedTuple

LOADERS = 3
OF_A_KIND = LOADERS - 1  # loaders that the catalogue's models, or organizations' own, may have at once


class Load(NamedTuple):
    version: str
    place: str
    is_public: bool


class Loads:
    """Versions that wait for a loader or have one. Any thread may call."""

    def __init__(self) -> None:
        self._places: dict[bool, dict[str, deque[str]]] = {True: {}, False: {}}  # by is_public; in turn: versions that wait
        self._under_way: set[Load] = set()
        self._is_ended = False
        self._changed = threading.Condition()

    @property
    def places(self) -> int:
        """How many wait for a loader or have one."""
        return sum([len(places) for places in self._places.values()])

    def put(self, version: str, owner: str, *, is_public: bool) -> None:
        with self._changed:
            self._places[is_public].setdefault(version if is_public else owner, deque()).append(version)
            self._changed.notify()

    def take(self) -> Load | None:
        """The next, waited for, and followed by `done`; None after `end`."""
        with self._changed:
            while not self._is_ended:
                if load := self._next():
                    self._places[load.is_public][load.place].popleft()
                    self._under_way.add(load)
                    return load
                self._changed.wait()
            return None

    def done(self, load: Load) -> None:
        """Its place, if more waits there, is behind all others now."""
        with self._changed:
            self._under_way.remove(load)
            places = self._places[load.is_public]
            if waiting := places.pop(load.place):
                places[load.place] = waiting
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    def _next(self) -> Load | None:
        """Under the lock."""
        for is_public in (True, False):
            busy = {load.place for load in self._under_way if load.is_public == is_public}
            if len(busy) < OF_A_KIND:
                for place, waiting in self._places[is_public].items():
                    if place not in busy:
                        return Load(waiting[0], place, is_public)
        return None
