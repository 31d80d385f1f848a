import numpy as np
import pytest
from onnx import TensorProto, helper

from inference.engine.batch import run_batch
from inference.engine.model import Model
from inference.engine.tensors import decode
from tests.inference.engine import models
from tests.inference.engine.models import WEIGHTS, row, work

pytestmark = pytest.mark.no_servers


def run(model, *works, max_rows=64, is_shared=True):
    return run_batch(model, works, max_rows=max_rows, is_shared=is_shared)


def arrays(reply):
    assert reply.code == "", reply.message
    return [decode(*tensor) for tensor in reply.outputs]


def test_a_batch_answers_each_call_as_if_it_were_alone():
    made = models.linear()
    model = Model.open(made)
    inputs = [np.random.default_rng(i).normal(size=(i, 4)).astype("f4") for i in (1, 3, 0, 2)]

    together = run(model, *[work(made, x, number=i) for i, x in enumerate(inputs)])

    assert [reply.number for reply in together] == [0, 1, 2, 3]
    assert {reply.batch_rows for reply in together} == {6}
    for x, reply in zip(inputs, together, strict=True):
        (alone,) = run(model, work(made, x))
        np.testing.assert_allclose(arrays(reply)[0], x @ WEIGHTS, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(arrays(reply)[0], arrays(alone)[0], rtol=1e-6)


def test_a_poisoned_call_fails_alone_and_the_others_get_their_own_rows():
    made = models.gather()
    model = Model.open(made)

    replies = run(model, *[work(made, np.array(i), number=n) for n, i in enumerate([[0, 1], [9], [2]])])

    assert [reply.code for reply in replies] == ["", "model_failed", ""]
    assert replies[1].message.startswith("the model failed: ")
    assert arrays(replies[0])[0].tolist() == ["a", "b"]
    assert arrays(replies[2])[0].tolist() == ["c"]


def test_a_model_that_swallows_rows_hands_none_of_them_to_another_call():
    """`Unique` gives fewer rows than it took: joined, the third call would get nothing and the second the first's."""
    nodes = [helper.make_node("Unique", ["x"], ["y"], axis=0, sorted=1)]
    made = models.source(models.graph([("x", TensorProto.INT64, ["n"])], [("y", TensorProto.INT64, ["m"])], nodes))
    model = Model.open(made)

    replies = run(model, *[work(made, np.array([value])) for value in (5, 7, 5)])

    assert [arrays(reply)[0].tolist() for reply in replies] == [[5], [7], [5]]
    assert [reply.batch_rows for reply in replies] == [1, 1, 1]


def test_calls_of_different_tenants_share_a_run_only_where_the_caller_allows_it():
    made = models.linear()
    model = Model.open(made)
    works = [work(made, row(1, 2, 3, 4), tenant=tenant) for tenant in ("alice", "charlie", "alice")]

    assert [reply.batch_rows for reply in run(model, *works, is_shared=True)] == [3, 3, 3]
    assert [reply.batch_rows for reply in run(model, *works, is_shared=False)] == [2, 1, 2]


def test_calls_do_not_share_a_run_if_rows_were_not_proved_independent():
    made = models.linear(is_batchable=False)

    replies = run(Model.open(made), *[work(made, row(1, 2, 3, 4)) for _ in range(2)])

    assert [reply.batch_rows for reply in replies] == [1, 1]


def test_rows_are_counted_not_calls():
    made = models.linear()
    works = [work(made, np.ones((rows, 4), "f4")) for rows in (3, 3, 9, 1)]

    assert [reply.batch_rows for reply in run(Model.open(made), *works, max_rows=6)] == [6, 6, 9, 1]


def test_calls_that_ask_for_different_outputs_each_get_theirs():
    nodes = [helper.make_node("Neg", ["x"], ["minus"]), helper.make_node("Abs", ["x"], ["size"])]
    made = models.source(
        models.graph([("x", TensorProto.FLOAT, ["n"])], [(name, TensorProto.FLOAT, ["n"]) for name in ("minus", "size")], nodes)
    )
    x = np.array([-2.0], "f4")

    replies = run(Model.open(made), work(made, x), work(made, x, outputs=("size",)), work(made, x, outputs=("size", "minus")))

    assert [[tensor[0] for tensor in reply.outputs] for reply in replies] == [["minus", "size"], ["size"], ["size", "minus"]]
    assert [array.tolist() for array in arrays(replies[2])] == [[2.0], [2.0]]


def test_trailing_dimensions_that_differ_do_not_share_a_run():
    made = models.identity(TensorProto.FLOAT, ["n", "width"])

    replies = run(Model.open(made), *[work(made, np.ones((1, width), "f4")) for width in (2, 3, 2)])

    assert [arrays(reply)[0].shape for reply in replies] == [(1, 2), (1, 3), (1, 2)]
    assert [reply.batch_rows for reply in replies] == [2, 1, 2]


@pytest.mark.parametrize(
    ("element", "array"),
    [
        (TensorProto.BOOL, np.array([[True, False]])),
        (TensorProto.UINT8, np.array([[0, 255]], "u1")),
        (TensorProto.UINT16, np.array([[0, 65535]], "u2")),
        (TensorProto.UINT32, np.array([[0, 2**32 - 1]], "u4")),
        (TensorProto.UINT64, np.array([[0, 2**64 - 1]], "u8")),
        (TensorProto.INT8, np.array([[-128, 127]], "i1")),
        (TensorProto.INT16, np.array([[-(2**15), 1]], "i2")),
        (TensorProto.INT32, np.array([[-(2**31), 1]], "i4")),
        (TensorProto.INT64, np.array([[-(2**63), 1]], "i8")),
        (TensorProto.FLOAT16, np.array([[1.5, 65504]], "f2")),
        (TensorProto.FLOAT, np.array([[1.5, 3e38]], "f4")),
        (TensorProto.DOUBLE, np.array([[1.5, 1e308]], "f8")),
        (TensorProto.BFLOAT16, np.array([[0x3F80, 0xC000]], "u2")),
        (TensorProto.STRING, np.array([["é", ""]], object)),
    ],
)
def test_every_datatype_goes_in_and_out_unchanged_alone_and_in_a_batch(element, array):
    made = models.identity(element, ["n", 2])
    model = Model.open(made)
    model.warm()

    replies = run(model, work(made, array), *[work(made, np.concatenate([array, array]))])

    assert [reply.batch_rows for reply in replies] == [3, 3]
    assert arrays(replies[0])[0].tolist() == array.tolist()
    assert arrays(replies[1])[0].tolist() == [*array.tolist(), *array.tolist()]
    assert all(reply.is_finite for reply in replies)
    assert replies[0].outputs[0][1] == made.outputs[0].datatype


def test_several_inputs_are_joined_row_by_row_in_any_order():
    nodes = [helper.make_node("Sub", ["a", "b"], ["y"])]
    made = models.source(
        models.graph([(name, TensorProto.FLOAT, ["n"]) for name in "ab"], [("y", TensorProto.FLOAT, ["n"])], nodes)
    )
    works = [work(made, np.array([float(i)], "f4"), np.array([0.5], "f4")) for i in range(3)]
    works[1].inputs.reverse()

    assert [arrays(reply)[0].tolist() for reply in run(Model.open(made), *works)] == [[-0.5], [0.5], [1.5]]


def test_a_model_without_a_batch_dimension_and_one_of_scalars():
    fixed = models.identity(TensorProto.FLOAT, [2, 2], has_batch=False, is_batchable=False)
    scalar = models.identity(TensorProto.DOUBLE, [], has_batch=False, is_batchable=False)
    square = np.array([[1, 2], [3, 4]], "f4")

    (first,) = run(Model.open(fixed), work(fixed, square))
    (second,) = run(Model.open(scalar), work(scalar, np.array(2.5)))

    np.testing.assert_array_equal(arrays(first)[0], square)
    assert second.outputs == [("y", "FP64", [], np.float64(2.5).tobytes())]


def test_zero_rows_are_an_answer_with_zero_rows():
    made = models.linear()

    (reply,) = run(Model.open(made), work(made, np.zeros((0, 4), "f4")))

    assert arrays(reply)[0].shape == (0, 3)


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.BFLOAT16])
def test_only_the_call_whose_own_output_is_not_finite_is_marked(element):
    made = models.identity(element, ["n"])
    good, bad = (np.array([1.0], "f4"), np.array([np.inf], "f4"))
    if element == TensorProto.BFLOAT16:
        good, bad = np.array([0x3F80], "u2"), np.array([0x7FC0], "u2")

    replies = run(Model.open(made), work(made, good), work(made, bad), work(made, good))

    assert [reply.is_finite for reply in replies] == [True, False, True]


