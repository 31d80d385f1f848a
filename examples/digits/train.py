"""Trains the digits model, a small convolutional network in plain numpy; writes model.onnx, manifest.json and scores.json.

    python train.py

The 1,797 images (8 × 8, ink 0 to 16) of scikit-learn's load_digits seem to lie in the order of their writers, so the last
fifth, kept for the test, should mostly be by other hands than the rest. What the network learns from went through the same
Pillow steps as an image that a caller sends: moved, turned and enlarged a little, then made 8 × 8 again.
"""

import os
import sys
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
os.environ["OPENBLAS_CORETYPE"] = "Haswell"  # else each type of processor rounds in its own way

import numpy as np
import onnx
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).parent.parent))
import report

HERE = Path(__file__).parent
SEED = 20261121
SIDE, INK = 8, 16
TEST_SHARE = 0.2
COPIES = 16  # changed copies of each image to learn from
EPOCHS, BATCH, RATE, DECAY = 24, 64, 0.002, 1e-4
RESAMPLING = [Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC]
Arrays = list[np.ndarray]


def picture(ink: np.ndarray) -> Image.Image:
    """Light ink on black, from (8, 8) values 0 to 16."""
    return Image.fromarray(np.round(ink * (255 / INK)).astype(np.uint8))


def served(image: Image.Image) -> np.ndarray:
    """What the manifest's preprocessing makes of an image: (1, 8, 8) float32, 0 to 16."""
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32)[None] * np.float32(INK / 255)


