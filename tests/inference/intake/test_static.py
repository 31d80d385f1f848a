"""The static rules: what is refused without running a model, by which code."""

import time
from contextlib import suppress

import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from inference.intake import sandbox, static
from inference.intake.rules import RULES, Rejected
from tests.inference.intake.onnx_models import FLOAT, INT64, linear, model, proto, value, weights

pytestmark = pytest.mark.no_servers

X, Y = value("x", FLOAT, ["n", 4]), value("y", FLOAT, ["n", 4])
IDENTITY = helper.make_node("Identity", ["x"], ["y"])


def code_of(data):
    with pytest.raises(Rejected) as raised:
        static.examine(data)
    verdict = raised.value.verdict()
    assert verdict["rule"] == RULES[verdict["code"]]
    return verdict["code"]


def external(tensor=None, location="weights.bin"):
    tensor = tensor or TensorProto(name="W", data_type=FLOAT, dims=[4, 4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def with_attribute(attribute):
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.append(attribute)
    return model([node, IDENTITY], [X], [Y])


def test_a_good_model_is_described():
    facts = static.examine(linear())

    assert facts == {
        "nodes": 2,
        "initializers": 1,
        "initializer_bytes": 48,
        "operators": ["MatMul", "Softmax"],
        "expanded_nodes": 2,
        "depth": 0,
        "ir_version": 8,
        "opsets": {"ai.onnx": 17},
    }


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "/proc/self/environ", "*/_ORT_MEM_ADDR_/*", "weights.bin", "hard.link", "sym.link", ""],
)
def test_external_data_is_refused_wherever_it_points(location):
    matrix = external(location=location)

    assert code_of(model([helper.make_node("MatMul", ["x", "W"], ["y"])], [X], [Y], [matrix])) == "external_data"


def test_external_data_is_refused_when_only_half_of_it_is_declared():
    only_entries = numpy_helper.from_array(np.ones((4, 4), np.float32), "W")
    only_entries.external_data.add(key="location", value="x")
    only_location = numpy_helper.from_array(np.ones((4, 4), np.float32), "W")
    only_location.data_location = TensorProto.EXTERNAL

    for matrix in (only_entries, only_location):
        assert code_of(model([helper.make_node("MatMul", ["x", "W"], ["y"])], [X], [Y], [matrix])) == "external_data"


def sparse(values):
    indices = numpy_helper.from_array(np.array([0], np.int64), "i")
    return helper.make_sparse_tensor(values, indices, [4])


HIDING_PLACES = {
    "attribute": lambda: with_attribute(helper.make_attribute("value", external())),
    "attribute of a wrong type": lambda: with_attribute(
        AttributeProto(name="value", type=AttributeProto.FLOAT, f=1.0, t=external())
    ),
    "list attribute": lambda: with_attribute(AttributeProto(name="v", type=AttributeProto.TENSORS, tensors=[external()])),
    "sparse attribute": lambda: with_attribute(
        helper.make_attribute("sparse_value", sparse(external(TensorProto(name="v", data_type=FLOAT, dims=[1]))))
    ),
    "sparse initializer": lambda: model(
        [IDENTITY], [X], [Y], sparse=[sparse(external(TensorProto(name="v", data_type=FLOAT, dims=[1])))]
    ),
    "subgraph": lambda: model([branch([external()])], [X], [Y]),
    "function": lambda: with_function([constant(external()), helper.make_node("Identity", ["a"], ["b"])]),
    "default of a function's attribute": lambda: with_function(
        [helper.make_node("Identity", ["a"], ["b"])], defaults=[helper.make_attribute("v", external())]
    ),
    "function that nobody calls": lambda: model(
        [IDENTITY], [X], [Y], functions=[function("f", [constant(external()), helper.make_node("Identity", ["a"], ["b"])])]
    ),
}


def constant(tensor):
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.append(AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor))
    return node


