"""The committed models: whole, small, and what their cards say of them. Needs no training tool."""

import io
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from inference.engine.manifest import parse_manifest
from inference.engine.sessions import open_session
from inference.engine.steps import load_tokenizer, read_images, read_texts, tokenize

pytestmark = pytest.mark.no_servers

EXAMPLES = Path(__file__).parents[2] / "examples"
LARGEST = {"iris": 4_000, "digits": 200_000, "language": 2_000_000}
ROWS = 7
OPSET, IR_VERSION = 21, 10


def manifest_of(name):
    return parse_manifest((EXAMPLES / name / "manifest.json").read_bytes())


def scores_of(name):
    return json.loads((EXAMPLES / name / "scores.json").read_text())


def texts_to_ids(texts):
    manifest = manifest_of("language")
    return tokenize(load_tokenizer(manifest), read_texts(texts))[0]


def sample_rows(name):
    """What the sample file becomes before the run, (n, …)."""
    if name == "iris":
        rows = json.loads((EXAMPLES / name / "sample.json").read_text())["inputs"]
        return np.array([[row[feature] for feature in manifest_of(name).features] for row in rows], np.float32)
    if name == "digits":
        return read_images(manifest_of(name), [(EXAMPLES / name / "sample.png").read_bytes()])
    return texts_to_ids(json.loads((EXAMPLES / name / "sample.json").read_text())["inputs"])


def generated_rows(name):
    random = np.random.default_rng(5)
    if name == "iris":
        return random.uniform(0, 8, (ROWS, 4)).astype(np.float32)
    if name == "digits":
        return random.uniform(0, 16, (ROWS, 1, 8, 8)).astype(np.float32)
    return random.integers(0, 60, (ROWS, 256))


@pytest.fixture(scope="module", params=sorted(LARGEST))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def run():
    """run(name, rows) → probabilities, by sessions as the engine opens them."""
    sessions = {name: open_session((EXAMPLES / name / "model.onnx").read_bytes()) for name in LARGEST}

    def answer(name, rows):
        manifest = manifest_of(name)
        return sessions[name].run([manifest.output], {manifest.input: rows})[0]

    return answer


def labels_of(name, probabilities):
    return [manifest_of(name).labels[column] for column in probabilities.argmax(axis=1)]


def test_the_file_is_small_standard_and_of_an_old_enough_version(name):
    path = EXAMPLES / name / "model.onnx"
    model = onnx.load(path)

    onnx.checker.check_model(model, full_check=True)
    assert path.stat().st_size <= LARGEST[name]
    assert model.ir_version <= IR_VERSION
    assert [(opset.domain, opset.version <= OPSET) for opset in model.opset_import] == [("", True)]


def test_the_batch_dimension_is_free_and_has_a_name(name):
    graph = onnx.load(EXAMPLES / name / "model.onnx").graph

    for value in [*graph.input, *graph.output]:
        first, *others = value.type.tensor_type.shape.dim
        assert first.dim_param == "n"
        assert all(dimension.dim_value > 0 for dimension in others)


def test_the_manifest_names_what_the_model_has(name):
    manifest, graph = manifest_of(name), onnx.load(EXAMPLES / name / "model.onnx").graph

    assert (EXAMPLES / name / "manifest.json").stat().st_size < 1_000_000
    assert [value.name for value in graph.input] == [manifest.input]
    assert [value.name for value in graph.output] == [manifest.output]
    assert graph.output[0].type.tensor_type.shape.dim[1].dim_value == len(manifest.labels)


def test_a_batch_gives_what_its_rows_give_alone(name, run):
    rows = generated_rows(name)

    together = run(name, rows)

    alone = np.concatenate([run(name, rows[place : place + 1]) for place in range(ROWS)])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(run(name, rows[::-1]), together[::-1], atol=1e-6)


def test_no_rows_give_no_rows(name, run):
    assert run(name, generated_rows(name)[:0]).shape == (0, len(manifest_of(name).labels))


def test_answers_are_probabilities(name, run):
    extremes = [generated_rows(name), np.zeros_like(generated_rows(name))]

    for rows in extremes:
        answer = run(name, rows)
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
        assert (answer >= 0).all()


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("iris", ["setosa", "versicolor", "virginica"]),
        ("digits", ["2"]),
        ("language", ["en", "de", "fr", "es", "ja"]),
    ],
)
def test_the_sample_gets_the_expected_labels(name, labels, run):
    assert labels_of(name, run(name, sample_rows(name))) == labels


