"""A loaded version: its session, its signature, its steps. Numpy in, numpy out."""

import ctypes
import math
import os
import time
from typing import Any

import numpy as np
import onnxruntime

from inference.engine import steps
from inference.engine.errors import InvalidRequest, InvalidTensor, ModelFailed
from inference.engine.manifest import parse_manifest
from inference.engine.sessions import CPU, Providers, open_session
from inference.engine.source import ArtifactSource
from inference.engine.tensors import DTYPES, FLOATS, ORT_DATATYPES, Array, check_length
from inference.engine.watchdog import WATCHDOG
from inference.lanes import Work
from inference.routes import TensorSpec

BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
SLOW_MS = 2.0  # per row; from here several threads inside one operator are worth their wake-ups
KNOWN_SHAPES = 1000  # of calls that were checked before
WARM_SECONDS = 20.0  # a model may be slow, or endless, on zeros alone
FORGETS = 0.2  # how fast the measured cost follows


class Model:
    """One version, ready to run. Threads may run it at the same time.

    `us_per_row` is the cost as last measured, a moving mean of microseconds, beside what a call's items are expected to take.
    """

    def __init__(self, source: ArtifactSource, session: onnxruntime.InferenceSession, *, max_rows: int = 64) -> None:
        """`max_rows`: a batch has at most so many rows, unless one call brings more."""
        self.version, self.session, self.max_rows = source.version, session, max_rows
        self.manifest = parse_manifest(source.manifest)
        self.tokenizer = steps.load_tokenizer(self.manifest)
        self.inputs = {spec.name: spec for spec in source.inputs}
        self.outputs = {spec.name: spec for spec in source.outputs}
        self.output_names = list(self.outputs)
        self.has_batch = source.has_batch
        self.rowed = {spec.name for spec in source.inputs if source.has_batch and spec.shape[:1] == [-1]}
        self.is_batchable = source.is_batchable and len(self.rowed) == len(self.inputs)
        self.item_input = self.inputs[self.manifest.input or source.inputs[0].name]
        self.score_output = self.manifest.output or next(
            (spec.name for spec in source.outputs if spec.datatype in FLOATS), source.outputs[0].name
        )
        self.is_classifier = bool(self.manifest.labels or self.manifest.postprocessing) or self.manifest.task.endswith(
            "classification"
        )
        self.is_on_gpu = session.get_providers()[0] != CPU[0]
        datatypes = {spec.datatype for spec in (*source.inputs, *source.outputs)}
        self.has_bf16, self.has_texts = "BF16" in datatypes, "BYTES" in datatypes
        self.us_per_row = source.ms_per_row * 1000
        self._known: set[tuple[Any, ...]] = set()

    @classmethod
    def open(cls, source: ArtifactSource, *, providers: Providers = CPU, max_rows: int = 64) -> "Model":
        """Load a version. Raises what onnxruntime raises, and ValueError for a manifest that does not fit."""
        session = open_session(
            source.artifact, threads=threads_for(source), providers=providers, is_trusted=not source.is_private
        )
        return cls(source, session, max_rows=max_rows)

    def warm(self) -> None:
        """Run once on zeros per size that will come, so that no customer pays for the first run's allocations.

        Zeros need not be a valid input of this model (an index, a date): a run that fails has warmed what it could.
        """
        sizes = buckets(self.max_rows) if self.is_on_gpu and self.is_batchable else [1]
        for rows in sizes:
            feed = {spec.name: _zeros(spec, rows) for spec in self.inputs.values()}
            try:
                self.run(self.output_names, feed, rows, deadline=time.time() + WARM_SECONDS)
            except Exception:  # onnxruntime raises its own types, RuntimeError, ValueError and more
                return

    # --- what a call must look like ---

    def key_of(self, work: Work) -> tuple[Any, ...]:
        """What calls must have in common to share a run, the tenant aside. Raises InvalidTensor or InvalidRequest."""
        if work.items is not None:
            if len(work.items) != work.rows:
                raise InvalidRequest(f"{work.rows} items expected, got {len(work.items)}")
            if len(work.items) > 1 and not self.has_batch:
                raise InvalidRequest("this model takes one item a call")
            return ("items",)
        if work.inputs is None:
            raise InvalidRequest("the call has no inputs")
        parts: list[Any] = [work.top > 0, work.outputs]
        for name, datatype, shape, data in work.inputs:
            check_length(name, datatype, shape, data)
            parts += (name, datatype, *(shape[1:] if name in self.rowed else shape))
        key = tuple(parts)
        if key not in self._known:
            self._check(work)
            if len(self._known) >= KNOWN_SHAPES:
                self._known.clear()
            self._known.add(key)
        self._check_rows(work)
        return key

    def _check_rows(self, work: Work) -> None:
        """All inputs with a free leading dimension have as many rows as the call was admitted, and is billed, for."""
        assert work.inputs is not None
        for name, _, shape, _ in work.inputs:
            if name in self.rowed and shape[0] != work.rows:
                raise InvalidTensor(f"input {name}: {work.rows} rows expected, as in the other inputs, got shape {shape}")

    def _check(self, work: Work) -> None:
        """Names, datatypes and every dimension but a free leading one."""
        assert work.inputs is not None
        names = [name for name, *_ in work.inputs]
        if len(set(names)) != len(names):
            raise InvalidTensor(f"an input is given twice: {', '.join(names)}")
        if missing := [name for name in self.inputs if name not in names]:
            raise InvalidTensor(f"missing input: {', '.join(missing)}")
        if unknown := [name for name in names if name not in self.inputs]:
            raise InvalidTensor(f"unknown input: {', '.join(unknown)}; the model has {', '.join(self.inputs)}")
        if unknown := [name for name in work.outputs if name not in self.outputs]:
            raise InvalidTensor(f"unknown output: {', '.join(unknown)}; the model has {', '.join(self.outputs)}")
        for name, datatype, shape, _ in work.inputs:
            self.check_shape(name, datatype, shape)

    def check_shape(self, name: str, datatype: str, shape: list[int]) -> None:
        spec = self.inputs[name]
        if datatype != spec.datatype:
            raise InvalidTensor(f"input {name}: {spec.datatype} expected, got {datatype}")
        if len(shape) != len(spec.shape) or any(
            got < 0 or want not in (-1, got) for got, want in zip(shape, spec.shape, strict=True)
        ):
            raise InvalidTensor(f"input {name}: shape {spec.shape} expected, got {shape}")

    def arrays_of(self, items: list[Any], *, deadline: float = math.inf) -> dict[str, Array]:
        """A friendly call's items as the model's inputs, each (n, …). Raises EngineError."""
        spec = self.item_input
        feed: dict[str, Array] = {}
        if self.manifest.task == "image-classification":
            images = steps.read_images(self.manifest, items, deadline=deadline)
            feed[spec.name] = images.astype(DTYPES[spec.datatype], copy=False)
        elif self.tokenizer is not None:
            ids, mask = steps.tokenize(self.tokenizer, steps.read_texts(items), deadline=deadline)
            feed[spec.name] = ids.astype(DTYPES[spec.datatype], copy=False)
            if self.manifest.attention_mask:
                feed[self.manifest.attention_mask] = mask.astype(DTYPES[self.inputs[self.manifest.attention_mask].datatype])
        elif self.manifest.task == "text-classification":
            feed[spec.name] = np.array(steps.read_texts(items), np.object_).reshape(len(items), *[1] * (len(spec.shape) - 1))
        else:
            raise InvalidRequest(f"a model for {self.manifest.task} takes numbers, not files or texts")
        for name, array in feed.items():
            try:
                self.check_shape(name, self.inputs[name].datatype, list(array.shape))
            except InvalidTensor as error:
                raise ModelFailed(f"the declared preprocessing does not fit the model: {error}") from None
        return feed

    # --- the run ---

    def run(self, names: list[str], feed: dict[str, Array], rows: int, *, deadline: float = math.inf) -> list[Array]:
        """The outputs `names` for `feed`, in this order. On a GPU a batchable model's rows are padded to a fixed size, if that
        many may be in one run.

        `deadline`, in seconds since the epoch: the run is ended then. Raises DeadlineExceeded and what onnxruntime raises.
        """
        with WATCHDOG.run(deadline) as options:
            if self.has_bf16:
                return self._run_bf16(names, feed, options)
            if self.is_on_gpu and not self.has_texts:
                return self._run_bound(names, feed, rows, options)
            results: list[Array] = self.session.run(names, feed, options)
            return results

    def _run_bf16(self, names: list[str], feed: dict[str, Array], options: onnxruntime.RunOptions) -> list[Array]:
        """numpy has no bfloat16: raw bits go in and come out through onnxruntime's own values."""
        values = {name: self._value(name, array) for name, array in feed.items()}
        return [_array(value) for value in self.session.run_with_ort_values(names, values, options)]

    def _value(self, name: str, array: Array) -> onnxruntime.OrtValue:
        array = np.require(array, requirements=["C", "W"])
        if self.inputs[name].datatype == "BF16":
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16)
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)

    def _run_bound(self, names: list[str], feed: dict[str, Array], rows: int, options: onnxruntime.RunOptions) -> list[Array]:
        """Rows padded to a power of two (a new shape costs allocations and a search for algorithms), outputs bound to the host.

        onnxruntime's Python interface gives no pinned host memory: inputs go through `bind_cpu_input`, which copies them once.
        It binds no text, so a model with BYTES takes the plain way.
        """
        padded = bucket(rows) if self.is_batchable and rows and bucket(rows) <= self.max_rows else rows
        binding = self.session.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, _pad(array, padded) if padded != rows else np.asarray(array, order="C"))
        for name in names:
            binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding, options)
        results: list[Array] = binding.copy_outputs_to_cpu()
        return [result[:rows] for result in results] if padded != rows else results

    def observe(self, rows: int, us: float) -> None:
        """Let the cost follow a measured run; `us` is without what its items were expected to take."""
        if rows:
            self.us_per_row += FORGETS * (us / rows - self.us_per_row)


