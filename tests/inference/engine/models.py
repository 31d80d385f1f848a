"""Small ONNX models for the engine's tests, made on the spot."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from inference.engine.model import signature
from inference.engine.sessions import open_session
from inference.engine.source import ArtifactSource
from inference.engine.tensors import encode
from inference.lanes import Tensor, Work
from saas.lib.ids import uuid7

FLOAT, STRING, INT32, INT64, HALF, BOOL = (
    TensorProto.FLOAT,
    TensorProto.STRING,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.FLOAT16,
    TensorProto.BOOL,
)
WEIGHTS = np.random.default_rng(7).normal(size=(4, 3)).astype("f4")


def graph(inputs, outputs, nodes, constants=()) -> bytes:
    """`inputs` and `outputs`: (name, element type, shape); `constants`: (name, array)."""
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def source(artifact: bytes, manifest=None, **facts) -> ArtifactSource:
    inputs, outputs = signature(open_session(artifact))
    ids = {"version": uuid7().hex, "owner": uuid7().hex}
    facts = ids | {"has_batch": True, "is_batchable": True, "is_private": False, "max_batch_rows": 64} | facts
    return ArtifactSource(artifact=artifact, manifest=manifest or {}, inputs=inputs, outputs=outputs, **facts)


def linear(manifest=None, **facts) -> ArtifactSource:
    """(n, 4) → scores (n, 3), float32: x @ WEIGHTS."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["scores"])]
    artifact = graph([("x", FLOAT, ["n", 4])], [("scores", FLOAT, ["n", 3])], nodes, [("w", WEIGHTS)])
    return source(artifact, manifest, **facts)


def gather(**facts) -> ArtifactSource:
    """(n,) int64 → letter (n,) BYTES of "abc"[i]; an index beyond fails the run."""
    nodes = [helper.make_node("Gather", ["letters", "i"], ["letter"])]
    letters = np.array(["a", "b", "c"], object)
    return source(graph([("i", INT64, ["n"])], [("letter", STRING, ["n"])], nodes, [("letters", letters)]), **facts)


def quotient(**facts) -> ArtifactSource:
    """(n,) int32, (n,) int32 → their quotient (n,) int32; the least number by -1 ends the process on most processors."""
    nodes = [helper.make_node("Div", ["a", "b"], ["y"])]
    return source(graph([("a", INT32, ["n"]), ("b", INT32, ["n"])], [("y", INT32, ["n"])], nodes), **facts)


def filled(**facts) -> ArtifactSource:
    """(n,) int64 → (n, width) float32 of zeros, width as in the first row's number: outputs as large as one likes."""
    nodes = [
        helper.make_node("Shape", ["width"], ["rows"]),
        helper.make_node("Slice", ["width", "zero", "one"], ["first"]),
        helper.make_node("Concat", ["rows", "first"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["y"]),
    ]
    constants = [("zero", np.array([0])), ("one", np.array([1]))]
    return source(graph([("width", INT64, ["n"])], [("y", FLOAT, ["n", "m"])], nodes, constants), **facts)


def identity(element: int, shape: list, **facts) -> ArtifactSource:
    return source(
        graph([("x", element, shape)], [("y", element, shape)], [helper.make_node("Identity", ["x"], ["y"])]), **facts
    )


def largest(width: int, **facts) -> ArtifactSource:
    """(n, width) float32 → the largest number of each row, (n, 1)."""
    nodes = [helper.make_node("ReduceMax", ["x", "axes"], ["y"])]
    constants = [("axes", np.array([1], "i8"))]
    return source(graph([("x", FLOAT, ["n", width])], [("y", FLOAT, ["n", 1])], nodes, constants), **facts)


def slow(trips: int, **facts) -> ArtifactSource:
    """(n,) float32 → the same, after `trips` rounds of a loop: 10 million take some seconds."""
    constants = [("trips", np.array(trips, "i8")), ("yes", np.array(True))]
    return source(graph([("x", FLOAT, ["n"])], [("y", FLOAT, ["n"])], [_loop("n")], constants), **facts)


def counted(**facts) -> ArtifactSource:
    """() int64 → (1,) float32, after so many rounds of a loop."""
    constants = [("x", np.ones(1, "f4")), ("yes", np.array(True))]
    facts = {"has_batch": False, "is_batchable": False} | facts
    return source(graph([("trips", INT64, [])], [("y", FLOAT, [1])], [_loop(1)], constants), **facts)


def hoarding(**facts) -> ArtifactSource:
    """(1,) int64, () int64 → (1,) float32: holds so many numbers of 4 bytes for so many rounds of a loop."""
    nodes = [
        helper.make_node("ConstantOfShape", ["count"], ["held"]),
        helper.make_node("ReduceMax", ["held", "axes"], ["x"]),
        _loop(1, "waited"),
        helper.make_node("Cast", ["waited"], ["place"], to=INT64),  # so that nothing lets go of them before the loop has ended
        helper.make_node("Gather", ["held", "place"], ["y"]),
    ]
    constants = [("axes", np.array([0])), ("yes", np.array(True))]
    inputs = [("count", INT64, [1]), ("trips", INT64, [])]
    facts = {"has_batch": False, "is_batchable": False, "is_private": True} | facts
    return source(graph(inputs, [("y", FLOAT, [1])], nodes, constants), **facts)


def _loop(size: int | str, name: str = "y") -> onnx.NodeProto:
    """`name` = x, negated in each of `trips` rounds."""
    value = [helper.make_tensor_value_info(name, FLOAT, [size]) for name in ("at", "next")]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["go"]), helper.make_node("Neg", ["at"], ["next"])],
        "body",
        [helper.make_tensor_value_info("trip", INT64, []), helper.make_tensor_value_info("go_on", BOOL, []), value[0]],
        [helper.make_tensor_value_info("go", BOOL, []), value[1]],
    )
    return helper.make_node("Loop", ["trips", "yes", "x"], [name], body=body)


def row(*numbers: float) -> np.ndarray:
    return np.array([numbers], "f4")


def work(made: ArtifactSource, *arrays: np.ndarray, number: int = 0, datatype: str = "", **fields) -> Work:
    """A tensor call of `made`'s inputs in order; or one of `items`, if given."""
    tensors: list[Tensor] | None = [
        encode(spec.name, spec.datatype, array) for spec, array in zip(made.inputs, arrays, strict=False)
    ]
    rows = arrays[0].shape[0] if arrays and made.has_batch and arrays[0].ndim else 1
    if "items" in fields:
        tensors, rows = None, len(fields["items"])
    fields = {"gateway": "g", "tenant": made.owner, "deadline": 4e9, "sent": 0.0, "inputs": tensors, "rows": rows} | fields
    fields = {"call": uuid7().hex, "is_public": not made.is_private} | fields
    return Work(number=number, owner=made.owner, version=made.version, **fields)
