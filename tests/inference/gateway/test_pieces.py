"""Large tensors in JSON, decoded in pieces: what comes out is what decoding them in one piece gives."""

import json

import numpy as np
import pytest

from inference.gateway import v2
from inference.gateway.pieces import PIECE
from inference.gateway.weight import LIGHT
from saas.lib.errors import AppError
from tests.saas.serving import version_route

pytestmark = pytest.mark.no_servers

SHAPES = [[60_000], [1, 60_000], [3, 20_000], [4_000, 15], [2, 3, 10_000], [30, 40, 50], [1, 1, 60_000]]


def read(datatype, shape, data):
    version = version_route([("x", datatype, [-1] * len(shape))], [("y", datatype, [-1])])
    body = json.dumps({"inputs": [{"name": "x", "datatype": datatype, "shape": shape, "data": data}]}).encode()
    assert len(body) > LIGHT
    return v2.read_infer(body, None, version).inputs[0][3]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("datatype", "numpy"), [("FP32", "<f4"), ("INT64", "<i8"), ("BOOL", "?")])
def test_flat_and_nested_data_give_the_same_tensor(shape, datatype, numpy):
    values = (np.arange(np.prod(shape)) % 977 - 7).astype(numpy)

    assert read(datatype, shape, values.tolist()) == values.tobytes()
    assert read(datatype, shape, values.reshape(shape).tolist()) == values.tobytes()


def nested(change):
    rows = [[float(n), 0.5, 1.5, 2.5] for n in range(20_000)]
    change(rows)
    return rows


WRONG = {
    "element 40001": [0.5] * 40_001 + ["x"] + [0.5] * 39_998,
    "element 79999 is a boolean": [0.5] * 79_999 + [True],
    "element 50000 is out of range": [0.5] * 50_000 + [1e39] + [0.5] * 29_999,
    "takes 80000 elements, 79999 were given": [0.5] * 79_999,
    "element 40000 is a list": [0.5] * 40_000 + [[0.5, 0.5]] * 20_000,
    "its outer list has 19999": nested(lambda rows: rows.pop()),
    "not of 3": nested(lambda rows: rows[19_000].pop()),
    "not a number": nested(lambda rows: rows.__setitem__(slice(5_000, None), [1.5] * 15_000)),
    "is a list": nested(lambda rows: rows[19_999].__setitem__(0, [1.0])),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_named_wherever_it_stands(what):
    with pytest.raises(AppError) as refusal:
        read("FP32", [20_000, 4], WRONG[what])

    assert refusal.value.status == 400
    assert "'x'" in refusal.value.detail
    assert what in refusal.value.detail


@pytest.mark.parametrize("data", [{"a": [0.5] * 80_000}, "x" * 100_000, [[[0.5] * 80_000]], [[0.5] * 80_000]])
def test_other_things_than_its_tensor_are_refused(data):
    with pytest.raises(AppError) as refusal:
        read("FP32", [20_000, 4], data)

    assert refusal.value.status == 400


def test_many_texts_go_through_unchanged():
    texts = ["a, [b]", "ä", '"', "\\"] * 10_000

    data = read("BYTES", [40_000], texts)

    assert data.count(b"a, [b]") == 10_000


def test_bare_numbers_among_lists_of_one_are_ragged():
    lists = PIECE // len("[0.5]") + 1  # a piece of them: the next one begins with a number
    with pytest.raises(AppError, match="ragged"):
        read("FP32", [40_000, 1], [[0.5]] * lists + [0.5] * (40_000 - lists))
