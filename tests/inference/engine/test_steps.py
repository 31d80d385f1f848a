import base64
import io
import json
import struct
import time
import zlib

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split, Whitespace

from inference.engine import steps
from inference.engine.batch import run_batch
from inference.engine.errors import DeadlineExceeded, InvalidRequest, InvalidTensor
from inference.engine.manifest import parse_manifest
from inference.engine.model import Model
from inference.engine.steps import best_labels, decoded, image_array, open_image, read_images, softmax, tokenize
from tests.inference.engine import models
from tests.inference.engine.models import FLOAT, work
from tests.waiting import until

pytestmark = pytest.mark.no_servers


def png(array: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, form)
    return file.getvalue()


def brightness(**facts):
    """Images of 2 × 2 gray pixels → scores (n, 2): mean darkness and mean brightness."""
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["bright"], keepdims=0),
        helper.make_node("Reshape", ["bright", "column"], ["b"]),
        helper.make_node("Sub", ["one", "b"], ["d"]),
        helper.make_node("Concat", ["d", "b"], ["scores"], axis=1),
    ]
    constants = [
        ("axes", np.array([1, 2, 3])),
        ("column", np.array([-1, 1])),
        ("one", np.array(1, "f4")),
    ]
    manifest = {
        "task": "image-classification",
        "labels": ["dark", "bright"],
        "preprocessing": [
            {"step": "resize", "width": 2, "height": 2},
            {"step": "grayscale"},
            {"step": "scale", "by": 1 / 255},
            {"step": "layout", "to": "NCHW"},
        ],
    }
    artifact = models.graph([("image", FLOAT, ["n", 1, 2, 2])], [("scores", FLOAT, ["n", 2])], nodes, constants)
    return models.source(artifact, manifest, **facts)


WHITE, BLACK = np.full((4, 4, 3), 255, np.uint8), np.zeros((4, 4, 3), np.uint8)


def test_images_of_several_calls_are_decoded_joined_and_labelled():
    made = brightness()
    works = [
        work(made, items=[png(WHITE), png(BLACK, "JPEG")], top=2),
        work(made, items=[base64.b64encode(png(WHITE)).decode()]),
        work(made, items=["data:image/webp;base64," + base64.b64encode(png(BLACK, "WEBP")).decode()]),
    ]

    replies = run_batch(Model.open(made), works, max_rows=64, is_shared=True)

    assert [[best[0].label for best in reply.predictions] for reply in replies] == [["bright", "dark"], ["bright"], ["dark"]]
    assert [len(best) for reply in replies for best in reply.predictions] == [2, 2, 1, 1]
    assert replies[0].predictions[0][0].confidence == pytest.approx(1.0)
    assert {reply.batch_rows for reply in replies} == {4}


@pytest.mark.parametrize("item", [b"GIF89a no", b"", "not base64!", 7, png(WHITE)[:45], None])
def test_an_item_that_is_no_image_fails_its_own_call_with_its_place(item):
    made = brightness()
    works = [work(made, items=[png(WHITE)]), work(made, items=[png(WHITE), item]), work(made, items=[png(BLACK)])]

    replies = run_batch(Model.open(made), works, max_rows=64, is_shared=True)

    assert [reply.code for reply in replies] == ["", "invalid_tensor", ""]
    assert replies[1].message.startswith("inputs[1] ")
    assert "0x" not in replies[1].message
    assert replies[2].predictions[0][0].label == "dark"


def test_a_small_file_that_unfolds_to_a_huge_image_is_refused_by_its_header():
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(60_000))) + chunk(b"IEND", b"")

    with pytest.raises(InvalidTensor, match=r"inputs\[0\] has too many pixels; a call takes at most 32000000"):
        read_images(brightness_manifest(), [bomb])


def brightness_manifest():
    return parse_manifest(brightness().manifest)


