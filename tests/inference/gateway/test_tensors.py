"""Outputs as JSON: the same text in one piece or in many."""

import numpy as np
import orjson
import pytest

from inference.gateway import tensors

pytestmark = pytest.mark.no_servers


@pytest.mark.parametrize("shape", [[120_001], [3, 60_000], [40_000, 4], [2, 3, 50_001], [200_000, 1], [70_000, 0], [0, 9]])
def test_a_large_output_is_the_same_json_as_in_one_piece(shape):
    array = np.arange(np.prod(shape), dtype="f4").reshape(shape) / 7
    tensor = ("y", "FP32", shape, array.tobytes())

    flat = orjson.dumps(tensors.to_json(tensor, is_finite=True), option=orjson.OPT_SERIALIZE_NUMPY)
    nested = orjson.dumps(tensors.nested(tensor, is_finite=True), option=orjson.OPT_SERIALIZE_NUMPY)

    assert flat == orjson.dumps(array.reshape(-1), option=orjson.OPT_SERIALIZE_NUMPY)
    assert nested == orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
