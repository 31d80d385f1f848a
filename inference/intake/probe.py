"""What a model does when it is loaded and run: signature, memory, time, and whether its rows are independent.

Runs in intake's subprocess only. Every load and run has a bound of processor time (not of the clock: a busy machine is not the
model's fault) whose end is a signal that ends the process, since onnxruntime cannot be interrupted inside an operator.
"""

import io
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from PIL import Image

from inference.engine.errors import EngineError, TokenizerFailed
from inference.engine.manifest import Manifest, Resize, parse_manifest
from inference.engine.model import Model, signature
from inference.engine.sessions import open_session
from inference.engine.source import ArtifactSource
from inference.engine.tensors import FLOATS, Array
from inference.intake import extremes, independence
from inference.intake.feeds import KINDS, MAX_VALUES, SEED, WORDS, Feed, Inputs, extreme_whole_rows
from inference.intake.rules import Rejected
from inference.routes import TensorSpec

TRIED_SECONDS = 1.5  # of processor time, for trying which numbers of rows may share a run
MANY_ROWS = 32  # from which the cost of a row among others is measured
SLOW = 0.1  # seconds of one row
TIMED_RUNS = 5
OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "failed to allocate", "cannot allocate", "out of memory", "max_size")
INPUT_DATATYPES = {
    "image-classification": FLOATS | {"UINT8"},
    "text-classification": frozenset({"INT64", "INT32", "BYTES"}),
}