def changed(ink: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A copy, drawn larger, turned by up to 12°, moved by up to 0.7 pixels, scaled by up to 15 %, softened: (1, 8, 8)."""
    side = int(random.choice([8, 16, 28, 32, 64, 96]))
    image = picture(ink).resize((side, side), RESAMPLING[random.integers(len(RESAMPLING))])
    angle, zoom = np.deg2rad(random.uniform(-12, 12)), random.uniform(0.9, 1.15)
    cos, sin, middle = zoom * np.cos(angle), zoom * np.sin(angle), (side - 1) / 2
    dx, dy = random.uniform(-0.7, 0.7, 2) * side / SIDE
    matrix = (cos, sin, middle - cos * middle - sin * middle + dx, -sin, cos, middle + sin * middle - cos * middle + dy)
    return served(image.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def stretched(x: np.ndarray) -> np.ndarray:
    """Contrast 0 to 1, ink high: what the first ONNX nodes compute. Paper is what the left and right edges mostly are."""
    low, high = x.min(axis=(1, 2, 3), keepdims=True), x.max(axis=(1, 2, 3), keepdims=True)
    x = (x - low) / np.maximum(high - low, 1)
    edge = x[:, :, :, [0, SIDE - 1]].mean(axis=(1, 2, 3), keepdims=True)
    return np.where(edge > 0.5, 1 - x, x)


def initial_weights(random: np.random.Generator) -> Arrays:
    """Two convolutions and two dense layers, He initialisation (He et al. 2015)."""
    shapes = [(16, 1, 3, 3), (32, 16, 3, 3), (32 * 16, 48), (48, 10)]
    fans = [9, 16 * 9, 32 * 16, 48]
    weights = []
    for shape, fan in zip(shapes, fans, strict=True):
        weights.append((random.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32))
        weights.append(np.zeros(shape[0] if len(shape) == 4 else shape[1], np.float32))
    return weights


def patches(x: np.ndarray) -> np.ndarray:
    """The 3 × 3 neighbourhoods of each pixel, zeros beyond the edge: (n, c, h, w) → (n * h * w, c * 9)."""
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1] * 9)


def convolve(columns: np.ndarray, w: np.ndarray, n: int) -> np.ndarray:
    return (columns @ w.reshape(len(w), -1).T).reshape(n, SIDE, SIDE, len(w)).transpose(0, 3, 1, 2)


def gradients(weights: Arrays, x: np.ndarray, y: np.ndarray, random: np.random.Generator) -> Arrays:
    """The gradient of the mean cross-entropy of one batch, by hand; a quarter of the hidden values are dropped."""
    w1, b1, w2, b2, w3, b3, w4, b4 = weights
    n = len(x)
    columns1 = patches(x)
    h1 = np.maximum(convolve(columns1, w1, n) + b1[:, None, None], 0)
    columns2 = patches(h1)
    h2 = np.maximum(convolve(columns2, w2, n) + b2[:, None, None], 0)
    blocks = h2.reshape(n, -1, SIDE // 2, 2, SIDE // 2, 2)
    pooled = blocks.max(axis=(3, 5), keepdims=True)
    flat = pooled.reshape(n, -1)
    keep = (random.random((n, w3.shape[1])) < 0.75).astype(np.float32) / 0.75
    h3 = np.maximum(flat @ w3 + b3, 0) * keep
    scores = h3 @ w4 + b4
    error = np.exp(scores - scores.max(axis=1, keepdims=True))
    error /= error.sum(axis=1, keepdims=True)
    error[np.arange(n), y] -= 1
    error /= n
    error3 = (error @ w4.T) * keep * (h3 > 0)
    error2 = np.where(blocks == pooled, (error3 @ w3.T).reshape(pooled.shape), 0).reshape(h2.shape) * (h2 > 0)
    rows2 = error2.transpose(0, 2, 3, 1).reshape(-1, len(w2))
    back = w2[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)  # a convolution's gradient is one with the turned kernel
    error1 = convolve(patches(error2), back, n) * (h1 > 0)
    rows1 = error1.transpose(0, 2, 3, 1).reshape(-1, len(w1))
    return [
        (rows1.T @ columns1).reshape(w1.shape), rows1.sum(axis=0),
        (rows2.T @ columns2).reshape(w2.shape), rows2.sum(axis=0),
        flat.T @ error3, error3.sum(axis=0),
        h3.T @ error, error.sum(axis=0),
    ]  # fmt: skip


def fit(x: np.ndarray, y: np.ndarray, random: np.random.Generator) -> Arrays:
    """Weights after EPOCHS rounds of AdamW (Loshchilov and Hutter 2019) with a rate that falls to zero."""
    weights = initial_weights(random)
    first = [np.zeros_like(w) for w in weights]
    second = [np.zeros_like(w) for w in weights]
    steps, step = EPOCHS * (len(x) // BATCH), 0
    for _ in range(EPOCHS):
        order = random.permutation(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            step += 1
            rate = RATE * (1 - step / (steps + 1))
            for w, m, v, g in zip(weights, first, second, gradients(weights, x[rows], y[rows], random), strict=True):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                w -= rate * (m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8) + DECAY * w)
    return weights


def make_model(weights: Arrays) -> onnx.ModelProto:
    """image (n, 1, 8, 8) float32, 0 to 16 → probabilities (n, 10) float32."""
    constants = dict(zip(["w1", "b1", "w2", "b2", "w3", "b3", "w4", "b4"], weights, strict=True))
    constants |= {
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
        "edges": np.array([0, SIDE - 1], np.int64),
    }

    def node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), [output], **attributes)

    nodes = [
        node("ReduceMin", "image", "low", axes=[1, 2, 3], keepdims=1),
        node("ReduceMax", "image", "high", axes=[1, 2, 3], keepdims=1),
        node("Sub", "high low", "range"),
        node("Max", "range one", "divisor"),
        node("Sub", "image low", "above"),
        node("Div", "above divisor", "contrast"),
        node("Gather", "contrast edges", "edge_values", axis=3),
        node("ReduceMean", "edge_values", "edge", axes=[1, 2, 3], keepdims=1),
        node("Greater", "edge half", "is_dark_on_light"),
        node("Sub", "one contrast", "inverse"),
        node("Where", "is_dark_on_light inverse contrast", "ink"),
        node("Conv", "ink w1 b1", "conv1", pads=[1, 1, 1, 1]),
        node("Relu", "conv1", "relu1"),
        node("Conv", "relu1 w2 b2", "conv2", pads=[1, 1, 1, 1]),
        node("Relu", "conv2", "relu2"),
        node("MaxPool", "relu2", "pooled", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "pooled", "flat"),
        node("Gemm", "flat w3 b3", "dense"),
        node("Relu", "dense", "relu3"),
        node("Gemm", "relu3 w4 b4", "scores"),
        node("Softmax", "scores", "probabilities", axis=-1),
    ]
    return report.model(
        "digits",
        nodes,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )


def main() -> None:
    images, y = load_digits(return_X_y=True)
    images = images.reshape(-1, SIDE, SIDE)
    first_test = int(len(y) * (1 - TEST_SHARE))
    random = np.random.default_rng(SEED)
    training = [served(picture(ink)) for ink in images[:first_test]]
    copies = [changed(ink, random) for _ in range(COPIES) for ink in images[:first_test]]
    x = stretched(np.stack(training + copies))
    model = make_model(fit(x, np.tile(y[:first_test], COPIES + 1), random))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def predicted(pictures: list[Image.Image]) -> np.ndarray:
        return session.run(None, {"image": np.stack([served(image) for image in pictures])})[0].argmax(axis=1)

    test, labels = [picture(ink) for ink in images[first_test:]], [str(digit) for digit in range(10)]
    enlarged = [ImageOps.invert(image.resize((112, 112), Image.Resampling.BICUBIC)) for image in test]
    scores = {
        "held_out": report.scores(y[first_test:], predicted(test), labels),
        "held_out_enlarged_dark_on_light": report.scores(y[first_test:], predicted(enlarged), labels),
    }
    manifest = {
        "version": "1.0.0",
        "task": "image-classification",
        "input": "image",
        "output": "probabilities",
        "labels": labels,
        "preprocessing": [
            {"step": "grayscale"},
            {"step": "resize", "width": SIDE, "height": SIDE},
            {"step": "scale", "by": INK / 255},
            {"step": "layout", "to": "NCHW"},
        ],
    }
    enlarged[0].save(HERE / "sample.png", optimize=True)
    report.write(HERE, model, manifest, scores)
    print("the sample is a", y[first_test])


if __name__ == "__main__":
    main()
