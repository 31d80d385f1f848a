"""The engine on an NVIDIA device: the CPU's answers, and its speed beside bare onnxruntime (`make test-gpu`)."""

import time

import numpy as np
import pytest

import inference  # noqa: F401  # before onnxruntime, which reads its environment when it is loaded

import onnxruntime  # isort: skip
from onnx import helper

from inference.engine.batch import run_batch
from inference.engine.model import Model
from inference.engine.sessions import CUDA, providers_for
from inference.engine.tensors import decode
from tests.inference.engine import models
from tests.inference.engine.models import FLOAT, work

pytestmark = pytest.mark.no_servers
MEMORY = 2 << 30
WIDTH, HIDDEN = 784, 2048


def perceptron():
    """(n, 784) → (n, 10), through two layers of 2048."""
    random = np.random.default_rng(3)
    shapes = [(WIDTH, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 10)]
    weights = [(f"w{i}", (random.normal(size=shape) / np.sqrt(shape[0])).astype("f4")) for i, shape in enumerate(shapes)]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w2"], ["y"]),
    ]
    return models.source(models.graph([("x", FLOAT, ["n", WIDTH])], [("y", FLOAT, ["n", 10])], nodes, weights))


@pytest.fixture(scope="module")
def on_gpu():
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("no NVIDIA device can be used: the installed onnxruntime has no CUDAExecutionProvider")
    made = perceptron()
    model = Model.open(made, providers=providers_for("gpu", MEMORY))
    if not model.is_on_gpu:
        pytest.skip("no NVIDIA device can be used: onnxruntime could not start CUDA and fell back to the CPU")
    model.warm()
    return made, model


def test_answers_equal_the_cpus(on_gpu):
    made, model = on_gpu
    inputs = [np.random.default_rng(rows).normal(size=(rows, WIDTH)).astype("f4") for rows in (1, 3, 7, 20)]
    works = [work(made, x, number=i) for i, x in enumerate(inputs)]

    there = run_batch(model, works, max_rows=64, is_shared=True)
    here = run_batch(Model.open(made), works, max_rows=64, is_shared=True)

    for gpu, cpu in zip(there, here, strict=True):
        np.testing.assert_allclose(decode(*gpu.outputs[0]), decode(*cpu.outputs[0]), rtol=1e-3, atol=1e-4)


def test_throughput_beside_bare_onnxruntime(on_gpu, capsys):
    made, model = on_gpu
    rows, rounds = 64, 200
    x = np.random.default_rng(0).normal(size=(rows, WIDTH)).astype("f4")
    works = [work(made, x[i : i + 1], number=i) for i in range(rows)]

    def rate(run):
        run()
        began = time.perf_counter()
        for _ in range(rounds):
            run()
        return rows * rounds / (time.perf_counter() - began)

    bare = rate(lambda: model.session.run(None, {"x": x}))
    ours = rate(lambda: run_batch(model, works, max_rows=rows, is_shared=True))

    with capsys.disabled():
        print(f"\nrows/s at batches of {rows}: bare onnxruntime {bare:,.0f}, engine {ours:,.0f} ({ours / bare:.0%})")
