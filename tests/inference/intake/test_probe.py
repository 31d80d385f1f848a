"""What the probe finds out about models that load: signature, batching, the manifest's fit. Runs in the subprocess."""

import io
import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from inference.intake import sandbox
from inference.intake.rules import Rejected
from tests.inference.intake.onnx_models import BOOL, FLOAT, INT64, STRING, linear, model, one, value, weights

pytestmark = pytest.mark.no_servers


@pytest.fixture
def probe(tmp_path):
    def examine(data, *, max_rows=64, **manifest):
        file = tmp_path / "model.onnx"
        file.write_bytes(data)
        with file.open("rb") as opened:
            return sandbox.examine("probe", opened, {"task": "tensor", **manifest}, max_rows=max_rows)

    return examine


@pytest.fixture
def refused(probe):
    def examine(data, **manifest):
        with pytest.raises(Rejected) as raised:
            probe(data, **manifest)
        return raised.value

    return examine


def test_a_plain_model_is_batchable_and_measured(probe):
    facts = probe(linear(), task="tabular", labels=["a", "b", "c"], features=["p", "q", "r", "s"])

    assert facts["inputs"] == [["x", "FP32", [-1, 4]]]
    assert facts["outputs"] == [["y", "FP32", [-1, 3]]]
    assert facts["batching"]["has_batch"] is True
    assert facts["batching"]["is_batchable"] is True
    assert facts["batching"]["max_rows"] == 64
    assert facts["measured"]["load_bytes"] > 0
    assert 0 < facts["measured"]["ms_per_row"] <= facts["measured"]["ms_one_row"] * 1.5
    assert facts["measured"]["zero_rows"] is True


@pytest.mark.parametrize(
    ("kind", "datatype"),
    [
        (TensorProto.FLOAT, "FP32"),
        (TensorProto.DOUBLE, "FP64"),
        (TensorProto.FLOAT16, "FP16"),
        (TensorProto.BFLOAT16, "BF16"),
        (TensorProto.INT8, "INT8"),
        (TensorProto.INT16, "INT16"),
        (TensorProto.INT32, "INT32"),
        (TensorProto.INT64, "INT64"),
        (TensorProto.UINT8, "UINT8"),
        (TensorProto.UINT16, "UINT16"),
        (TensorProto.UINT32, "UINT32"),
        (TensorProto.UINT64, "UINT64"),
        (TensorProto.BOOL, "BOOL"),
        (TensorProto.STRING, "BYTES"),
    ],
)
def test_every_datatype_of_the_protocol_is_probed(probe, kind, datatype):
    facts = probe(one("Identity", kind=kind, shape=("n", 3)))

    assert facts["inputs"] == [["x", datatype, [-1, 3]]]
    assert facts["outputs"] == [["y", datatype, [-1, 3]]]
    assert facts["batching"]["is_batchable"] is True


def axes(name, *numbers):
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


DEPENDENT = {
    "softmax over rows": one("Softmax", axis=0),
    "sum so far": one("CumSum", inputs=["x", "axis"], initializers=[numpy_helper.from_array(np.array(0, np.int64), "axis")]),
    "minus the mean": model(
        [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), helper.make_node("Sub", ["x", "m"], ["y"])],
        [value("x", FLOAT, ["n", 4])],
        [value("y", FLOAT, ["n", 4])],
    ),
    "a millionth of the mean": model(
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
            helper.make_node("Mul", ["m", "little"], ["l"]),
            helper.make_node("Sub", ["x", "l"], ["y"]),
        ],
        [value("x", FLOAT, ["n", 4])],
        [value("y", FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.array(1e-6, np.float32), "little")],
    ),
    "divided by the number of rows": model(
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
            helper.make_node("Cast", ["n"], ["f"], to=FLOAT),
            helper.make_node("Div", ["x", "f"], ["y"]),
        ],
        [value("x", FLOAT, ["n", 4])],
        [value("y", FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.array(0, np.int64), "zero")],
    ),
    "quantized by the batch's range": model(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        [value("x", FLOAT, ["n", 4])],
        [value("y", FLOAT, ["n", 4])],
    ),
    "the other way round": model(
        [helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["y"])],
        [value("x", FLOAT, ["n", 4])],
        [value("y", FLOAT, ["n", 4])],
        [axes("start", -1), axes("end", -(1 << 60)), axes("axis", 0), axes("step", -1)],
    ),
    "sorted": model(
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Slice", ["s", "zero", "one"], ["n"]),
            helper.make_node("TopK", ["x", "n"], ["y", "i"], axis=0),
        ],
        [value("x", FLOAT, ["n", 1])],
        [value("y", FLOAT, ["n", 1])],
        [axes("zero", 0), axes("one", 1)],
    ),
    "random": model(
        [helper.make_node("RandomNormalLike", ["x"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])],
        [value("x", FLOAT, ["n", 4])],
        [value("y", FLOAT, ["n", 4])],
    ),
    "integers added up": one("CumSum", kind=INT64, inputs=["x", "axis"], initializers=[axes("axis", 0)]),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_rows_that_know_of_each_other_are_never_called_independent(probe, name):
    facts = probe(DEPENDENT[name])

    assert facts["batching"]["is_batchable"] is False
    assert facts["batching"]["has_batch"] is True
    assert facts["batching"]["reason"]


