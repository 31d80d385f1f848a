"""What the engine is given to load a version: everything that it needs to know of one."""

from typing import Any

import msgspec

from inference.routes import TensorSpec


class ArtifactSource(msgspec.Struct, array_like=True):
    """A version's artifact and what intake found out about it. Made by inference.registry.version_artifact."""

    version: str  # version id, 32 hexadecimal digits
    owner: str  # organization id, 32 hexadecimal digits
    artifact: bytes  # the ONNX file
    manifest: dict[str, Any]  # as inference.engine.manifest has checked it
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    digest: str = ""  # sha256 of the artifact, hexadecimal
    has_batch: bool = False  # the leading dimension is free
    is_batchable: bool = False  # and rows were found independent
    is_private: bool = True  # a customer's upload: it runs in a child process of its own organization
    ms_per_row: float = 1.0  # measured at intake
    load_bytes: int = 0  # measured at intake
    hardware: str = "cpu"
    has_slow_lanes: bool = False  # slow calls wait in lanes of their own
    max_batch_rows: int = 1  # rows of different calls in one run at most: intake tried no more of them together
    is_suspect: bool = False  # a catalogue version that ran in a worker when it died (inference/suspects.py)

    @property
    def is_apart(self) -> bool:
        """It runs in a child process."""
        return self.is_private or self.is_suspect

    @property
    def place(self) -> str:
        """Whose processes and pumps are its own: its organization's; a suspect has some for itself."""
        return self.version if self.is_suspect else self.owner


def size_of(source: ArtifactSource) -> int:
    return max(source.load_bytes, len(source.artifact))


def without_artifact(source: ArtifactSource) -> ArtifactSource:
    """The same facts, without holding on to the file's bytes."""
    return ArtifactSource(**{name: getattr(source, name) for name in source.__struct_fields__} | {"artifact": b""})
