"""Whole numbers at the ends of their types: what ends the process is named, what only fails or takes long is not."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from inference.intake.feeds import extreme_whole_rows
from tests.inference.intake.onnx_models import BOOL, FLOAT, INT64, model, one, value
from tests.inference.intake.test_probe import probe  # noqa: F401

# ruff: noqa: F811 - the fixture of test_probe

pytestmark = pytest.mark.no_servers
LEAST = {INT64: -(2**63), TensorProto.INT32: -(2**31)}


def quotient(kind, operator="Div"):
    return model(
        [helper.make_node(operator, ["a", "b"], ["y"])],
        [value("a", kind, ["n", 1]), value("b", kind, ["n", 1])],
        [value("y", kind, ["n", 1])],
    )


@pytest.mark.parametrize("kind", LEAST)
def test_a_quotient_that_does_not_exist_is_named(probe, kind):
    measured = probe(quotient(kind))["measured"]

    assert measured["crashes_on"] == f"SIGFPE on a = {LEAST[kind]}; b = -1"


def test_a_quotient_of_an_inputs_own_numbers_is_found(probe):
    nodes = [helper.make_node("Split", ["x"], ["a", "b"], axis=1), helper.make_node("Div", ["a", "b"], ["y"])]
    halves = model(nodes, [value("x", INT64, ["n", 2])], [value("y", INT64, ["n", 1])], opset=12)

    assert probe(halves)["measured"]["crashes_on"] == f"SIGFPE on x = {LEAST[INT64]}, -1"


def counting():
    """Takes as many rounds as it is told: for ever, for the largest number."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Neg", ["v"], ["w"])],
        "body",
        [value("i", INT64, []), value("c", BOOL, []), value("v", FLOAT, [])],
        [value("d", BOOL, []), value("w", FLOAT, [])],
    )
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("yes", BOOL, [], [True])),
        helper.make_node("Constant", [], ["x"], value=helper.make_tensor("x", FLOAT, [], [1.0])),
        helper.make_node("Loop", ["n", "yes", "x"], ["y"], body=body),
    ]
    return model(nodes, [value("n", INT64, [])], [value("y", FLOAT, [])])


@pytest.mark.parametrize(
    "artifact",
    [
        counting(),
        model([helper.make_node("ConstantOfShape", ["x"], ["y"])], [value("x", INT64, [1])], [value("y", FLOAT, ["k"])]),
        one("Neg", kind=INT64),
        one("Neg"),
    ],
)
def test_what_runs_on_fails_or_takes_long_is_no_crash(probe, artifact):
    assert "crashes_on" not in probe(artifact)["measured"]


def test_each_two_of_the_first_inputs_are_tried_and_the_rest_stays(probe):
    feed = {name: np.full((1, 1), 7, "i2") for name in "abcdef"} | {"x": np.ones((1, 1), "f4")}
    datatypes = dict.fromkeys("abcdef", "INT16") | {"x": "FP32"}

    rows = dict(extreme_whole_rows(feed, datatypes))

    assert len(rows) == 3 + 4 * 3
    pair = rows["d = -32768; a = -1"]
    changed = {"a": -1, "d": -32768, "x": 1.0}
    assert {name: array.item() for name, array in pair.items()} == dict.fromkeys("abcdef", 7) | changed
    assert {array.dtype.str for name, array in pair.items() if name != "x"} == {"<i2"}


def test_numbers_without_a_sign_have_no_minus_one(probe):
    rows = dict(extreme_whole_rows({"x": np.ones(3, "u1")}, {"x": "UINT8"}))

    assert list(rows) == ["x = 0", "x = 1", "x = 255"]
