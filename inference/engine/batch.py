"""From calls to runs and back: which calls share a run, and whose row is whose.

Calls share a run only if rows were found independent (intake), they ask for the same outputs of the same inputs, and the
caller of `run_batch` allows it: only it knows about tenants. A run that fails is repeated one call at a time, so that one
poisoned input fails alone.
"""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from inference.engine import steps
from inference.engine.errors import DeadlineExceeded, EngineError, ModelFailed, OutputNotFinite, OutputTooLarge
from inference.engine.model import Model
from inference.engine.tensors import Array, decode, encode, encode_data, is_finite
from inference.lanes import Reply, Tensor, Work, bytes_of

MAX_MESSAGE = 300  # characters of a model's own error that are handed on
MAX_OUTPUT = 64 << 20  # bytes of one call's outputs: several at once must fit between a worker and a busy gateway


def run_batch(model: Model, works: Sequence[Work], *, max_rows: int, is_shared: bool) -> list[Reply]:
    """One Reply per call, in the same order. `is_shared`: calls of different tenants may share a run (public models).

    A run has at most `max_rows` rows, unless one call brings more. Never raises for what a call or the model does.
    """
    answered = dict(run_each(model, works, max_rows=max_rows, is_shared=is_shared))
    return [answered[place] for place in range(len(works))]


def run_each(model: Model, works: Sequence[Work], *, max_rows: int, is_shared: bool) -> Iterator[tuple[int, Reply]]:
    """The same, run by run: the place of each call and its Reply, in the order in which they are made."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, work in enumerate(works):
        try:
            key = (*model.key_of(work), "" if is_shared else work.tenant)
        except EngineError as error:
            yield place, refusal(work, error)
            continue
        if work.rows == 0 and is_friendly(work) and model.has_batch:
            yield place, _nothing(model, work)
            continue
        groups.setdefault(key if model.is_batchable else (place,), []).append(place)
    for places in groups.values():
        for chunk in _cut(works, places, max_rows):
            chosen = [works[place] for place in chunk]
            for place, reply in zip(chunk, run_together(model, chosen), strict=True):
                yield place, reply if (size := bytes_of(reply)) <= MAX_OUTPUT else refusal(works[place], _too_large(size))


def _too_large(size: int) -> OutputTooLarge:
    return OutputTooLarge(
        f"The model's outputs for this call are {size} bytes; at most {MAX_OUTPUT} are handed on. "
        "Ask for fewer outputs, or send fewer rows"
    )


def refusal(work: Work, error: EngineError) -> Reply:
    return Reply(work.number, error.code, str(error))


def is_friendly(work: Work) -> bool:
    return work.items is not None or work.top > 0


def _nothing(model: Model, work: Work) -> Reply:
    """The answer for no rows, without a run: many models cannot run on none."""
    if model.is_classifier:
        return Reply(work.number, predictions=[])
    specs = [model.outputs[name] for name in work.outputs or model.output_names]
    return Reply(
        work.number,
        outputs=[(spec.name, spec.datatype, [0, *(max(0, size) for size in spec.shape[1:])], b"") for spec in specs],
    )


def _cut(works: Sequence[Work], places: list[int], max_rows: int) -> list[list[int]]:
    """`places` in pieces of at most `max_rows` rows, in order."""
    chunks: list[list[int]] = []
    rows = max_rows
    for place in places:
        if not chunks or rows + works[place].rows > max_rows:
            chunks.append([])
            rows = 0
        chunks[-1].append(place)
        rows += works[place].rows
    return chunks


def run_together(model: Model, works: list[Work]) -> list[Reply]:
    """Answer calls with the same key in one run; if that fails, each in a run of its own, unless all are too late."""
    try:
        return _run_items(model, works) if works[0].items is not None else _run_tensors(model, works)
    except DeadlineExceeded as error:
        return [refusal(work, error) for work in works]
    except Exception as error:  # onnxruntime raises its own types, MemoryError, UnicodeDecodeError: all are the model's failure
        if len(works) > 1:
            return [reply for work in works for reply in run_together(model, [work])]
        failure = error if isinstance(error, EngineError) else ModelFailed(_short(error))
        return [refusal(works[0], failure)]


def _short(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0][:MAX_MESSAGE]
    return f"the model failed: {text or type(error).__name__}"


def _last_deadline(works: list[Work]) -> float:
    """After it nobody waits for any of them."""
    return max([work.deadline for work in works])


def _run_tensors(model: Model, works: list[Work]) -> list[Reply]:
    began = time.perf_counter_ns()
    first = works[0]
    assert first.inputs is not None
    rows = sum([work.rows for work in works])
    feed: dict[str, Array] = {}
    for place, (name, datatype, shape, data) in enumerate(first.inputs):
        if len(works) > 1:  # rows are row-major on the wire, so bytes in a row are rows in a row; each length was checked
            parts = [work.inputs[place] for work in works]  # type: ignore[index]  # same key: each has the same inputs
            if datatype == "BYTES":
                feed[name] = np.concatenate([decode(*part) for part in parts])
                continue
            shape, data = [rows, *shape[1:]], b"".join([part[3] for part in parts])
        feed[name] = decode(name, datatype, shape, data)
    is_friendly = first.top > 0
    names = [model.score_output] if is_friendly and model.is_classifier else list(first.outputs) or model.output_names
    results = model.run(names, feed, rows, deadline=_last_deadline(works))
    return _answer(model, works, names, results, [work.rows for work in works], is_friendly=is_friendly, began=began)


def _run_items(model: Model, works: list[Work]) -> list[Reply]:
    """Items are decoded call by call, so that a broken one fails its own call before the run."""
    began = time.perf_counter_ns()
    arrays: dict[int, dict[str, Array]] = {}
    refusals: dict[int, Reply] = {}
    for place, work in enumerate(works):
        try:
            arrays[place] = model.arrays_of(work.items or [], deadline=work.deadline)
        except EngineError as error:
            refusals[place] = refusal(work, error)
    feeds: list[tuple[Work, dict[str, Array]]] = []
    for place, feed in arrays.items():
        try:
            steps.check_deadline(works[place].deadline)  # it may have passed while the calls behind it were prepared
            feeds.append((works[place], feed))
        except EngineError as error:
            refusals[place] = refusal(works[place], error)
    answers: list[Reply] = []
    if feeds:
        runs = _alike(feeds)
        counts = [len(work.items or []) for work, _ in feeds]
        if runs is None:
            raise ModelFailed("the images of these calls differ in size")
        chosen = [work for work, _ in feeds]
        results = model.run([model.score_output], runs, sum(counts), deadline=_last_deadline(chosen))
        answers = _answer(model, chosen, [model.score_output], results, counts, is_friendly=True, began=began)
    rest = iter(answers)
    return [refusals[place] if place in refusals else next(rest) for place in range(len(works))]


def _alike(feeds: list[tuple[Work, dict[str, Array]]]) -> dict[str, Array] | None:
    """All calls' rows together; None if they cannot be joined, because a model takes images of any size."""
    first = feeds[0][1]
    if any(feed[name].shape[1:] != array.shape[1:] for _, feed in feeds for name, array in first.items()):
        return None
    return first if len(feeds) == 1 else {name: np.concatenate([feed[name] for _, feed in feeds]) for name in first}