X, Y = value("x", FLOAT, ["n", 4]), value("y", FLOAT, ["n", 4])
SHAPE_0 = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Slice", ["s", "zero", "one"], ["n"])]


def row_40_added():
    """To every row, once there are 41."""
    nodes = [
        helper.make_node("Slice", ["x", "from", "to"], ["f"]),
        helper.make_node("ReduceSum", ["f"], ["g"], keepdims=0),
        helper.make_node("Add", ["x", "g"], ["y"]),
    ]
    return model(nodes, [X], [Y], [axes("from", 40), axes("to", 41)])


def mixed_where(condition, added, initializers):
    """x + a where c: `condition` makes the boolean c, for all rows or for each, and `added` makes a, both from x and n."""
    nodes = [
        *SHAPE_0,
        *condition,
        *added,
        helper.make_node("Add", ["x", "a"], ["sum"]),
        helper.make_node("Where", ["c", "sum", "x"], ["y"]),
    ]
    return model(nodes, [X], [Y], [axes("zero", 0), axes("one", 1), *initializers])


MEAN = [helper.make_node("ReduceMean", ["x"], ["a"], axes=[0], keepdims=1)]
PLACES = [helper.make_node("Squeeze", ["n"], ["count"]), helper.make_node("Range", ["start", "count", "step"], ["places"])]
NUMBERS = [numpy_helper.from_array(np.array(number, np.int64), name) for name, number in (("start", 0), ("step", 1))]
HIDDEN = {
    "row 40 is added to each": row_40_added(),
    "the mean is added to 41 rows, and to no other number": mixed_where(
        [helper.make_node("Equal", ["n", "special"], ["c"])], MEAN, [axes("special", 41)]
    ),
    "the mean is added to 64 rows": mixed_where(
        [helper.make_node("Equal", ["n", "special"], ["c"])], MEAN, [axes("special", 64)]
    ),
    "the row in place 50 is doubled": mixed_where(
        [
            *PLACES,
            helper.make_node("Unsqueeze", ["places", "one"], ["column"]),
            helper.make_node("Equal", ["column", "special"], ["c"]),
        ],
        [helper.make_node("Identity", ["x"], ["a"])],
        [axes("special", 50), *NUMBERS],
    ),
    "a large number beyond place 45 spoils all": mixed_where(
        [
            helper.make_node("Slice", ["x", "special", "end"], ["rest"]),
            helper.make_node("ReduceSum", ["rest"], ["large"], keepdims=0),
            helper.make_node("Greater", ["large", "thousand"], ["c"]),
        ],
        [helper.make_node("Identity", ["x"], ["a"])],
        [axes("special", 45), axes("end", 1 << 60), numpy_helper.from_array(np.array(1000, np.float32), "thousand")],
    ),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_rows_that_know_of_each_other_in_some_numbers_or_places_only_are_never_called_independent(probe, name):
    batching = probe(HIDDEN[name])["batching"]

    assert (batching["is_batchable"], batching["max_rows"]) == (False, 1), batching
    assert "differ from the same rows alone" in batching["reason"]


def test_so_many_rows_may_share_a_run_as_were_tried_together(probe):
    """The engine never runs more than 40 rows of different calls of the first one, where nothing is wrong with it."""
    assert probe(row_40_added(), max_rows=40)["batching"]["max_rows"] == 40
    assert probe(row_40_added(), max_rows=41)["batching"]["is_batchable"] is False


def test_a_model_without_a_batch_dimension_takes_one_call_at_a_time(probe):
    facts = probe(one("Softmax", shape=(4, 3), axis=1))

    assert facts["batching"] == {
        "has_batch": False,
        "is_batchable": False,
        "max_rows": 1,
        "reason": "No input has a free leading dimension, or they are different ones",
    }
    assert facts["measured"]["ms_per_row"] > 0


def test_scalars_are_taken(probe):
    facts = probe(one("Neg", shape=()))

    assert facts["inputs"] == [["x", "FP32", []]]
    assert facts["batching"]["has_batch"] is False


def test_an_output_of_another_length_means_there_is_no_batch_dimension(probe):
    facts = probe(one("ReduceSum", shape=("n", 4), out=(1, 4), axes=None, keepdims=1))

    assert facts["batching"]["has_batch"] is False
    assert "y" in facts["batching"]["reason"]


def test_several_inputs_and_outputs_are_batched_together(probe):
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Equal", ["s", "t"], ["same"])]
    inputs = [value("a", FLOAT, ["n", 2]), value("b", FLOAT, ["n", 2]), value("s", INT64, ["n"]), value("t", INT64, ["n"])]
    outputs = [value("sum", FLOAT, ["n", 2]), value("same", BOOL, ["n"])]

    facts = probe(model(nodes, inputs, outputs))

    assert [name for name, *_ in facts["inputs"]] == ["a", "b", "s", "t"]
    assert facts["batching"]["is_batchable"] is True


def test_an_input_without_rows_keeps_calls_apart(probe):
    nodes = [helper.make_node("Mul", ["x", "scale"], ["y"])]

    facts = probe(model(nodes, [value("x", FLOAT, ["n", 2]), value("scale", FLOAT, [])], [value("y", FLOAT, ["n", 2])]))

    assert (facts["batching"]["has_batch"], facts["batching"]["is_batchable"]) == (True, False)


def test_leading_dimensions_of_different_names_are_not_the_rows(probe):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]

    facts = probe(model(nodes, [value("x", FLOAT, ["n", 2]), value("w", FLOAT, ["k", 3])], [value("y", FLOAT, ["n", 3])]))

    assert facts["batching"]["has_batch"] is False