def branch(initializers=(), nodes=None, x="x"):
    body = helper.make_graph(
        nodes or [helper.make_node("Identity", [x], ["b"])], "body", [], [value("b", FLOAT, None)], list(initializers)
    )
    condition = helper.make_node("If", ["flag"], ["y"])
    condition.attribute.append(helper.make_attribute("then_branch", body))
    condition.attribute.append(helper.make_attribute("else_branch", body))
    return condition


def function(name, nodes, *, domain="mine", defaults=(), imports=("", "mine")):
    made = helper.make_function(
        domain, name, ["a"], ["b"], nodes, [helper.make_opsetid(i, 17 if i == "" else 1) for i in imports]
    )
    made.attribute_proto.extend(defaults)
    return made


def with_function(nodes, *, domain="mine", defaults=()):
    return model(
        [helper.make_node("f", ["x"], ["y"], domain=domain)],
        [X],
        [Y],
        functions=[function("f", nodes, domain=domain, defaults=defaults)],
        domains=[domain] if domain not in ("", "ai.onnx") else (),
    )


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_external_data_is_found_in_every_hiding_place(place):
    assert code_of(HIDING_PLACES[place]()) == "external_data"


def test_training_information_is_refused_with_whatever_it_holds():
    trained = proto([IDENTITY], [X], [Y])
    trained.training_info.add().algorithm.initializer.append(external())

    assert code_of(trained.SerializeToString()) == "training_info"


@pytest.mark.parametrize(
    ("domain", "op"),
    [
        ("evil.ops", "Run"),
        ("com.microsoft", "EPContext"),
        ("com.microsoft", "NoSuchThing"),
        ("com.microsoft.nchwc", "Conv"),
        ("ai.onnx.preview.training", "Adam"),
        ("ai.onnx.contrib", "PyOp"),
    ],
)
def test_operators_of_other_domains_are_refused(domain, op):
    node = helper.make_node(op, ["x"], ["y"], domain=domain)

    assert code_of(model([node], [X], [Y], domains=[domain])) == "operator_domain"


def test_an_operator_is_refused_inside_of_subgraphs_and_functions_too():
    bad = helper.make_node("Run", ["x"], ["b"], domain="evil")

    assert code_of(model([branch(nodes=[bad])], [X], [Y], domains=["evil"])) == "operator_domain"
    inner = helper.make_node("Run", ["a"], ["b"], domain="evil")
    assert code_of(with_function([inner])) == "operator_domain"


def test_listed_contributed_operators_and_own_functions_are_taken():
    gelu = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    static.examine(model([gelu], [X], [Y], domains=["com.microsoft"]))

    facts = static.examine(with_function([helper.make_node("Relu", ["a"], ["c"]), helper.make_node("Abs", ["c"], ["b"])]))
    assert (facts["expanded_nodes"], facts["depth"]) == (2, 1)