def test_many_small_files_that_together_unfold_to_a_huge_image_are_refused_by_their_headers():
    file = io.BytesIO()
    Image.new("1", (2000, 2000)).save(file, "PNG")
    cut = file.getvalue()[:60]  # header only: whoever decoded it would find it broken

    with pytest.raises(InvalidRequest, match=r"inputs\[8\] have 36000000 pixels; a call takes at most 32000000"):
        read_images(brightness_manifest(), [cut] * 9)


def test_small_images_that_are_scaled_up_to_very_much_are_refused_by_what_they_become():
    steps_before = [{"step": "resize", "width": 4096, "height": 4096}]
    manifest = parse_manifest({"task": "image-classification", "preprocessing": steps_before})
    cut = png(WHITE)[:60]

    with pytest.raises(InvalidRequest, match=r"inputs\[1\] have 33554432 pixels; a call takes at most 32000000"):
        read_images(manifest, [cut] * 2)


def test_the_preparation_of_a_call_ends_at_its_deadline_and_the_others_go_on():
    made = brightness()
    works = [work(made, items=[png(WHITE)] * 3, deadline=1.0), work(made, items=[png(BLACK)])]

    replies = run_batch(Model.open(made), works, max_rows=64, is_shared=True)

    assert [reply.code for reply in replies] == ["deadline_exceeded", ""]
    assert replies[1].predictions[0][0].label == "dark"
    with pytest.raises(DeadlineExceeded):
        tokenize(Tokenizer(WordLevel({"a": 0}, "a")), ["a"], deadline=1.0)


def test_a_call_whose_deadline_passed_while_others_were_prepared_is_not_run():
    made = language()
    model = Model.open(made)
    works = [work(made, items=["good"], top=1, deadline=time.time() + 1), work(made, items=["bad"], top=1)]
    model.tokenizer = Held(model.tokenizer, lambda text: text == "bad" and until(lambda: time.time() > works[0].deadline))

    replies = run_batch(model, works, max_rows=64, is_shared=True)

    assert [reply.code for reply in replies] == ["deadline_exceeded", ""]
    assert replies[1].batch_rows == 1


def test_calls_that_are_late_when_the_runs_before_theirs_have_ended_are_not_run():
    made = language()
    model = Model.open(made)
    works = [work(made, items=[text], top=1, deadline=time.time() + 1) for text in ("good", "bad")]
    asked = []
    works[0].deadline += 60
    model.tokenizer = Held(model.tokenizer, lambda text: asked.append(text) or until(lambda: time.time() > works[1].deadline))

    replies = run_batch(model, works, max_rows=1, is_shared=True)

    assert [reply.code for reply in replies] == ["", "deadline_exceeded"]
    assert asked == ["good"]


def test_what_was_expected_for_the_preparation_is_no_cost_of_a_row():
    made = language(ms_per_row=0.0)
    model = Model.open(made)

    (reply,) = run_batch(model, [work(made, items=["good"], top=1, prepare_us=60e6)], max_rows=64, is_shared=True)

    assert reply.code == ""
    assert model.us_per_row == 0


class Held:
    """A tokenizer that does `before(text)` before it tokenizes it."""

    def __init__(self, tokenizer, before):
        self.tokenizer, self.before = tokenizer, before

    def encode_batch(self, texts):
        for text in texts:
            self.before(text)
        return self.tokenizer.encode_batch(texts)


@pytest.mark.parametrize(
    "made", [brightness, models.linear, lambda: models.linear({"labels": ["a", "b", "c"]}), lambda: language()]
)
def test_no_rows_in_a_friendly_call_are_an_answer_without_rows_and_shift_nobodys(made):
    made = made()
    takes_items = made.manifest.get("task", "").endswith("classification")
    empty = work(made, items=[], top=1) if takes_items else work(made, np.zeros((0, 4), "f4"), top=1)
    one = {"image-classification": [png(WHITE)], "text-classification": ["a b"]}.get(made.manifest.get("task", ""))
    full = work(made, items=one, top=1) if one else work(made, models.row(1, 2, 3, 4), top=1)

    replies = run_batch(Model.open(made), [empty, full, empty], max_rows=64, is_shared=True)

    assert [reply.code for reply in replies] == ["", "", ""]
    assert [len(reply.predictions if reply.predictions is not None else reply.outputs[0][3]) for reply in replies][::2] == [
        0,
        0,
    ]
    assert replies[1].predictions or replies[1].outputs[0][2] == [1, 3]