def test_free_inner_dimensions_are_tried_in_several_sizes(probe):
    nodes = [helper.make_node("Conv", ["x", "W"], ["c"]), helper.make_node("GlobalAveragePool", ["c"], ["y"])]
    data = model(nodes, [value("x", FLOAT, ["n", 3, "h", "w"])], [value("y", FLOAT, ["n", 5, 1, 1])], [weights(5, 3, 3, 3)])

    assert probe(data)["batching"]["is_batchable"] is True


def test_a_model_that_takes_no_made_up_input_is_ready_but_not_batchable(probe):
    table = numpy_helper.from_array(np.ones((3, 2), np.float32), "T")
    nodes = [helper.make_node("Add", ["x", "high"], ["i"]), helper.make_node("Gather", ["T", "i"], ["y"])]
    data = model(nodes, [value("x", INT64, ["n"])], [value("y", FLOAT, ["n", 2])], [table, axes("high", 1 << 40)])

    facts = probe(data)

    assert facts["batching"]["is_batchable"] is False
    assert "no made-up input" in facts["batching"]["reason"]
    assert facts["measured"]["load_ms"] > 0


def test_indices_into_a_small_table_find_values_that_fit(probe):
    table = numpy_helper.from_array(np.arange(4, dtype=np.float32).reshape(2, 2), "T")
    data = model(
        [helper.make_node("Gather", ["T", "x"], ["y"])], [value("x", INT64, ["n"])], [value("y", FLOAT, ["n", 2])], [table]
    )

    facts = probe(data)

    assert facts["measured"]["values"] in ("unit", "binary")
    assert facts["batching"]["is_batchable"] is True


def test_case_is_changed_in_a_locale_that_every_system_has_and_in_no_other(probe, refused):
    lower = {"kind": STRING, "shape": ("n",), "case_change_action": "LOWER"}

    assert probe(one("StringNormalizer", **lower, locale="C.UTF-8"))["batching"]["has_batch"] is True
    assert refused(one("StringNormalizer", **lower)).code == "load_failed"


@pytest.mark.parametrize("operator", ["Div", "Mod"])
@pytest.mark.parametrize("kind", [TensorProto.INT32, INT64])
def test_what_divides_by_its_input_is_tried_with_numbers_that_divide(probe, operator, kind):
    inputs = [value(name, kind, ["n", 4]) for name in "ab"]
    facts = probe(model([helper.make_node(operator, ["a", "b"], ["y"])], inputs, [value("y", kind, ["n", 4])]))

    assert facts["batching"]["is_batchable"] is True, facts["batching"]


def test_text_is_probed_and_compared_exactly(probe):
    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="UPPER", locale="C")

    facts = probe(model([node], [value("x", STRING, [1, "n"])], [value("y", STRING, [1, "n"])]))

    assert facts["inputs"] == [["x", "BYTES", [1, -1]]]