def threads_for(source: ArtifactSource) -> int:
    """Threads inside one operator: one for small models, and for customers' uploads, whose children share the machine."""
    return 1 if source.is_private or source.ms_per_row < SLOW_MS else min(4, os.cpu_count() or 1)


def bucket(rows: int) -> int:
    """The next power of two."""
    return 1 << max(0, rows - 1).bit_length()


def buckets(max_rows: int) -> list[int]:
    """The powers of two up to `max_rows`."""
    return [1 << power for power in range(max_rows.bit_length())]


def signature(session: onnxruntime.InferenceSession) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Inputs and outputs as typed specs, -1 for a free dimension. Raises ValueError for a type that the protocol lacks."""
    return [_spec(node) for node in session.get_inputs()], [_spec(node) for node in session.get_outputs()]


def _spec(node: Any) -> TensorSpec:  # onnxruntime's NodeArg, which has no public type
    if node.type not in ORT_DATATYPES:
        raise ValueError(f"{node.name} is {node.type}; only tensors of numbers, booleans and text are served")
    return TensorSpec(node.name, ORT_DATATYPES[node.type], [size if isinstance(size, int) else -1 for size in node.shape])


def _zeros(spec: TensorSpec, rows: int) -> Array:
    shape = [
        rows if place == 0 and size == -1 else max(size, 1) if size == -1 else size for place, size in enumerate(spec.shape)
    ]
    if spec.datatype == "BYTES":
        return np.full(shape, "", np.object_)
    return np.zeros(shape, DTYPES[spec.datatype] if spec.datatype != "BOOL" else np.bool_)


def _pad(array: Array, rows: int) -> Array:
    """Repeat the last row: rows are independent, and a real one is always a valid input."""
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def _array(value: onnxruntime.OrtValue) -> Array:
    if value.element_type() != BFLOAT16:
        result: Array = value.numpy()
        return result
    size = value.tensor_size_in_bytes()
    data = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(data, DTYPES["BF16"], count=math.prod(value.shape())).reshape(value.shape())