def test_transparency_is_white_and_sixteen_bits_are_scaled():
    clear = np.zeros((1, 1, 4), np.uint8)
    deep = np.array([[0x8000]], np.uint16)

    assert np.asarray(decoded(open_image(png(clear)))).tolist() == [[[255, 255, 255]]]
    assert np.asarray(decoded(open_image(png(deep)))).tolist() == [[128]]


@pytest.mark.parametrize("strip", [1, 70, 1_000_000])
def test_a_transparent_image_is_the_same_in_strips(monkeypatch, strip):
    monkeypatch.setattr(steps, "STRIP_PIXELS", strip)
    drawn = np.random.default_rng(1).integers(0, 256, (9, 31, 4), np.uint8)
    white = Image.new("RGBA", (31, 9), "white")

    made = decoded(open_image(png(drawn)))

    assert made.tobytes() == Image.alpha_composite(white, Image.fromarray(drawn)).convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ([], [[[10.0, 20.0, 30.0]]]),
        ([{"step": "invert"}], [[[245.0, 235.0, 225.0]]]),
        ([{"step": "grayscale"}], [[[18.0]]]),
        ([{"step": "scale", "by": 0.5}, {"step": "layout", "to": "NCHW"}], [[[5.0]], [[10.0]], [[15.0]]]),
        ([{"step": "normalize", "mean": [10, 10, 10], "std": [1, 2, 4]}, {"step": "layout", "to": "flat"}], [0.0, 5.0, 5.0]),
        ([{"step": "normalize", "mean": [10], "std": [10]}, {"step": "layout", "to": "NHWC"}], [[[0.0, 1.0, 2.0]]]),
    ],
)
def test_declared_steps_give_these_numbers(declared, expected):
    manifest = parse_manifest({"task": "image-classification", "preprocessing": declared})
    image = Image.fromarray(np.array([[[10, 20, 30]]], np.uint8))

    array = image_array(manifest, image)

    assert array.dtype == np.float32
    assert array.tolist() == expected


def language(**facts):
    nodes = [helper.make_node("Cast", ["ids"], ["scores"], to=FLOAT)]
    return models.source(
        models.graph([("ids", TensorProto.INT64, ["n", 4])], [("scores", FLOAT, ["n", 4])], nodes), words(), **facts
    )


def words(**manifest):
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return {
        "task": "text-classification",
        "labels": ["a", "b", "c", "d"],
        "tokenizer": json.loads(tokenizer.to_str()),
        "preprocessing": [{"step": "tokenize", "max_length": 4}],
    } | manifest


def test_texts_become_ids_and_mask_of_the_declared_length():
    """scores = ids × mask, so the ids can be read off the confidences."""
    nodes = [helper.make_node("Mul", ["ids", "mask"], ["m"]), helper.make_node("Cast", ["m"], ["scores"], to=FLOAT)]
    shape = ["n", 4]
    artifact = models.graph(
        [("ids", TensorProto.INT64, shape), ("mask", TensorProto.INT64, shape)], [("scores", FLOAT, shape)], nodes
    )
    made = models.source(artifact, words(attention_mask="mask"))
    works = [work(made, items=["good bad", "what"], top=4), work(made, items=["bad " * 9], top=4)]

    replies = run_batch(Model.open(made), works, max_rows=64, is_shared=True)

    scores = [
        [best.confidence for best in sorted(row, key=lambda best: best.label)] for reply in replies for row in reply.predictions
    ]
    assert scores == [[2, 3, 0, 0], [1, 0, 0, 0], [3, 3, 3, 3]]