@pytest.mark.parametrize("domain", ["", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.extra"])
def test_a_function_must_not_redefine_what_is_known(domain):
    assert code_of(with_function([helper.make_node("Identity", ["a"], ["b"])], domain=domain)) == "function_domain"


def bomb(levels):
    """2^levels nodes when expanded: each function calls the next one twice."""
    functions = [function("f0", [helper.make_node("Identity", ["a"], ["b"])])]
    for level in range(1, levels + 1):
        call = f"f{level - 1}"
        nodes = [helper.make_node(call, ["a"], ["c"], domain="mine"), helper.make_node(call, ["c"], ["b"], domain="mine")]
        functions.append(function(f"f{level}", nodes))
    node = helper.make_node(f"f{levels}", ["x"], ["y"], domain="mine")
    return model([node], [X], [Y], functions=functions, domains=["mine"])


@pytest.mark.parametrize("levels", [16, 26, 60])
def test_a_function_bomb_is_counted_not_expanded(levels):
    began = time.process_time()
    with pytest.raises(Rejected) as raised:
        static.examine(bomb(levels))

    assert raised.value.code == "function_expansion"
    assert raised.value.measured["expanded_nodes"] == 2**levels
    assert time.process_time() - began < 1  # processor time: expanding it would take minutes or forever


@pytest.mark.parametrize(("levels", "code"), [(14, "nesting"), (100, "nesting"), (5000, "nesting")])
def test_functions_that_are_nested_deeply_are_refused(levels, code):
    assert code_of(bomb(levels)) == code


def test_functions_that_call_themselves_are_refused():
    assert code_of(with_function([helper.make_node("f", ["a"], ["b"], domain="mine")])) == "function_recursion"
    ring = [
        function("f", [helper.make_node("g", ["a"], ["b"], domain="mine")]),
        function("g", [helper.make_node("f", ["a"], ["b"], domain="mine")]),
    ]
    node = helper.make_node("f", ["x"], ["y"], domain="mine")
    assert code_of(model([node], [X], [Y], functions=ring, domains=["mine"])) == "function_recursion"


def nested_ifs(depth):
    node = branch()
    for _ in range(depth - 1):
        node = branch(nodes=[node, helper.make_node("Identity", ["y"], ["b"])])
    return model([node], [X], [Y])


def test_subgraphs_that_are_nested_deeply_are_refused():
    static.examine(nested_ifs(8))

    assert code_of(nested_ifs(9)) == "nesting"


def test_more_nodes_than_any_model_needs_are_refused():
    nodes = [helper.make_node("Identity", ["x"], [f"v{number}"]) for number in range(50_000)] + [IDENTITY]

    assert code_of(model(nodes, [X], [Y])) == "function_expansion"


@pytest.mark.parametrize(
    ("dims", "values"), [([4, 4], b"\0" * 60), ([4, 4], b"\0" * 68), ([4, 4], b""), ([0], b"\0" * 4), ([], b"")]
)
def test_a_tensor_must_carry_what_its_dimensions_say(dims, values):
    tensor = TensorProto(name="W", data_type=FLOAT, dims=dims, raw_data=values)

    assert code_of(model([IDENTITY], [X], [Y], [tensor])) == "tensor_bytes"


def test_a_tensor_without_any_data_is_refused():
    assert code_of(model([IDENTITY], [X], [Y], [TensorProto(name="W", data_type=FLOAT, dims=[4])])) == "tensor_bytes"
    assert code_of(model([IDENTITY], [X], [Y], [TensorProto(name="W", data_type=8, dims=[4])])) == "tensor_bytes"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.uint16, np.int64, np.uint64, np.bool_])
def test_tensors_of_all_types_are_taken_raw_and_in_fields(dtype):
    array = np.ones((3, 5), dtype)
    raw = numpy_helper.from_array(array, "W")
    listed = helper.make_tensor("V", raw.data_type, [3, 5], array.ravel().tolist())

    facts = static.examine(model([IDENTITY], [X], [Y], [raw, listed]))

    assert facts["initializer_bytes"] >= array.nbytes * 2


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4, TensorProto.BFLOAT16, TensorProto.FLOAT8E5M2])
def test_packed_and_small_types_are_counted_by_their_bits(kind):
    static.examine(model([IDENTITY], [X], [Y], [helper.make_tensor("V", kind, [5], [1, 0, 1, 0, 1])], ir_version=11, opset=22))


@pytest.mark.parametrize("kind", [0, TensorProto.COMPLEX64, 200])
def test_types_that_nobody_runs_are_refused(kind):
    assert (
        code_of(model([IDENTITY], [X], [Y], [TensorProto(name="W", data_type=kind, dims=[0], raw_data=b"")])) == "tensor_type"
    )


@pytest.mark.parametrize("dims", [[1 << 16, 1 << 16], [1 << 62, 4], [-1], [0, 1 << 40], [1 << 40, 0]])
def test_huge_and_negative_dimensions_are_refused(dims):
    tensor = TensorProto(name="W", data_type=FLOAT, dims=dims, raw_data=b"")

    assert code_of(model([IDENTITY], [X], [Y], [tensor])) == "tensor_too_large"


