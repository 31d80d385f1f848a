"""The models that every server serves, samples to ask them about, and the right answers, which onnxruntime itself gives.

`iris` and `digits` are the trained ones of examples/. The others have random weights, always the same: what they cost is what
matters. Each is made once and kept.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from benchmarks.dialects import Row
from benchmarks.servers.digits import pixels
from benchmarks.servers.session import open_session
from saas.config import ROOT

EXAMPLES = ROOT / "examples"
SAMPLES = 4  # different ones, so that a server that mixes up two callers' answers is caught
DECIMALS = 4  # of the numbers in a request, so that JSON and binary say the same
OPSET, IR_VERSION = 17, 9
ANGLES = (0, 45, 90, 270)  # degrees: turned so, the digit looks to the model like four different ones
IRIS = [[5.1, 3.5, 1.4, 0.2], [5.9, 2.8, 4.3, 1.3], [6.9, 3.1, 5.8, 2.2], [6.0, 2.9, 4.9, 1.7]]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Model:
    """`rows` are the samples, flat; `shape` is one row's. `images` (PNG files) and `labels` are those of `digits` alone."""

    name: str
    file: Path
    input: str
    output: str
    shape: list[int]
    rows: list[list[float]]
    expected: list[list[float]]
    manifest: Path | None = None
    labels: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)

    @property
    def row_bytes(self) -> int:
        """Of one row as float32."""
        return 4 * len(self.rows[0])

    def right_answers(self) -> list[Row]:
        """Per sample: the output row, or the best label with its confidence."""
        if not self.labels:
            return [[*row] for row in self.expected]
        best = [int(np.argmax(row)) for row in self.expected]
        return [[self.labels[column], row[column]] for column, row in zip(best, self.expected, strict=True)]


