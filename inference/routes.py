"""What a gateway knows of a model: the snapshot that registry.py makes and gateways keep in memory."""

from functools import cached_property

import msgspec

from saas.lib.prices import Price


class TensorSpec(msgspec.Struct, array_like=True):
    """An input or output of a version. `shape` has -1 for a free dimension; datatype as in the Open Inference Protocol."""

    name: str
    datatype: str
    shape: list[int]


class VersionRoute(msgspec.Struct):
    id: str  # 32 hexadecimal digits
    number: str  # 1.2.3
    digest: str  # sha256 of the artifact, hexadecimal
    state: str  # validating, ready, rejected
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    has_batch: bool = False  # the leading dimension is free: rows are counted there
    is_batchable: bool = False  # and rows were found independent: requests may share a run
    hardware: str = "cpu"
    ms_per_row: float = 1.0  # measured at intake
    features: list[str] = []  # tabular: names of the columns, in order
    labels: list[str] = []
    input: str = ""  # the input that friendly calls feed
    output: str = ""  # the output that friendly calls read
    has_slow_lanes: bool = False  # slow calls wait in lanes of their own


class ModelRoute(msgspec.Struct, dict=True):
    id: str
    name: str
    owner: str  # organization id, 32 hexadecimal digits
    owner_slug: str
    is_public: bool
    task: str  # tensor, tabular, image-classification, text-classification
    versions: dict[str, VersionRoute] = {}  # by number
    aliases: dict[str, str] = {}  # alias → number
    prices: list[Price] = []  # everybody's, oldest start first: those in force or to come

    @cached_property
    def full_name(self) -> str:
        return f"{self.owner_slug}/{self.name}"

    @cached_property
    def is_callable(self) -> bool:
        """Whether any version is ready."""
        return any(version.state == "ready" for version in self.versions.values())

    def version(self, reference: str | None) -> VersionRoute | None:
        """The version behind a number, an alias, or nothing (`production`)."""
        number = self.aliases.get(reference or "production", reference or "")
        return self.versions.get(number)


def preferred(own: ModelRoute | None, public: ModelRoute | None) -> ModelRoute | None:
    """Which of two models a bare name means: the own one, unless only the catalogue's can be called."""
    if own is None:
        return public
    return public if public is not None and public.is_callable and not own.is_callable else own


pack_route = msgspec.msgpack.Encoder().encode
unpack_route = msgspec.msgpack.Decoder(ModelRoute).decode
