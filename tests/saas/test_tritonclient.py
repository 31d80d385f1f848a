"""NVIDIA's own client, unmodified, against the dialect."""

import asyncio

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from tests.saas.serving import KEY

pytestmark = pytest.mark.no_servers


def key():
    """New headers for each call: the client adds its own to the dictionary that it is given."""
    return {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def client(served):
    client = triton.InferenceServerClient(served.base)
    yield client
    client.close()


def input_of(array, datatype="FP32", name="x", *, is_binary=True):
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=is_binary)
    return given


@pytest.mark.parametrize("is_binary_in", [True, False])
@pytest.mark.parametrize("is_binary_out", [True, False, None])
@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("FP32", [[1.5, -2.25]]),
        ("FP64", [[0.1, 1e300]]),
        ("INT64", [[1, -(2**60)]]),
        ("UINT8", [[0, 255]]),
        ("BOOL", [[True, False]]),
        ("INT8", [[1, -1]]),
        ("UINT64", [[2**63, 0]]),
    ],
)
def test_tensors_go_both_ways_in_json_and_binary(client, datatype, values, is_binary_in, is_binary_out):
    array = np.array(values, dtype=triton_to_np_dtype(datatype))
    outputs = None if is_binary_out is None else [triton.InferRequestedOutput("y", binary_data=is_binary_out)]
    answer = client.infer(
        f"echo-{datatype.lower()}",
        [input_of(array, datatype, is_binary=is_binary_in)],
        outputs=outputs,
        headers=key(),
        request_id="7",
    )
    np.testing.assert_array_equal(answer.as_numpy("y"), array)
    assert answer.get_response()["id"] == "7"


def test_half_precision_goes_binary(client):
    array = np.array([[0.5, 65504]], np.float16)
    answer = client.infer("echo-fp16", [input_of(array, "FP16")], headers=key())
    np.testing.assert_array_equal(answer.as_numpy("y"), array)


@pytest.mark.parametrize("is_binary", [True, False])
def test_texts_go_as_bytes(client, is_binary):
    array = np.array([["größe", ""]], dtype=np.object_)
    outputs = [triton.InferRequestedOutput("y", binary_data=is_binary)]
    answer = client.infer("echo-bytes", [input_of(array, "BYTES", is_binary=is_binary)], outputs=outputs, headers=key())
    found = [item.decode() if isinstance(item, bytes) else item for item in answer.as_numpy("y").ravel()]
    assert found == ["größe", ""]


def test_an_empty_tensor_sends_a_header_and_no_bytes(client):
    answer = client.infer("rows", [input_of(np.zeros((0, 4), np.float32))], headers=key())
    assert answer.as_numpy("y").shape == (0, 4)


def test_several_inputs_and_requested_outputs(client):
    a, b = np.array([[1, 2]], np.float32), np.array([3], np.int64)
    inputs = [input_of(b, "INT64", "b"), input_of(a, "FP32", "a", is_binary=False)]
    answer = client.infer("two", inputs, outputs=[triton.InferRequestedOutput("yb")], headers=key())
    np.testing.assert_array_equal(answer.as_numpy("yb"), b)
    assert answer.as_numpy("ya") is None


def test_an_owner_and_a_version_in_the_path(client):
    x = np.ones((1, 4), np.float32)
    answer = client.infer("alice/rows", [input_of(x)], model_version="1.0.0", headers=key())
    assert answer.get_response()["model_version"] == "1.0.0"
    assert client.get_model_metadata("alice/rows", headers=key())["name"] == "alice/rows"


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_requests(client, compression):
    x = np.ones((1, 4), np.float32)
    answer = client.infer(
        "rows",
        [input_of(x)],
        headers=key(),
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    np.testing.assert_array_equal(answer.as_numpy("y"), x)


def test_classification_and_raw_bodies(client):
    x = np.array([[0.1, 0.7, 0.2]], np.float32)
    outputs = [triton.InferRequestedOutput("scores", binary_data=True, class_count=1)]
    answer = client.infer("flowers", [input_of(x)], outputs=outputs, headers=key())
    assert answer.as_numpy("scores").tolist() == [[b"0.700000:1:green"]]


def test_health_metadata_and_index(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("rows", headers=key())
    assert client.is_model_ready("rows", "1.0.0", headers=key())
    assert client.get_server_metadata()["name"]
    assert client.get_model_metadata("rows", headers=key())["inputs"][0]["shape"] == [-1, 4]
    assert any(model["name"] == "rows" for model in client.get_model_repository_index(headers=key()))


def test_refusals_are_readable_exceptions(client):
    x = np.ones((1, 3), np.float32)
    with pytest.raises(InferenceServerException, match=r"input 'x': shape \[1, 3\]"):
        client.infer("rows", [input_of(x)], headers=key())
    with pytest.raises(InferenceServerException, match="API key"):
        client.infer("rows", [input_of(x)])
    with pytest.raises(InferenceServerException, match="no model nothing"):
        client.infer("nothing", [input_of(x)], headers=key())
    with pytest.raises(InferenceServerException, match="NaN"):
        client.infer("rows", [input_of(np.full((1, 4), np.nan, np.float32), is_binary=False)], headers=key())
    for refused in (client.load_model, client.unload_model, client.get_inference_statistics, client.get_trace_settings):
        with pytest.raises(InferenceServerException, match="not supported"):
            refused("rows", headers=key())


def test_the_asyncio_client(served):
    async def call():
        async with triton_aio.InferenceServerClient(served.base) as client:
            x = np.ones((2, 4), np.float32)
            answer = await client.infer("rows", [input_of(x)], headers=key())
            np.testing.assert_array_equal(answer.as_numpy("y"), x)
            assert (await client.get_model_metadata("rows", headers=key()))["name"] == "rows"

    asyncio.run(call())