def test_texts_go_to_a_model_that_takes_text_itself():
    nodes = [helper.make_node("StringConcat", ["x", "mark"], ["y"])]
    artifact = models.graph(
        [("x", TensorProto.STRING, ["n", 1])], [("y", TensorProto.STRING, ["n", 1])], nodes, [("mark", np.array(["!"], object))]
    )
    made = models.source(artifact, {"task": "text-classification"})
    model = Model.open(made)

    feed = model.arrays_of(["é", "b"])

    assert feed["x"].tolist() == [["é"], ["b"]]


def test_a_text_that_the_tokenizer_cannot_read_fails_its_own_call_and_not_the_process():
    """The library ends a match that takes too many steps by a panic, which is no Exception."""
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split(Regex("(a+)+c"), "isolated")
    nodes = [helper.make_node("Cast", ["ids"], ["scores"], to=FLOAT)]
    artifact = models.graph([("ids", TensorProto.INT64, ["n", 4])], [("scores", FLOAT, ["n", 4])], nodes)
    made = models.source(artifact, words(tokenizer=json.loads(tokenizer.to_str())))

    works = [work(made, items=["a" * 40]), work(made, items=["good"])]
    replies = run_batch(Model.open(made), works, max_rows=64, is_shared=True)

    assert [reply.code for reply in replies] == ["model_failed", ""]
    assert "tokenizer" in replies[0].message


def test_a_text_that_is_no_text_fails_its_own_call():
    nodes = [helper.make_node("Cast", ["ids"], ["scores"], to=FLOAT)]
    made = models.source(models.graph([("ids", TensorProto.INT64, ["n", 4])], [("scores", FLOAT, ["n", 4])], nodes), words())

    replies = run_batch(
        Model.open(made), [work(made, items=["good", 5]), work(made, items=[b"bad"])], max_rows=64, is_shared=True
    )

    assert [reply.code for reply in replies] == ["invalid_request", ""]


def test_numbers_of_a_friendly_call_are_labelled_too():
    made = models.linear({"task": "tabular", "labels": ["x", "y", "z"], "postprocessing": [{"step": "softmax"}]})
    rows = np.random.default_rng(1).normal(size=(2, 4)).astype("f4")

    friendly, plain = run_batch(Model.open(made), [work(made, rows, top=3), work(made, rows)], max_rows=64, is_shared=True)

    expected = softmax(rows @ models.WEIGHTS)
    for best, scores in zip(friendly.predictions, expected, strict=True):
        assert [each.label for each in best] == ["xyz"[i] for i in np.argsort(-scores)]
        assert sum(each.confidence for each in best) == pytest.approx(1.0)
    assert plain.outputs is not None


def test_scores_that_are_not_finite_refuse_only_their_call():
    made = models.identity(FLOAT, ["n", 2], manifest={"task": "tabular", "postprocessing": [{"step": "softmax"}]})
    good, bad = np.array([[1, 2]], "f4"), np.array([[np.inf, 2]], "f4")

    replies = run_batch(Model.open(made), [work(made, good, top=1), work(made, bad, top=1)], max_rows=64, is_shared=True)

    assert [reply.code for reply in replies] == ["", "output_not_finite"]
    assert replies[1].predictions is None


def test_softmax_takes_large_scores():
    assert softmax(np.array([[1000.0, 1000.0], [-1000.0, 0.0]])).tolist() == [[0.5, 0.5], [0.0, 1.0]]


def test_ties_go_to_the_earlier_label():
    (best,) = best_labels(["a", "b", "c"], np.array([[0.4, 0.2, 0.4]]), 2)

    assert [each.label for each in best] == ["a", "c"]


def test_a_model_whose_scores_do_not_fit_its_labels_fails():
    made = models.linear({"task": "tabular", "labels": ["x", "y"]})

    (reply,) = run_batch(Model.open(made), [work(made, np.ones((1, 4), "f4"), top=1)], max_rows=64, is_shared=True)

    assert reply.code == "model_failed"
    assert "labels" in reply.message


def test_the_limit_of_pixels_is_below_pillows_own():
    assert Image.MAX_IMAGE_PIXELS is not None
    assert steps.MAX_PIXELS < Image.MAX_IMAGE_PIXELS