class Probe:
    """The steps of one probe, in order. `tell(stage)` is called before each: what is under way if the process ends there."""

    def __init__(self, artifact: bytes, job: dict[str, Any], tell: Callable[[str], None]) -> None:  # Any: JSON
        """`job`: `manifest`; processor time in seconds that a load (`load_seconds`) and a run (`run_seconds`) may take; the
        most rows that the engine would ever run together (`max_rows`).
        """
        self.artifact, self.job, self.tell = artifact, job, tell
        self.manifest: Manifest = parse_manifest(job["manifest"])
        self.measured: dict[str, Any] = {}

    def examine(self) -> dict[str, Any]:  # Any: JSON
        """Everything, as columns of the version and the parts of its verdict. Raises Rejected."""
        open_session(smallest_model())  # what the library takes for itself is nobody's model
        before = memory()
        session = self.load()
        inputs, outputs = _signature(session)
        check_names(self.manifest, inputs, outputs)
        rowed = leading_free(session)
        model = self.model(session, inputs, outputs)
        makers = Inputs(inputs, rowed, self.manifest)
        found = self.first_run(model, makers)
        self.measured["load_bytes"] = max(memory() - before, len(self.artifact))
        self.measured["peak_bytes"] = max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, 0)
        batching = self.batching(model, makers, found)
        self.try_extremes(model, found)
        self.check_shapes(inputs, outputs, found)
        return {
            "inputs": [[spec.name, spec.datatype, spec.shape] for spec in inputs],
            "outputs": [[spec.name, spec.datatype, spec.shape] for spec in outputs],
            "measured": self.measured,
            "batching": batching,
        }

    # --- loading ---

    def load(self) -> onnxruntime.InferenceSession:
        self.tell("load")
        began = time.perf_counter()
        try:
            with bounded(self.job["load_seconds"]):
                session = open_session(self.artifact)
        except Exception as error:  # onnxruntime raises its own types, RuntimeError, UnicodeDecodeError and more
            raise _failure("load_failed", error) from None
        self.measured["load_ms"] = round((time.perf_counter() - began) * 1000, 3)
        return session

    def model(self, session: onnxruntime.InferenceSession, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> Model:
        """As the engine will have it. Raises Rejected for a tokenizer that cannot be read."""
        source = ArtifactSource("", "", b"", self.job["manifest"], inputs, outputs, has_batch=True)
        self.tell("tokenizer")
        try:
            with bounded(self.job["run_seconds"]):
                return Model(source, session)
        except ValueError as error:
            raise Rejected("tokenizer", str(error)) from None

    # --- running ---

    def first_run(self, model: Model, makers: Inputs) -> "Found":
        """The first made-up input of one row that the model takes, and its outputs; one without feed if it takes none."""
        declared = self.declared_feed(model, 1)
        self.tell("run")
        if declared is not None:
            try:
                return Found("declared", 0, declared, self.run(model, declared))
            except Exception as error:  # onnxruntime's types and RuntimeError
                raise _failure("preprocessing_mismatch", error) from None
        reason = ""
        for kind in KINDS[1:]:
            for size in makers.sizes():
                feed = makers.make(1, size, kind)
                if feed is None:
                    continue
                try:
                    return Found(kind, size, feed, self.run(model, feed))
                except Exception as error:  # onnxruntime's types and RuntimeError: this input is not one for the model
                    if _is_memory(error):
                        raise _failure("memory", error) from None
                    reason = reason or _message(error)
        return Found("", 0, None, [], reason)

    def declared_feed(self, model: Model, rows: int, seed: int = SEED) -> Feed | None:
        """Real items through the declared preprocessing; None if the manifest declares none that can be tried."""
        random = np.random.default_rng(seed)
        items: list[Any]
        if any(isinstance(step, Resize) for step in self.manifest.preprocessing):
            items = [png(random) for _ in range(rows)]
        elif self.manifest.task == "text-classification":
            items = [" ".join(random.choice(WORDS, 3)) for _ in range(rows)]
        else:
            return None
        self.tell("tokenizer" if model.tokenizer else "preprocessing")
        try:
            with bounded(self.job["run_seconds"]):
                feed = model.arrays_of(items)
        except TokenizerFailed as error:
            raise Rejected("tokenizer", str(error)) from None
        except EngineError as error:
            raise Rejected("preprocessing_mismatch", str(error)) from None
        missing = [name for name in model.inputs if name not in feed]
        if missing:
            raise Rejected("preprocessing_mismatch", f"The declared preprocessing does not feed the input {', '.join(missing)}")
        return feed

    def run(self, model: Model, feed: Feed) -> list[Array]:
        with bounded(self.job["run_seconds"]):
            return model.run(model.output_names, feed, 1)

    def batching(self, model: Model, makers: Inputs, found: "Found") -> dict[str, Any]:  # Any: JSON
        """Whether the leading dimension is free, whether rows are independent, and why (not); measures time on the way."""
        inputs = {spec.name: spec.datatype for spec in model.inputs.values()}
        outputs = {spec.name: spec.datatype for spec in model.outputs.values()}
        if found.feed is None:
            has_batch = bool(makers.rowed) and all(spec.shape[:1] == [-1] for spec in model.outputs.values())
            self.measured["ms_per_row"] = 1.0
            return _batching(has_batch, False, f"The model took no made-up input, so nothing could be shown: {found.reason}")
        once = self.time(model, found.feed, 1)
        self.measured |= {"values": found.kind, "ms_one_row": round(once * 1000, 4), "ms_per_row": round(once * 1000, 4)}
        if not makers.rowed:
            return _batching(False, False, "No input has a free leading dimension, or they are different ones")
        feed = self.rows(model, makers, found, self.different(found.feed, once))
        self.tell("batch")
        try:
            found.has_batch, complaint = self.follows(model, feed, makers.rowed, outputs)
            if not found.has_batch:
                return _batching(False, False, complaint)
            self.measured["zero_rows"] = self.zero_rows(model, feed, makers.rowed)
            if makers.rowed != set(inputs):
                return _batching(True, False, "An input has no free leading dimension, so calls cannot share a run")
            most = self.most_together(model, feed, inputs, outputs, once)
            self.measure_many(model, feed, makers.rowed, min(most, MANY_ROWS), once)
        except independence.Dependent as error:
            return _batching(True, False, str(error))
        except Exception as error:  # onnxruntime's types and RuntimeError: it ran on one row
            if _is_memory(error):
                raise _failure("memory", error) from None
            return _batching(found.has_batch, False, f"The model failed on several rows: {_message(error)}")
        if most < 2:
            return _batching(True, False, "There was no time or memory to try several rows together")
        return _batching(
            True, True, f"Rows together equalled the same rows alone, with every number of rows up to {most}", most
        )

    def different(self, feed: Feed, once: float) -> int:
        """How many different rows to try with: one for each place of a run, unless they are slow or very large."""
        values = max(array.size for array in feed.values())
        in_time = int(TRIED_SECONDS / 8 / max(once, 1e-6))
        return max(3, min(int(self.job["max_rows"]), MAX_VALUES // max(values, 1), in_time))

    def rows(self, model: Model, makers: Inputs, found: "Found", rows: int) -> Feed:
        """More rows of the kind that the model took."""
        feed = self.declared_feed(model, rows) if found.kind == "declared" else makers.make(rows, found.size, found.kind)
        assert feed is not None  # one row of this kind and size was made
        return feed

    def most_together(self, model: Model, feed: Feed, inputs: dict[str, str], outputs: dict[str, str], once: float) -> int:
        """How many rows of different calls may share a run; 1 if a model is too slow to try."""
        if 6 * once > TRIED_SECONDS:  # three rows alone, one again, and two together
            return 1

        def run(rows: Feed) -> list[Array]:
            try:
                return self.run(model, rows)
            except Exception as error:  # onnxruntime's types and RuntimeError
                if _is_memory(error):
                    raise MemoryError(_message(error)) from None
                raise

        most: int = self.job["max_rows"]
        return independence.most_together(run, feed, inputs, outputs, most=most, seconds=TRIED_SECONDS)

    def follows(self, model: Model, feed: Feed, rowed: set[str], outputs: dict[str, str]) -> tuple[bool, str]:
        """Whether every output has as many rows as the inputs, and if not, which has not."""
        for rows in (1, 2, 3):
            results = self.run(model, independence.pick(feed, rowed, range(rows)))
            for name, result in zip(outputs, results, strict=True):
                if result.ndim < 1 or len(result) != rows:
                    return False, f"Output {name} has the shape {list(result.shape)} for {rows} rows"
        return True, ""

    def zero_rows(self, model: Model, feed: Feed, rowed: set[str]) -> bool:
        """Whether the model itself answers no rows with no rows. If it crashes on them, the process ends, and intake knows."""
        self.tell("zero rows")
        try:
            results = self.run(model, independence.pick(feed, rowed, []))
        except Exception:  # onnxruntime's types and RuntimeError: many models refuse
            return False
        finally:
            self.tell("batch")
        return all(result.ndim and not len(result) for result in results)

    def measure_many(self, model: Model, feed: Feed, rowed: set[str], rows: int, once: float) -> None:
        """The cost of a row of a fast model among so many."""
        if rows > 1 and once * rows <= 2 * SLOW:
            different = len(next(iter(feed.values())))
            batch = independence.pick(feed, rowed, [row % different for row in range(rows)])
            self.measured["ms_per_row"] = round(self.time(model, batch, rows) * 1000, 5)

    def time(self, model: Model, feed: Feed, rows: int) -> float:
        """Seconds of one row: the median of a few runs, or of one if it is slow."""
        seconds = []
        for _ in range(TIMED_RUNS):
            began = time.perf_counter()
            self.run(model, feed)
            seconds.append(time.perf_counter() - began)
            if seconds[0] > SLOW:
                break
        return sorted(seconds)[len(seconds) // 2] / rows

    def try_extremes(self, model: Model, found: "Found") -> None:
        """Measure whether whole numbers at the ends of their types end the process."""
        if found.feed is None:
            return
        self.tell("extreme numbers")
        rows = extreme_whole_rows(found.feed, {spec.name: spec.datatype for spec in model.inputs.values()})
        if crash := extremes.first_crash(lambda row: self.run(model, row), rows):
            self.measured["crashes_on"] = " ".join(crash)

    # --- the manifest against the signature ---

    def check_shapes(self, inputs: list[TensorSpec], outputs: list[TensorSpec], found: "Found") -> None:
        """Labels and features against the columns that the model has: as measured if it ran, else as declared."""
        shapes = {spec.name: spec.shape for spec in (*inputs, *outputs)}
        shapes |= {name: list(array.shape) for name, array in (found.feed or {}).items()}
        shapes |= {spec.name: list(array.shape) for spec, array in zip(outputs, found.outputs, strict=bool(found.outputs))}
        scores = self.manifest.output or next((spec.name for spec in outputs if spec.datatype in FLOATS), outputs[0].name)
        fed = self.manifest.input or inputs[0].name
        for field, names, name in (("labels", self.manifest.labels, scores), ("features", self.manifest.features, fed)):
            columns = shapes[name][-1] if shapes[name] else 1
            if names and columns not in (-1, len(names)):
                detail = f"{name} has {columns} columns, the manifest has {len(names)} {field}"
                raise Rejected(f"{field}_mismatch", detail, node=name, found=columns, expected=len(names))


class Found:
    """An input that the model took: how its values were made, what came out. `feed` is None if none was found."""

    def __init__(self, kind: str, size: int, feed: Feed | None, outputs: list[Array], reason: str = "") -> None:
        self.kind, self.size, self.feed, self.outputs, self.reason = kind, size, feed, outputs, reason
        self.has_batch = False


def check_names(manifest: Manifest, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> None:
    """Inputs and outputs that the manifest names exist, and take what its task makes. Raises Rejected."""
    by_name = {spec.name: spec for spec in inputs}
    for field in ("input", "attention_mask"):
        name = getattr(manifest, field)
        if name is not None and name not in by_name:
            raise Rejected("unknown_input", f"{field}: {name}; the model has {', '.join(by_name)}"[:900], node=name)
    if manifest.output is not None and manifest.output not in {spec.name for spec in outputs}:
        found = ", ".join(spec.name for spec in outputs)
        raise Rejected("unknown_output", f"output: {manifest.output}; the model has {found}"[:900], node=manifest.output)
    fed = by_name[manifest.input] if manifest.input else inputs[0]
    allowed = INPUT_DATATYPES.get(manifest.task)
    if manifest.tokenizer is not None:
        allowed = frozenset({"INT64", "INT32"})
    if allowed is not None and fed.datatype not in allowed:
        detail = f"{fed.name} is {fed.datatype}; {manifest.task} feeds {', '.join(sorted(allowed))}"
        raise Rejected("unknown_input", detail, node=fed.name, found=fed.datatype)


def leading_free(session: onnxruntime.InferenceSession) -> set[str]:
    """Names of the inputs whose leading dimension is free. None if their names for it differ: it is not the same one."""
    nodes = [node for node in session.get_inputs() if node.shape and not isinstance(node.shape[0], int)]
    symbols = {node.shape[0] for node in nodes if node.shape[0]}
    return {node.name for node in nodes} if len(symbols) <= 1 else set()


def memory() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """End this process with SIGPROF if what is inside uses more processor time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def smallest_model() -> bytes:
    """A model that hands its input through."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "smallest", [x], [y])
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return model


def png(random: np.random.Generator) -> bytes:
    """A small picture of noise."""
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def _signature(session: onnxruntime.InferenceSession) -> tuple[list[TensorSpec], list[TensorSpec]]:
    try:
        return signature(session)
    except ValueError as error:
        raise Rejected("unsupported_type", str(error)) from None


def _batching(has_batch: bool, is_batchable: bool, reason: str, max_rows: int = 1) -> dict[str, Any]:  # Any: JSON
    """`max_rows`: of different calls in one run."""
    return {"has_batch": has_batch, "is_batchable": is_batchable, "max_rows": max_rows, "reason": reason[:500]}


def _failure(code: str, error: Exception) -> Rejected:
    return Rejected("memory" if _is_memory(error) else code, _message(error))


def _is_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY)


def _message(error: Exception) -> str:
    return str(error).strip()[:500] or type(error).__name__