def test_huge_declared_shapes_are_refused():
    big = value("y", FLOAT, ["n", 1 << 20, 1 << 20])

    assert code_of(model([IDENTITY], [X], [big])) == "tensor_too_large"


def test_a_sparse_tensor_cannot_unfold_to_more_than_allowed():
    tensor = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "v"),
        numpy_helper.from_array(np.zeros(1, np.int64), "i"),
        [1 << 20, 1 << 20],
    )

    assert code_of(model([IDENTITY], [X], [Y], sparse=[tensor])) == "tensor_too_large"


@pytest.mark.parametrize("opset", [6, 99])
def test_operator_sets_out_of_range_are_refused(opset):
    assert code_of(model([IDENTITY], [X], [Y], opset=opset)) == "opset_version"


@pytest.mark.parametrize("version", [1, 2, 99])
def test_ir_versions_out_of_range_are_refused(version):
    assert code_of(model([IDENTITY], [X], [Y], ir_version=version)) == "ir_version"


def test_a_model_needs_inputs_and_outputs_with_names_of_a_sane_number_and_length():
    assert code_of(model([constant(weights(4))], [], [value("c", FLOAT, [4])])) == "signature_too_large"
    assert code_of(model([IDENTITY], [X], [])) == "signature_too_large"
    assert code_of(model([IDENTITY], [X, value("n" * 201, INT64, [1])], [Y])) == "signature_too_large"
    assert code_of(model([IDENTITY], [X] + [value(f"i{n}", INT64, [1]) for n in range(256)], [Y])) == "signature_too_large"


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\x7f"])
def test_names_of_inputs_and_outputs_are_text(name):
    node = helper.make_node("Identity", [name], ["y"])
    assert code_of(model([node], [value(name, INT64, [1])], [Y])) == "signature_name"
    node = helper.make_node("Identity", ["x"], [name])
    assert code_of(model([node], [X], [value(name, INT64, [1])])) == "signature_name"


def test_no_two_outputs_have_one_name():
    assert code_of(model([helper.make_node("Identity", ["x"], ["y"])], [X], [Y, Y])) == "signature_name"


def test_a_verdict_carries_no_control_characters():
    verdict = Rejected("operator_domain", "Operator \0\ud800", node="graph/\n").verdict()
    assert (verdict["detail"], verdict["node"]) == ("Operator \ufffd\ufffd", "graph/\ufffd")


def length(data):
    size, out = len(data), b""
    while size > 127:
        out += bytes([size & 127 | 128])
        size >>= 7
    return out + bytes([size])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04" + b"\0" * 100,
        b"\x80\x04\x95pickle",
        b"<html>",
        b"\x1f\x8b\x08" + b"\0" * 50,
        bytes(range(64)),
        b"\0" * 1000,
    ],
)
def test_what_is_not_a_model_is_refused(data):
    assert code_of(data) == "not_onnx"


def test_the_format_of_onnxruntime_is_refused():
    assert code_of(b"\x18\0\0\0ORTM" + b"\0" * 200) == "ort_format"


def test_an_empty_model_is_refused():
    assert code_of(ModelProto(ir_version=8).SerializeToString()) == "not_onnx"


def test_truncated_and_mutated_models_give_a_verdict_and_never_an_error_of_ours():
    data = model([branch([weights(4, 4)]), *[helper.make_node("Relu", ["y"], ["z"])]], [X], [value("z", FLOAT, ["n", 4])])
    random = np.random.default_rng(0)
    for number in range(3000):
        broken = bytearray(data[: random.integers(1, len(data))] if number % 3 == 0 else data)
        for place in random.integers(0, len(broken), 1 + number % 4):
            broken[place] = random.integers(0, 256)
        with suppress(Rejected):
            static.examine(bytes(broken))


def test_every_rule_is_documented():
    page = (sandbox.ROOT / "docs" / "models.md").read_text()

    assert [f"| `{code}` | {rule} |" for code, rule in RULES.items() if f"| `{code}` | {rule} |" not in page] == []
