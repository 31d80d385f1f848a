"""An organization's own version, in its child process."""

import time
from collections.abc import Sequence
from itertools import groupby

from inference.engine.batch import refusal
from inference.engine.errors import DeadlineExceeded, EngineError, ProcessDied, ProcessEnded
from inference.engine.process import Child
from inference.engine.residency import Resident
from inference.engine.source import ArtifactSource, size_of, without_artifact
from inference.lanes import Reply, Work

KILL_SECONDS = 0.1  # after a deadline: a run that does not end by itself ends with its process


def _late(work: Work) -> Reply:
    return refusal(work, DeadlineExceeded("The deadline passed while the call waited"))


class ChildResident:
    """An organization's own version, in its child process."""

    def __init__(self, source: ArtifactSource, child: Child, max_rows: int, aside: Resident | None = None) -> None:
        """`aside` runs the same version's low-priority work elsewhere, and lives as long as this."""
        self.source, self.child, self.max_rows, self.aside = without_artifact(source), child, max_rows, aside
        self._bytes = size_of(source)
        self.us_per_row = source.ms_per_row * 1000
        self.last_used = time.monotonic()

    @property
    def bytes(self) -> int:
        return self._bytes + (self.aside.bytes if self.aside else 0)

    @property
    def is_busy(self) -> bool:
        return self.child.is_busy or (self.aside is not None and self.aside.is_busy)

    @property
    def is_ended(self) -> bool:
        return self.child.is_ended

    def run(self, works: Sequence[Work]) -> list[Reply | None]:
        """One Reply per call, None for those that are to be run again, by the resident that follows if this one has ended.

        When the process dies under several calls, they come back as suspects. A suspect runs alone, so that only the one
        that kills the process fails.
        """
        replies: list[Reply | None] = []
        for suspect, mine in groupby(range(len(works)), key=lambda place: place if works[place].is_suspect else None):
            chosen = [works[place] for place in mine]
            is_late = suspect is not None and chosen[0].deadline <= time.time()
            replies += [_late(chosen[0])] if is_late else self._run_together(chosen)
        return replies

    def _run_together(self, works: Sequence[Work]) -> list[Reply | None]:
        """The process ends the run itself at the last of their deadlines, and is killed soon after."""
        self.last_used = time.monotonic()
        until = self.last_used + max(work.deadline for work in works) - time.time() + KILL_SECONDS
        try:
            return self.child.run(self.source.version, works, self.max_rows, until)
        except ProcessEnded:
            return [None] * len(works)
        except ProcessDied as error:
            if len(works) == 1:
                return [refusal(works[0], error)]
            for work in works:
                work.is_suspect = True
            return [None] * len(works)
        except EngineError as error:
            return [refusal(work, error) for work in works]

    def close(self) -> None:
        self.child.unload(self.source.version)
        if self.aside is not None:
            self.aside.close()