WRONG = {
    "wrong dtype": (lambda name, _type, shape, data: [(name, "FP64", shape, data * 2)], "FP32 expected"),
    "wrong width": (lambda name, type_, _shape, data: [(name, type_, [1, 5], data + bytes(4))], "shape"),
    "too short": (lambda name, type_, shape, data: [(name, type_, shape, data[:-1])], "16 bytes expected"),
    "too long": (lambda name, type_, shape, data: [(name, type_, shape, data * 2)], "16 bytes expected"),
    "other rows": (lambda name, type_, _shape, data: [(name, type_, [2, 4], data * 2)], "1 rows expected"),
    "negative": (lambda name, type_, _shape, data: [(name, type_, [-1, -4], data)], "shape"),
    "no rank": (lambda name, type_, _shape, data: [(name, type_, [4], data)], "shape"),
    "unknown type": (lambda name, _type, shape, data: [(name, "FP8", shape, data)], "FP32 expected"),
    "twice": (lambda name, type_, shape, data: [(name, type_, shape, data)] * 2, "twice"),
    "missing": (lambda *_: [], "missing input: x"),
    "unknown": (lambda name, type_, shape, data: [(name, type_, shape, data), ("z", type_, shape, data)], "unknown input: z"),
}


@pytest.mark.parametrize("change", WRONG)
def test_a_wrong_tensor_is_refused_with_its_name_and_shifts_nobodys_rows(change):
    made = models.linear()
    model = Model.open(made)
    mangle, message = WRONG[change]
    good = work(made, row(1, 2, 3, 4))
    bad = work(made, row(1, 1, 1, 1))
    bad.inputs = mangle(*bad.inputs[0])

    for _ in range(2):  # the second time the good call's form is known
        first, refused, last = run(model, good, bad, good)

        assert (refused.code, first.code, last.code) == ("invalid_tensor", "", "")
        assert message in refused.message
        np.testing.assert_allclose(arrays(last)[0], row(1, 2, 3, 4) @ WEIGHTS, rtol=1e-5)