def test_the_card_shows_the_scores(name):
    card = (EXAMPLES / name / "README.md").read_text()

    results = {key: value for key, value in scores_of(name).items() if isinstance(value, dict)}
    assert results
    for key, result in results.items():
        shown = re.search(f"<!-- {key} -->\n(.*?)<!-- /{key} -->", card, re.DOTALL)[1]
        assert f"**{100 * result['accuracy']:.2f} %** of {result['examples']} examples" in shown
        assert re.findall(r"^\| (\S+) \| (\S+) \| (\S+) \| (\S+) \| (\d+) \|$", shown, re.MULTILINE) == [
            (label, f"{of['precision']:.3f}", f"{of['recall']:.3f}", f"{of['f1']:.3f}", str(of["support"]))
            for label, of in result["per_label"].items()
        ]
        assert list(result["per_label"]) == manifest_of(name).labels


def test_the_scores_are_good_enough():
    assert scores_of("iris")["cross_validation"]["accuracy"] >= 0.95
    assert scores_of("digits")["held_out"]["accuracy"] >= 0.97
    assert scores_of("digits")["held_out_enlarged_dark_on_light"]["accuracy"] >= 0.97
    assert scores_of("language")["held_out"]["accuracy"] >= 0.9
    assert scores_of("language")["everyday"]["accuracy"] >= 0.9


def test_the_everyday_sentences_give_the_committed_score(run):
    lines = (EXAMPLES / "language" / "everyday.tsv").read_text(encoding="utf-8").splitlines()
    languages, sentences = zip(*(line.split("\t") for line in lines), strict=True)

    answers = labels_of("language", run("language", texts_to_ids(list(sentences))))

    scores = scores_of("language")["everyday"]
    right = sum(answer == language for answer, language in zip(answers, languages, strict=True))
    assert len(answers) == scores["examples"]
    assert round(right / len(answers), 4) == pytest.approx(scores["accuracy"], abs=0.004)  # one sentence, on other processors


@pytest.mark.parametrize("side", [8, 20, 112, 300])
@pytest.mark.parametrize("is_inverted", [False, True])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_a_digit_is_read_at_any_size_in_both_polarities_and_formats(side, is_inverted, file_format, run):
    with Image.open(EXAMPLES / "digits" / "sample.png") as sample:
        image = sample.resize((side, side), Image.Resampling.BICUBIC)
    if is_inverted:
        image = image.point(lambda value: 255 - value)
    file = io.BytesIO()
    image.save(file, file_format)

    assert labels_of("digits", run("digits", read_images(manifest_of("digits"), [file.getvalue()]))) == ["2"]


def test_pixels_and_the_image_of_them_are_the_same_to_the_model(run):
    random = np.random.default_rng(3)
    pixels = random.integers(0, 17, (1, 1, 8, 8)).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray(np.round(pixels[0, 0] * (255 / 16)).astype(np.uint8)).save(file, "PNG")

    rows = read_images(manifest_of("digits"), [file.getvalue()])

    np.testing.assert_allclose(rows, pixels, atol=0.04)  # 255 is no multiple of 16
    np.testing.assert_allclose(run("digits", rows), run("digits", pixels), atol=0.05)


@pytest.mark.parametrize("text", ["", "   ", "12345 :-)", "a", "é" * 5000, "🙂", "\x00\n\t"])
def test_any_text_at_all_gets_a_finite_answer(text, run):
    ids = texts_to_ids([text])

    assert ids.shape == (1, 256)
    assert np.isfinite(run("language", ids)).all()


@pytest.mark.parametrize("text", ["", "2026-11-21 :-)", "გამარჯობა"])
def test_a_text_without_known_letters_is_not_given_a_language_with_confidence(text, run):
    assert run("language", texts_to_ids([text])).max() == pytest.approx(1 / 38, abs=1e-5)


def test_case_and_punctuation_do_not_change_the_language(run):
    plain, loud = "wo ist der nächste bahnhof", "„WO ist  der nächste — Bahnhof?!“ 42"

    np.testing.assert_array_equal(*texts_to_ids([plain, loud]))