def test_sequences_and_maps_are_refused(refused):
    sequence = helper.make_tensor_sequence_value_info("y", FLOAT, None)
    data = model([helper.make_node("SequenceConstruct", ["x"], ["y"])], [value("x", FLOAT, ["n", 4])], [sequence])

    assert refused(data).code == "unsupported_type"


# --- the manifest against the model ---

RESIZE = {"step": "resize", "width": 9, "height": 9}


@pytest.mark.parametrize(
    ("manifest", "code"),
    [
        ({"input": "nothing"}, "unknown_input"),
        ({"output": "nothing"}, "unknown_output"),
        ({"labels": ["a", "b"]}, "labels_mismatch"),
        ({"task": "tabular", "features": ["a", "b"]}, "features_mismatch"),
        ({"task": "text-classification"}, "unknown_input"),
        (
            {"task": "image-classification", "preprocessing": [{"step": "resize", "width": 9, "height": 9}]},
            "preprocessing_mismatch",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_the_model_is_refused(refused, manifest, code):
    rejected = refused(linear(), **manifest)

    assert rejected.code == code
    assert rejected.detail


def image_model():
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "W"], ["y"])]
    return model(nodes, [value("x", FLOAT, ["n", 1, 4, 4])], [value("y", FLOAT, ["n", 3])], [weights(16, 3)])


def test_declared_image_steps_are_tried_on_a_picture(probe, refused):
    steps = [{"step": "grayscale"}, {"step": "resize", "width": 4, "height": 4}, {"step": "layout", "to": "NCHW"}]

    facts = probe(image_model(), task="image-classification", preprocessing=steps, labels=["a", "b", "c"])
    assert facts["measured"]["values"] == "declared"
    assert facts["batching"]["is_batchable"] is True

    wrong = refused(image_model(), task="image-classification", preprocessing=steps[1:])
    assert wrong.code == "preprocessing_mismatch"


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "the": 2, "fox": 3}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return json.loads(made.to_str())


def text_model(rows=4):
    nodes = [
        helper.make_node("Gather", ["T", "ids"], ["e"]),
        helper.make_node("ReduceMean", ["e"], ["y"], axes=[1], keepdims=0),
    ]
    table = numpy_helper.from_array(np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32), "T")
    return model(nodes, [value("ids", INT64, ["n", "length"])], [value("y", FLOAT, ["n", 2])], [table])


def test_a_declared_tokenizer_is_read_and_tried_on_texts(probe, refused):
    declared = {"task": "text-classification", "preprocessing": [{"step": "tokenize", "max_length": 8}], "labels": ["a", "b"]}

    facts = probe(text_model(), tokenizer=tokenizer(), **declared)
    assert facts["measured"]["values"] == "declared"
    assert facts["batching"]["is_batchable"] is True

    assert refused(text_model(), tokenizer={"model": "none"}, **declared).code == "tokenizer"
    assert refused(text_model(rows=1), tokenizer=tokenizer(), **declared).code == "preprocessing_mismatch"


def split_by(regex):
    return {
        **tokenizer(),
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
    }


def test_a_tokenizer_whose_regular_expression_cannot_be_matched_is_refused_as_a_tokenizer(refused):
    """The library ends such a match by a panic, which is no Exception: it must not look like our own failure."""
    declared = {"task": "text-classification", "preprocessing": [{"step": "tokenize", "max_length": 8}], "labels": ["a", "b"]}

    rejected = refused(text_model(), tokenizer=split_by("(a+)+c"), **declared)

    assert rejected.code == "tokenizer"
    assert "retry-limit-in-match" in rejected.detail


def test_a_tokenizer_that_takes_too_long_is_refused_as_a_tokenizer(refused, monkeypatch):
    """Each step of the text's growth is within the library's limits; all of them are not."""
    monkeypatch.setattr(sandbox, "RUN_SECONDS", 0.5)
    declared = {"task": "text-classification", "preprocessing": [{"step": "tokenize", "max_length": 8}], "labels": ["a", "b"]}
    growth = {"type": "Replace", "pattern": {"Regex": "."}, "content": "aaaaaaaa"}

    rejected = refused(
        text_model(), tokenizer={**tokenizer(), "normalizer": {"type": "Sequence", "normalizers": [growth] * 9}}, **declared
    )

    assert rejected.code == "tokenizer"


def test_the_artifact_is_read_from_its_beginning_wherever_the_file_came_from():
    """A pipe or an object without a file descriptor is a mistake of ours, and told at once."""
    with pytest.raises(io.UnsupportedOperation):
        sandbox.examine("probe", io.BytesIO(linear()), {"task": "tensor"})