def test_lengths_that_are_wrong_but_add_up_shift_nobodys_rows():
    made = models.linear()
    long, good, short = (work(made, row(i, 0, 0, 0)) for i in range(3))
    name, datatype, shape, data = long.inputs[0]
    long.inputs, short.inputs = [(name, datatype, shape, data * 2)], [(name, datatype, shape, b"")]

    replies = run(Model.open(made), long, good, short)

    assert [reply.code for reply in replies] == ["invalid_tensor", "", "invalid_tensor"]
    np.testing.assert_allclose(arrays(replies[1])[0], row(1, 0, 0, 0) @ WEIGHTS, rtol=1e-6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x01\0\0", "cut off"),
        (b"\x05\0\0\0ab", "ends before"),
        (b"\x01\0\0\0\xff", "UTF-8"),
        (b"\x01\0\0\0a\x01\0\0\0b", "1 elements expected"),
        (b"", "1 elements expected"),
    ],
)
def test_broken_text_elements_are_refused(data, message):
    made = models.identity(TensorProto.STRING, ["n"])
    bad = work(made, np.array(["a"], object))
    bad.inputs = [("x", "BYTES", [1], data)]

    replies = run(Model.open(made), bad, work(made, np.array(["b"], object)))

    assert (replies[0].code, replies[1].code) == ("invalid_tensor", "")
    assert message in replies[0].message