def _answer(
    model: Model, works: list[Work], names: list[str], results: list[Array], counts: list[int], *, is_friendly: bool, began: int
) -> list[Reply]:
    """Hand each call its rows: `counts[i]` rows of each of `results` belong to `works[i]`, in order. Raises ModelFailed."""
    rows = sum(counts)
    arrays = [np.asarray(result) for result in results]
    if len(works) > 1 or (is_friendly and model.has_batch):
        for name, array in zip(names, arrays, strict=True):
            if array.ndim == 0 or array.shape[0] != rows:  # otherwise one call's rows would be handed to another
                raise ModelFailed(f"output {name} has shape {list(array.shape)}; {rows} rows were expected")
    if is_friendly and model.is_classifier:
        replies = _labelled(model, works, arrays[0], counts)
    else:
        replies = _split(model, works, names, arrays, counts)
    us = (time.perf_counter_ns() - began) // 1000
    model.observe(rows, max(0.0, us - sum([work.prepare_us for work in works])))
    for reply, count in zip(replies, counts, strict=True):
        reply.compute_us = us * count // rows if rows else us // len(works)
        reply.batch_rows = rows
    return replies


def _split(model: Model, works: list[Work], names: list[str], arrays: list[Array], counts: list[int]) -> list[Reply]:
    specs = [model.outputs[name] for name in names]
    are_finite = [is_finite(spec.datatype, array) for spec, array in zip(specs, arrays, strict=True)]
    if len(works) == 1:
        outputs = [encode(spec.name, spec.datatype, array) for spec, array in zip(specs, arrays, strict=True)]
        return [Reply(works[0].number, outputs=outputs, is_finite=all(are_finite))]
    columns = [_rows_of(spec.name, spec.datatype, array, counts) for spec, array in zip(specs, arrays, strict=True)]
    replies = [
        Reply(work.number, outputs=list(outputs)) for work, outputs in zip(works, zip(*columns, strict=True), strict=True)
    ]
    if not all(are_finite):
        _mark(replies, [(spec.datatype, array) for spec, array in zip(specs, arrays, strict=True)], counts)
    return replies


def _rows_of(name: str, datatype: str, array: Array, counts: list[int]) -> list[Tensor]:
    """The output cut into its calls' rows, encoded."""
    tail = list(array.shape[1:])
    tensors: list[Tensor] = []
    at = 0
    if datatype == "BYTES":
        for count in counts:
            tensors.append((name, datatype, [count, *tail], encode_data(datatype, array[at : at + count])))
            at += count
        return tensors
    data = array.tobytes()
    width = len(data) // len(array) if len(array) else 0  # bytes of one row
    for count in counts:
        tensors.append((name, datatype, [count, *tail], data[at : at + count * width]))
        at += count * width
    return tensors


def _mark(replies: list[Reply], columns: list[tuple[str, Array]], counts: list[int]) -> None:
    """Some number in the batch is not finite: find out whose."""
    at = 0
    for reply, count in zip(replies, counts, strict=True):
        reply.is_finite = all(is_finite(datatype, array[at : at + count]) for datatype, array in columns)
        at += count


def _labelled(model: Model, works: list[Work], scores: Array, counts: list[int]) -> list[Reply]:
    numbers = scores.astype(np.float64)
    if numbers.ndim == 1 and not model.has_batch:
        numbers = numbers.reshape(1, -1)
    # Of the model's scores: softmax would hide an infinity.
    finite = np.asarray(np.isfinite(numbers).reshape(len(numbers), -1).all(axis=1))
    if model.manifest.postprocessing:
        numbers = steps.softmax(numbers)
    top = max(work.top for work in works) or 1
    labels = steps.best_labels(model.manifest.labels, numbers, top)
    replies = []
    at = 0
    for work, count in zip(works, counts, strict=True):
        if finite[at : at + count].all():
            replies.append(Reply(work.number, predictions=[best[: work.top or 1] for best in labels[at : at + count]]))
        else:  # these answers are JSON only, which has no infinity
            replies.append(refusal(work, OutputNotFinite("The model's scores for this input are not finite")))
        at += count
    return replies
