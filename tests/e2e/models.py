"""Models as customers bring them, and what onnxruntime itself says of them."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tests.e2e.customers import model_bytes

FLOAT, HALF, INT64, BOOL, STRING = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT64,
    TensorProto.BOOL,
    TensorProto.STRING,
)
DATATYPES = {"tensor(float)": "FP32", "tensor(float16)": "FP16", "tensor(int64)": "INT64", "tensor(bool)": "BOOL"}
DATATYPES["tensor(string)"] = "BYTES"
node, tensor = helper.make_node, numpy_helper.from_array


def several() -> bytes:
    """a (n, 2) float32, b (n,) int64 → total (n, 2) float32, twice (n,) int64, is_positive (n, 2) bool."""
    return model_bytes(
        [
            node("Cast", ["b"], ["b_float"], to=FLOAT),
            node("Unsqueeze", ["b_float", "axis"], ["column"]),
            node("Add", ["a", "column"], ["total"]),
            node("Add", ["b", "b"], ["twice"]),
            node("Greater", ["a", "zero"], ["is_positive"]),
        ],
        [("a", FLOAT, ["n", 2]), ("b", INT64, ["n"])],
        [("total", FLOAT, ["n", 2]), ("twice", INT64, ["n"]), ("is_positive", BOOL, ["n", 2])],
        initializers=[tensor(np.array([1]), "axis"), tensor(np.zeros(1, "f4"), "zero")],
    )


def texts() -> bytes:
    """words (n, 2) BYTES → swapped (n, 2) BYTES, is_same (n,) bool."""
    return model_bytes(
        [
            node("Gather", ["words", "order"], ["swapped"], axis=1),
            node("Gather", ["words", "first"], ["left"], axis=1),
            node("Gather", ["words", "second"], ["right"], axis=1),
            node("Equal", ["left", "right"], ["is_same"]),
        ],
        [("words", STRING, ["n", 2])],
        [("swapped", STRING, ["n", 2]), ("is_same", BOOL, ["n"])],
        initializers=[
            tensor(np.array([1, 0]), "order"),
            tensor(np.array(0), "first"),
            tensor(np.array(1), "second"),
        ],
        opset=19,
    )


def one_operator(operator: str, kind: int, shape: list, out: list | None = None, *constants: np.ndarray, **attributes) -> bytes:
    """x → y by one operator, whose other inputs are `constants`."""
    names = [f"c{place}" for place in range(len(constants))]
    return model_bytes(
        [node(operator, ["x", *names], ["y"], **attributes)],
        [("x", kind, shape)],
        [("y", kind, shape if out is None else out)],
        initializers=[tensor(array, name) for array, name in zip(constants, names, strict=True)],
    )


def scaled(factor: float) -> bytes:
    """x (n, 2) float32 → y = factor · x."""
    return one_operator("Mul", FLOAT, ["n", 2], None, np.array([factor], "f4"))


def dynamic() -> bytes:
    """x (n, m) float32 → shares (n, m), sums (n,)."""
    return model_bytes(
        [node("Softmax", ["x"], ["shares"], axis=1), node("ReduceSum", ["x", "axis"], ["sums"], keepdims=0)],
        [("x", FLOAT, ["n", "m"])],
        [("shares", FLOAT, ["n", "m"]), ("sums", FLOAT, ["n"])],
        initializers=[tensor(np.array([1]), "axis")],
    )


def slow() -> bytes:
    """x (n,) float32, rounds () int64 → y = ±x, after so many rounds of a loop: some million take a second."""
    body = helper.make_graph(
        [node("Identity", ["go_on"], ["go"]), node("Neg", ["at"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("round", INT64, []),
            helper.make_tensor_value_info("go_on", BOOL, []),
            helper.make_tensor_value_info("at", FLOAT, ["n"]),
        ],
        [helper.make_tensor_value_info("go", BOOL, []), helper.make_tensor_value_info("next", FLOAT, ["n"])],
    )
    return model_bytes(
        [node("Loop", ["rounds", "yes", "x"], ["y"], body=body)],
        [("x", FLOAT, ["n"]), ("rounds", INT64, [])],
        [("y", FLOAT, ["n"])],
        initializers=[tensor(np.array(True), "yes")],
    )


def slow_body(rounds: int, x: float = 3.0) -> dict:
    """A V2 request to `slow`."""
    return {
        "inputs": [
            {"name": "x", "shape": [1], "datatype": "FP32", "data": [x]},
            {"name": "rounds", "shape": [], "datatype": "INT64", "data": [rounds]},
        ]
    }


class Own:
    """onnxruntime's own answers. `inputs` and `outputs`: name → datatype of the protocol."""

    def __init__(self, artifact: bytes) -> None:
        self.session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
        self.inputs = {each.name: DATATYPES[each.type] for each in self.session.get_inputs()}
        self.outputs = {each.name: DATATYPES[each.type] for each in self.session.get_outputs()}

    def __call__(self, **feed: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, self.session.run(list(self.outputs), feed), strict=True))


def assert_same(answer: np.ndarray, own: np.ndarray) -> None:
    """Equal shapes, and values within 1e-5 (texts and whole numbers exactly). BYTES may be bytes or text."""
    assert list(answer.shape) == list(own.shape)
    if own.dtype == object or own.dtype.kind in "US":
        answered = [each.decode() if isinstance(each, bytes) else str(each) for each in answer.ravel()]
        assert answered == own.ravel().tolist()
    elif own.dtype.kind == "f":
        np.testing.assert_allclose(np.asarray(answer, "f8"), own.astype("f8"), rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(answer, own)
