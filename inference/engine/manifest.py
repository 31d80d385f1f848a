"""What an uploader declares of a model beside its ONNX file: task, labels, and the steps before and after the run.

Steps are declarations, never code. docs/models.md explains them to customers.
"""

import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Side = Annotated[int, Meta(ge=1, le=4096)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
MAX_LABELS = 10_000

Task = Literal["tensor", "tabular", "image-classification", "text-classification"]


class ManifestError(ValueError):
    """The manifest is wrong; the message names the place and what was expected."""


class Resize(Struct, tag="resize", tag_field="step", forbid_unknown_fields=True):
    """Scale the image to `width` × `height` pixels (bilinear)."""

    width: Side
    height: Side


class Grayscale(Struct, tag="grayscale", tag_field="step", forbid_unknown_fields=True):
    """One channel."""


class Rgb(Struct, tag="rgb", tag_field="step", forbid_unknown_fields=True):
    """Three channels; the default if neither this nor grayscale is declared."""


class Invert(Struct, tag="invert", tag_field="step", forbid_unknown_fields=True):
    """Dark becomes light: 255 - value."""


class Scale(Struct, tag="scale", tag_field="step", forbid_unknown_fields=True):
    """Multiply each value, 0 to 255, by `by`."""

    by: float


class Normalize(Struct, tag="normalize", tag_field="step", forbid_unknown_fields=True):
    """(value - mean) / std, per channel; one number stands for all channels."""

    mean: Annotated[list[float], Meta(min_length=1, max_length=4)]
    std: Annotated[list[float], Meta(min_length=1, max_length=4)]


class Layout(Struct, tag="layout", tag_field="step", forbid_unknown_fields=True):
    """Order of the axes that the model takes; `flat` is (n, height * width * channels)."""

    to: Literal["NCHW", "NHWC", "flat"]


class Tokenize(Struct, tag="tokenize", tag_field="step", forbid_unknown_fields=True):
    """Token ids by the manifest's tokenizer, cut and padded to `max_length`: (n, max_length) int64."""

    max_length: Annotated[int, Meta(ge=1, le=4096)] = 256


class Softmax(Struct, tag="softmax", tag_field="step", forbid_unknown_fields=True):
    """Turn scores into probabilities, over the last axis."""


Before = Resize | Grayscale | Rgb | Invert | Scale | Normalize | Layout | Tokenize
IMAGE_STEPS = (Resize, Grayscale, Rgb, Invert)  # on the decoded image
NUMBER_STEPS = (Scale, Normalize)  # then on its float32 array
ORDER = (IMAGE_STEPS, NUMBER_STEPS, (Layout,))


class Manifest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    task: Task = "tensor"
    version: Annotated[str, Meta(pattern=r"^(0|[1-9]\d{0,8})(\.(0|[1-9]\d{0,8})){2}$")] | None = None
    hardware: Literal["cpu", "gpu"] = "cpu"
    input: Name | None = None  # the input that friendly calls feed; default: the first
    output: Name | None = None  # the output that they read; default: the first of floats
    labels: Annotated[list[Name], Meta(max_length=MAX_LABELS)] = []  # of the scores' columns; default: their numbers
    features: Annotated[list[Name], Meta(max_length=MAX_LABELS)] = []
    preprocessing: Annotated[list[Before], Meta(max_length=20)] = []
    postprocessing: Annotated[list[Softmax], Meta(max_length=1)] = []
    tokenizer: dict[str, Any] | None = None  # a tokenizer.json, as the `tokenizers` library writes it
    attention_mask: Name | None = None  # the input that takes the tokenizer's mask


def parse_manifest(data: bytes | str | dict[str, Any]) -> Manifest:
    """The manifest from JSON text or from its decoded object. Raises ManifestError, which says what is wrong and where."""
    try:
        manifest = msgspec.convert(data, Manifest) if isinstance(data, dict) else msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"manifest: {error}") from None
    _check_names(manifest)
    _check_steps(manifest)
    return manifest


def manifest_dict(manifest: Manifest) -> dict[str, Any]:
    """The same as plain JSON values, defaults left out; `parse_manifest` takes it back."""
    result: dict[str, Any] = msgspec.to_builtins(manifest)
    return result


def _check_names(manifest: Manifest) -> None:
    for field in ("labels", "features"):
        names = getattr(manifest, field)
        if len(set(names)) != len(names):
            raise ManifestError(f"manifest: {field} must be different from one another")
    if manifest.features and manifest.task != "tabular":
        raise ManifestError(f"manifest: features belong to the task tabular, not to {manifest.task}")


def _check_steps(manifest: Manifest) -> None:
    kinds = [type(step) for step in manifest.preprocessing]
    has_tokenize = Tokenize in kinds
    if manifest.task != "image-classification" and any(kind is not Tokenize for kind in kinds):
        raise ManifestError(f"manifest: image steps in preprocessing need the task image-classification, not {manifest.task}")
    if has_tokenize and (manifest.task != "text-classification" or len(kinds) > 1):
        raise ManifestError("manifest: tokenize must be the only step, in the task text-classification")
    if has_tokenize != (manifest.tokenizer is not None):
        raise ManifestError("manifest: the step tokenize and the field tokenizer need each other")
    if manifest.attention_mask and not has_tokenize:
        raise ManifestError("manifest: attention_mask needs the step tokenize")
    if not has_tokenize:
        _check_order(kinds)
    for place, step in enumerate(manifest.preprocessing):
        _check_numbers(f"manifest: preprocessing[{place}]", step)


def _check_order(kinds: list[type]) -> None:
    """Steps on the image, then on its numbers, then one layout; each kind once, and not both colour modes."""
    ranks = [next(rank for rank, group in enumerate(ORDER) if kind in group) for kind in kinds]
    if ranks != sorted(ranks):
        raise ManifestError(
            "manifest: preprocessing goes in this order: resize, grayscale, rgb, invert; then scale, normalize; then layout"
        )
    if len(set(kinds)) != len(kinds) or {Grayscale, Rgb} <= set(kinds):
        raise ManifestError("manifest: preprocessing takes each step once, and only one of grayscale and rgb")


def _check_numbers(place: str, step: Before) -> None:
    if isinstance(step, Scale) and not math.isfinite(step.by):
        raise ManifestError(f"{place}.by: a finite number is expected")
    if isinstance(step, Normalize):
        if len(step.mean) != len(step.std):
            raise ManifestError(f"{place}: mean and std must have the same length")
        if not all(map(math.isfinite, step.mean + step.std)) or 0 in step.std:
            raise ManifestError(f"{place}: mean must be finite, std finite and not 0")
