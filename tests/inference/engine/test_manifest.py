import pytest

from inference.engine.manifest import Layout, ManifestError, Resize, manifest_dict, parse_manifest

pytestmark = pytest.mark.no_servers

DIGITS = {
    "task": "image-classification",
    "version": "1.0.0",
    "labels": [str(digit) for digit in range(10)],
    "preprocessing": [
        {"step": "resize", "width": 8, "height": 8},
        {"step": "grayscale"},
        {"step": "invert"},
        {"step": "scale", "by": 0.0625},
        {"step": "layout", "to": "NCHW"},
    ],
    "postprocessing": [{"step": "softmax"}],
}


def test_a_manifest_is_read_and_given_back_unchanged():
    manifest = parse_manifest(DIGITS)

    assert manifest.preprocessing[0] == Resize(width=8, height=8)
    assert manifest.preprocessing[-1] == Layout(to="NCHW")
    assert manifest_dict(manifest) == DIGITS
    assert parse_manifest(manifest_dict(manifest)) == manifest


def test_an_empty_manifest_is_a_plain_tensor_model():
    manifest = parse_manifest(b"{}")

    assert (manifest.task, manifest.hardware, manifest.labels) == ("tensor", "cpu", [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "regression"}, "task"),
        ({"version": "1.0"}, "version"),
        ({"colour": 1}, "colour"),
        ({"labels": ["a", "a"]}, "labels must be different"),
        ({"labels": "abc"}, "labels"),
        ({"features": ["x"]}, "features"),
        ({"preprocessing": [{"step": "run", "code": "x"}]}, "run"),
        ({"preprocessing": [{"step": "resize", "width": 0, "height": 8}]}, "width"),
        ({"preprocessing": [{"step": "resize", "width": 10**9, "height": 8}]}, "width"),
        ({"preprocessing": [{"step": "scale", "by": 1.0}, {"step": "invert"}]}, "order"),
        ({"preprocessing": [{"step": "rgb"}, {"step": "grayscale"}]}, "only one of"),
        ({"preprocessing": [{"step": "normalize", "mean": [0.0], "std": [0.0]}]}, r"preprocessing\[0\].*std"),
        ({"preprocessing": [{"step": "normalize", "mean": [0.0, 1.0], "std": [1.0]}]}, "same length"),
        ({"preprocessing": [{"step": "tokenize"}]}, "tokenize"),
        ({"tokenizer": {}}, "need each other"),
        ({"attention_mask": "mask"}, "attention_mask"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_place(change, message):
    with pytest.raises(ManifestError, match=message):
        parse_manifest(DIGITS | change)


def test_bytes_that_are_no_json_are_refused():
    with pytest.raises(ManifestError):
        parse_manifest(b"\xff{")
