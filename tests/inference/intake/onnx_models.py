"""Small ONNX models, good and hostile, built as the tests need them."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, STRING, FLOAT16, BOOL = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.STRING,
    TensorProto.FLOAT16,
    TensorProto.BOOL,
)


def value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def weights(*shape, name="W", dtype=np.float32):
    return numpy_helper.from_array(np.random.default_rng(1).normal(size=shape).astype(dtype), name)


def proto(nodes, inputs, outputs, initializers=(), *, opset=17, ir_version=8, functions=(), domains=(), sparse=()):
    graph = helper.make_graph(
        list(nodes), "graph", list(inputs), list(outputs), list(initializers), sparse_initializer=list(sparse)
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=list(functions))


def model(*args, **kwargs):
    return proto(*args, **kwargs).SerializeToString()


def linear(columns=4, classes=3, seed=0):
    """(n, columns) float32 → scores (n, classes)."""
    matrix = numpy_helper.from_array(np.random.default_rng(seed).normal(size=(columns, classes)).astype(np.float32), "W")
    nodes = [helper.make_node("MatMul", ["x", "W"], ["z"], name="product"), helper.make_node("Softmax", ["z"], ["y"], axis=1)]
    return model(nodes, [value("x", FLOAT, ["n", columns])], [value("y", FLOAT, ["n", classes])], [matrix])


def one(op, *, kind=FLOAT, shape=("n", 4), out=None, out_kind=None, inputs=None, initializers=(), opset=17, **attributes):
    """A model of one operator on x."""
    node = helper.make_node(op, inputs or ["x"], ["y"], name=op.lower(), **attributes)
    out = shape if out is None else out
    return model([node], [value("x", kind, shape)], [value("y", out_kind or kind, out)], initializers, opset=opset)