def test_an_unknown_output_is_refused():
    made = models.linear()

    (reply,) = run(Model.open(made), work(made, row(1, 2, 3, 4), outputs=("scores", "other")))

    assert reply.code == "invalid_tensor"
    assert "unknown output: other" in reply.message


def test_the_cost_follows_what_was_measured():
    made = models.linear(ms_per_row=1000.0)
    model = Model.open(made)

    run(model, *[work(made, np.ones((64, 4), "f4"))] * 10)

    assert model.us_per_row < 500_000


@pytest.mark.parametrize("rows", [(1,), (1, 2), (5,), (0,), (3, 0, 5)])
def test_padding_to_fixed_sizes_as_on_a_gpu_changes_no_answer(rows):
    """The way that GPU runs take, here on the CPU."""
    made = models.linear()
    plain, bound = Model.open(made), Model.open(made)
    bound.is_on_gpu = True
    bound.warm()
    works = [work(made, np.random.default_rng(n).normal(size=(n, 4)).astype("f4")) for n in rows]

    for one, other in zip(run(plain, *works), run(bound, *works), strict=True):
        np.testing.assert_allclose(arrays(other)[0], arrays(one)[0], rtol=1e-6)
        assert other.outputs[0][2] == one.outputs[0][2]


@pytest.mark.parametrize(("max_rows", "expected"), [(64, [1, 8, 16]), (6, [1, 5, 9])])
def test_padding_makes_no_run_larger_than_intake_has_tried(max_rows, expected):
    bound = Model.open(models.linear(), max_rows=max_rows)
    bound.is_on_gpu = True
    ran = []
    binding = bound.session.io_binding

    def seen():
        made = binding()
        bind = made.bind_cpu_input
        made.bind_cpu_input = lambda name, array: (ran.append(len(array)), bind(name, array))
        return made

    bound.session.io_binding = seen
    for rows in (1, 5, 9):
        run(bound, work(models.linear(), np.ones((rows, 4), "f4")))

    assert ran == expected


def test_text_and_scalars_go_the_gpus_way_too():
    texts = models.identity(TensorProto.STRING, ["n"])
    scalar = models.identity(TensorProto.FLOAT, [], has_batch=False, is_batchable=False)
    for made, array in ((texts, np.array(["a", "b", "c"], object)), (scalar, np.array(2.5, "f4"))):
        model = Model.open(made)
        model.is_on_gpu = True

        (reply,) = run(model, work(made, array))

        np.testing.assert_array_equal(arrays(reply)[0], array)


def test_a_friendly_call_of_a_model_without_labels_gets_every_output():
    nodes = [helper.make_node("Neg", ["x"], ["minus"]), helper.make_node("Abs", ["x"], ["size"])]
    outputs = [("minus", TensorProto.FLOAT, ["n"]), ("size", TensorProto.FLOAT, ["n"])]
    made = models.source(models.graph([("x", TensorProto.FLOAT, ["n"])], outputs, nodes))
    model, x = Model.open(made), np.array([1, -2], "f4")

    both, one = (run(model, work(made, x, top=1, outputs=wanted))[0] for wanted in ((), ("size",)))

    assert [array.tolist() for array in arrays(both)] == [[-1, 2], [1, 2]]
    assert [array.tolist() for array in arrays(one)] == [[1, 2]]