class Graph:
    """A chain of nodes with random weights of a fixed seed. Each method adds one and returns its output's name."""

    def __init__(self) -> None:
        self.chance = np.random.default_rng(7)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:  # Any: what onnx takes
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, *shape: int, fan_in: int = 0) -> str:
        """Random values that keep the variance of a layer with `fan_in` inputs and a ReLU; zeros if it is 0."""
        values = self.chance.standard_normal(shape) * np.sqrt(2 / fan_in) if fan_in else np.zeros(shape)
        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def dense(self, x: str, size_in: int, size_out: int, *, gain: float = 1.0) -> str:
        """The output's scale is `gain` times the input's."""
        return self.add("Gemm", x, self.weight(size_in, size_out, fan_in=size_in), self.weight(size_out), alpha=gain)

    def convolution(self, x: str, channels_in: int, channels_out: int, *, size: int = 3, stride: int = 1) -> str:
        kernel = self.weight(channels_out, channels_in, size, size, fan_in=channels_in * size * size)
        return self.add("Conv", x, kernel, self.weight(channels_out), pads=[size // 2] * 4, strides=[stride] * 2)

    def block(self, x: str, channels_in: int, channels_out: int) -> str:
        """A residual block; where the channels grow it halves width and height."""
        stride = 1 if channels_in == channels_out else 2
        skip = x if stride == 1 else self.convolution(x, channels_in, channels_out, size=1, stride=stride)
        inner = self.add("Relu", self.convolution(x, channels_in, channels_out, stride=stride))
        return self.add("Relu", self.add("Add", self.convolution(inner, channels_out, channels_out), skip))

    def enlarged(self, x: str, times: int) -> str:
        """An image of that many times its height and width."""
        self.weights.append(numpy_helper.from_array(np.array([1, 1, times, times], np.float32), "scales"))
        return self.add("Resize", x, "", "scales", mode="nearest")

    def residual(self, x: str) -> str:
        """A small residual network on an image of 3 channels; the probabilities of 10 classes."""
        x = self.add("Relu", self.convolution(x, 3, 64, size=7, stride=2))
        for channels_in, channels_out in pairwise((64, 64, 64, 128, 128, 128, 256, 256)):
            x = self.block(x, channels_in, channels_out)
        return self.add("Softmax", self.dense(self.pooled(x), 256, 10, gain=0.05))

    def pooled(self, x: str) -> str:
        return self.add("Flatten", self.add("GlobalAveragePool", x))

    def save(self, file: Path, shape: Sequence[int], last: str, size_out: int, *, rows: int | str = "n") -> None:
        """Write the model `x` (rows, *shape) → `last` (rows, size_out), both float32."""
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, *shape])
        y = helper.make_tensor_value_info(last, TensorProto.FLOAT, [rows, size_out])
        graph = helper.make_graph(self.nodes, file.stem, [x], [y], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        onnx.save(model, str(file))


def make_mlp(file: Path) -> None:
    """784-2048-2048-10: 23 MB of weights, so that a batch costs little more than one row."""
    graph = Graph()
    hidden = graph.add("Relu", graph.dense("x", 784, 2048))
    hidden = graph.add("Relu", graph.dense(hidden, 2048, 2048))
    graph.save(file, SHAPES["bench-mlp"], graph.add("Softmax", graph.dense(hidden, 2048, 10)), 10)


def make_conv(file: Path) -> None:
    """A small residual network on 3×64×64 images, about 5 ms: it computes, so that batching saves little."""
    graph = Graph()
    graph.save(file, SHAPES["bench-conv"], graph.residual("x"), 10)


def make_steady(file: Path) -> None:
    """The same network on a 3×8×8 image that it enlarges itself: about 5 ms that cost the gateway next to nothing."""
    graph = Graph()
    graph.save(file, SHAPES["calm-steady"], graph.residual(graph.enlarged("x", 8)), 10)


def make_slow(file: Path) -> None:
    """The same on 1280×1280: about 2 s, one row a run."""
    graph = Graph()
    graph.save(file, SHAPES["calm-slow"], graph.residual(graph.enlarged("x", 160)), 10, rows=1)


def make_echo(file: Path) -> None:
    """Its input: an answer of some 40 KB in JSON."""
    graph = Graph()
    graph.save(file, SHAPES["calm-echo"], graph.add("Relu", "x"), *SHAPES["calm-echo"])


def make_image(file: Path) -> None:
    """The mean of each channel of a 3×224×224 image: all of the cost is in moving 600 KB."""
    graph = Graph()
    graph.save(file, SHAPES["bench-image"], graph.pooled("x"), 3)


SHAPES = {
    "bench-mlp": [784],
    "bench-conv": [3, 64, 64],
    "bench-image": [3, 224, 224],
    "calm-steady": [3, 8, 8],
    "calm-slow": [3, 8, 8],
    "calm-echo": [4096],
}
MAKERS: dict[str, Callable[[Path], None]] = {
    "bench-mlp": make_mlp,
    "bench-conv": make_conv,
    "bench-image": make_image,
    "calm-steady": make_steady,
    "calm-slow": make_slow,
    "calm-echo": make_echo,
}


def load(name: str, folder: Path) -> Model:
    """The model; made in `folder` if it is not there."""
    if name in MAKERS:
        file, manifest, rows, images = folder / f"{name}.onnx", None, random_rows(SHAPES[name]), []
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            MAKERS[name](file)
    else:
        file, manifest = EXAMPLES / name / "model.onnx", EXAMPLES / name / "manifest.json"
        images = turned(file.with_name("sample.png")) if name == "digits" else []
        rows = np.stack([pixels(image) for image in images]) if images else np.array(IRIS)
    session = open_session(str(file))
    input_, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    expected = np.concatenate([session.run([output], {input_: row[None].astype(np.float32)})[0] for row in rows])
    distances = np.abs(expected[:, None] - expected[None]).max(axis=2) + np.eye(SAMPLES)
    assert distances.min() > 0.01, f"two samples of {name} have nearly the same answer"
    labels = json.loads(manifest.read_text())["labels"] if manifest and images else []
    flat = rows.reshape(len(rows), -1).tolist()
    return Model(name, file, input_, output, list(rows.shape[1:]), flat, expected.tolist(), manifest, labels, images)


def random_rows(shape: Sequence[int]) -> Floats:
    """(SAMPLES, *shape); those of images have different colours, for the pooled features of plain noise are all alike."""
    chance = np.random.default_rng(11)
    rows = chance.standard_normal((SAMPLES, *shape))
    if len(shape) == 3:
        rows += 2 * chance.standard_normal((SAMPLES, shape[0], 1, 1))
    return np.round(rows, DECIMALS)


def turned(file: Path) -> list[bytes]:
    """The image, turned by each of ANGLES, as PNG files."""
    with Image.open(file) as image:
        return [_png(image.rotate(angle)) for angle in ANGLES]


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def about(model: Model) -> dict[str, Any]:  # Any: JSON
    """What a peer's server needs to know."""
    known = asdict(model)
    return {name: known[name] for name in ("input", "output", "labels")} | {"file": str(model.file)}
