"""How a version gets into memory: a catalogue version in this process, a customer's in its organization's child process.

A catalogue version that is suspected of having killed a worker gets a child process for itself.
"""

import logging
from collections.abc import Callable
from contextlib import suppress

import msgspec

from inference.engine.aside import Aside
from inference.engine.child_resident import ChildResident
from inference.engine.children import Children
from inference.engine.errors import EngineError, ModelUnavailable, ProcessEnded
from inference.engine.model import Model
from inference.engine.process import Child
from inference.engine.recorder import Recorder
from inference.engine.residency import LocalResident, Resident
from inference.engine.sessions import Providers
from inference.engine.source import ArtifactSource, without_artifact

log = logging.getLogger(__name__)

CHILD_STARTS = 3

LoadSource = Callable[[str, str], ArtifactSource | None]
"""(version id, owner's organization id) → what is needed to load it; None if there is no such ready version."""


class Opening:
    """All methods raise ModelUnavailable with the reason."""

    def __init__(
        self,
        load_source: LoadSource,
        children: Children,
        recorder: Recorder,
        *,
        is_suspect: Callable[[str], bool],
        providers: Providers,
        max_rows: int,
    ) -> None:
        """`max_rows`: in one run at most; of a version for which intake tried fewer together, those."""
        self._load_source, self._children, self._providers, self._max_rows = load_source, children, providers, max_rows
        self._recorder, self._is_suspect = recorder, is_suspect

    def fetch(self, version: str, owner: str) -> ArtifactSource:
        source = self._load_source(version, owner)
        if source is None:
            raise ModelUnavailable("The version is not there, or not ready")
        if not source.is_private and self._is_suspect(version):
            return msgspec.structs.replace(source, is_suspect=True)
        return source

    def open(self, source: ArtifactSource) -> Resident:
        if source.is_apart:
            known = without_artifact(source)
            child = self._load_into_child(source)
            aside = Aside(known, lambda: self._open_aside(known))
            return ChildResident(source, child, self._rows(source), aside)
        with self._recorder.running(source.version):
            try:
                model = Model.open(source, providers=self._providers, max_rows=self._rows(source))
            except Exception as error:  # onnxruntime raises its own types
                raise ModelUnavailable(f"The model could not be loaded: {str(error).partition(chr(10))[0][:300]}") from error
            model.warm()
        return LocalResident(source, model, self._rows(source), self._recorder)

    def _rows(self, source: ArtifactSource) -> int:
        return min(self._max_rows, source.max_batch_rows)

    def _open_aside(self, known: ArtifactSource) -> ChildResident:
        """In the process for low-priority work; called by the pump that serves it, which waits."""
        try:
            fetched = self.fetch(known.version, known.owner)
            source = msgspec.structs.replace(fetched, is_suspect=known.is_suspect)
        except EngineError:
            raise
        except Exception as error:  # the database's, the store's: not now
            log.exception("loading %s for predictions failed", known.version)
            raise ModelUnavailable("The model cannot be loaded now") from error
        return ChildResident(source, self._load_into_child(source, is_low=True), self._rows(source))

    def _load_into_child(self, source: ArtifactSource, *, is_low: bool = False) -> Child:
        """The owner's process, with the version loaded. One that is ended for another's sake meanwhile is started anew."""
        for _ in range(CHILD_STARTS):
            child = self._children.of(source.place, is_low=is_low, loads=source)
            with suppress(ProcessEnded):
                if not (is_low and source.version in child.versions):  # still there from before its version was evicted
                    child.load(source, self._rows(source))
                return child
        raise ModelUnavailable("The model's process was ended while it loaded")
