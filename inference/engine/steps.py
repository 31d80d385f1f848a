"""The declared steps before and after a run: files and texts to arrays, scores to labels. Never code of a customer's."""

import base64
import binascii
import io
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from tokenizers import Encoding, Tokenizer

from inference.effort import FIRST_READ, image_size
from inference.engine.errors import DeadlineExceeded, InvalidRequest, InvalidTensor, ModelFailed, TokenizerFailed
from inference.engine.manifest import (
    Grayscale,
    Invert,
    Layout,
    Manifest,
    Normalize,
    Resize,
    Rgb,
    Scale,
    Tokenize,
)
from inference.lanes import Prediction

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 32_000_000  # of a call's images: 96 MB as RGB, 384 MB as float32. A PNG of a few KB can unfold to gigabytes.
UNREADABLE = f"is not a readable image; {', '.join(IMAGE_FORMATS)} are taken"  # Pillow's own words tell of our insides
# What Pillow raises for files that are broken; anything else is our mistake and fails the call as such.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
MAX_TEXT = 1_000_000  # characters of one text
LOOK_AHEAD = 512  # characters behind a token that may change it
MAX_READ = 32_768  # characters that are tokenized at most: as a rule eight for each of the longest `max_length`
STRIP_PIXELS = 500_000  # of a transparent image at a time: 3 ms
MODE_16_BIT = "I;16"

# One thread a batch, since the slots already are the threads; the library would start one per core. It reads this when it runs.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

Floats = npt.NDArray[np.float32]


def load_tokenizer(manifest: Manifest) -> Tokenizer | None:
    """The manifest's tokenizer, cutting and padding to the declared length. Raises ValueError if it is not a usable one."""
    if manifest.tokenizer is None:
        return None
    step = next(step for step in manifest.preprocessing if isinstance(step, Tokenize))
    with _failures("manifest: tokenizer", ValueError):
        tokenizer = Tokenizer.from_str(json.dumps(manifest.tokenizer))
    tokenizer.enable_truncation(step.max_length)
    padding = tokenizer.padding or {}
    tokenizer.enable_padding(
        length=step.max_length, pad_id=padding.get("pad_id", 0), pad_token=padding.get("pad_token", "[PAD]"), direction="right"
    )
    return tokenizer


def tokenize(
    tokenizer: Tokenizer, texts: list[str], *, deadline: float = math.inf
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token ids and attention mask, each (n, max_length) int64. Raises DeadlineExceeded, TokenizerFailed."""
    ids, masks = [], []
    for text in texts:
        encoding = _encode(tokenizer, text, deadline)  # many times as large as its numbers: let go of at once
        ids.append(np.array(encoding.ids, np.int64))
        masks.append(np.array(encoding.attention_mask, np.int64))
    return np.array(ids, np.int64), np.array(masks, np.int64)


def _encode(tokenizer: Tokenizer, text: str, deadline: float) -> Encoding:
    """The kept tokens of `text`, read as far as they need, at most MAX_READ. Raises DeadlineExceeded, TokenizerFailed."""
    length = FIRST_READ
    while True:
        check_deadline(deadline)
        with _failures("the tokenizer could not read the text", TokenizerFailed):
            (encoding,) = tokenizer.encode_batch([text[:length]])  # other threads run meanwhile; `encode` would hold them up
        if length >= min(len(text), MAX_READ) or _is_settled(encoding, length):
            return encoding
        length = min(4 * length, MAX_READ)


@contextmanager
def _failures(what: str, kind: type[Exception]) -> Iterator[None]:
    """The library's failures as `kind`: bare Exceptions, and panics of its Rust code, which are no Exceptions."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(f"{what}: {str(error)[:300]}") from None


def _is_settled(encoding: Encoding, length: int) -> bool:
    """Whether all tokens that are kept are there, and too far from the end of what was read to depend on what follows."""
    return 0 not in encoding.attention_mask and max(end for _, end in encoding.offsets) <= length - LOOK_AHEAD


def read_texts(items: list[Any]) -> list[str]:
    """The texts of a call. Raises InvalidRequest with the item's place."""
    texts = []
    for place, item in enumerate(items):
        if isinstance(item, bytes):
            try:
                item = item.decode()
            except UnicodeDecodeError:
                raise InvalidRequest(f"inputs[{place}] is not text in UTF-8") from None
        if not isinstance(item, str):
            raise InvalidRequest(f"inputs[{place}] must be a text")
        if len(item) > MAX_TEXT:
            raise InvalidRequest(f"inputs[{place}] is longer than {MAX_TEXT} characters")
        texts.append(item)
    return texts


def check_deadline(deadline: float) -> None:
    """Raises DeadlineExceeded once nobody waits any more. `deadline` is in seconds since the epoch."""
    if time.time() >= deadline:
        raise DeadlineExceeded("The deadline passed while the inputs were prepared")


def read_images(manifest: Manifest, items: list[Any], *, deadline: float = math.inf) -> Floats:
    """The images of a call after the declared steps: (n, …) float32.

    Raises InvalidTensor with the item's place, InvalidRequest for too many pixels, DeadlineExceeded.
    """
    pixels = 0
    least = next((step.width * step.height for step in manifest.preprocessing if isinstance(step, Resize)), 0)
    images: list[Image.Image] = []
    for place, item in enumerate(items):  # all headers first: nothing is unfolded of a call that is too large
        with _at(place):
            images.append(open_image(item))
        pixels += max(least, images[-1].width * images[-1].height)  # as a file, or as what the model takes
        if pixels > MAX_PIXELS:
            raise InvalidRequest(f"the images up to inputs[{place}] have {pixels} pixels; a call takes at most {MAX_PIXELS}")
    arrays: list[Floats] = []
    for place, image in enumerate(images):
        check_deadline(deadline)
        with _at(place):
            arrays.append(image_array(manifest, decoded(image)))
        image.close()
        if arrays[-1].shape != arrays[0].shape:
            raise InvalidTensor(f"inputs[{place}] has another size than inputs[0]; the images of one call must be alike")
    return np.stack(arrays)


@contextmanager
def _at(place: int) -> Iterator[None]:
    """A refusal inside says which item it is about."""
    try:
        yield
    except InvalidTensor as error:
        raise InvalidTensor(f"inputs[{place}] {error}") from None


def open_image(item: Any) -> Image.Image:
    """An image of which only the header was read, from a file's bytes or their base64. Raises InvalidTensor.

    It has the size that it was expected to have when the call's time was estimated.
    """
    if isinstance(item, str):
        item = _from_base64(item)
    if not isinstance(item, bytes):
        raise InvalidTensor("must be an image file, as base64 or multipart")
    try:
        image = Image.open(io.BytesIO(item), formats=IMAGE_FORMATS)
    except Image.DecompressionBombError:  # Pillow's own limit, above ours
        raise InvalidTensor(f"has too many pixels; a call takes at most {MAX_PIXELS}") from None
    except BROKEN:
        raise InvalidTensor(UNREADABLE) from None
    if image_size(item)[1:] != image.size:
        raise InvalidTensor(UNREADABLE)
    return image


def decoded(image: Image.Image) -> Image.Image:
    """The pixels, mode L or RGB. Raises InvalidTensor."""
    try:
        image.load()
        return _flat(image)
    except BROKEN:
        raise InvalidTensor(UNREADABLE) from None


def _from_base64(text: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidTensor("is not base64") from None


def _flat(image: Image.Image) -> Image.Image:
    """Without transparency (white behind it), palette or 16 bits."""
    if image.mode.startswith(MODE_16_BIT):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # Pillow's own conversion clips instead of scaling
    if image.has_transparency_data:
        image = _on_white(image.convert("RGBA"))
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """In strips, since Pillow lets no other thread run while it joins two layers."""
    flat = Image.new("RGB", image.size)
    height = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, height):
        strip = image.crop((0, top, image.width, min(top + height, image.height)))
        flat.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), (0, top))
    return flat


def image_array(manifest: Manifest, image: Image.Image) -> Floats:
    """One image after the declared steps, without the leading axis, float32. Values are 0 to 255 before `scale`."""
    steps = manifest.preprocessing
    if not any(isinstance(step, Grayscale) for step in steps):
        image = image.convert("RGB")
    for step in steps:
        if isinstance(step, Resize):
            image = image.resize((step.width, step.height), Image.Resampling.BILINEAR)
        elif isinstance(step, Grayscale | Rgb):
            image = image.convert("L" if isinstance(step, Grayscale) else "RGB")
        elif isinstance(step, Invert):
            image = ImageOps.invert(image)
    array = np.asarray(image, np.float32)
    array = array.reshape(*array.shape[:2], -1)  # (height, width, channels)
    for step in steps:
        if isinstance(step, Scale):
            array = array * np.float32(step.by)
        elif isinstance(step, Normalize):
            array = _normalize(array, step)
        elif isinstance(step, Layout):
            array = _lay_out(array, step)
    return array


def _normalize(array: Floats, step: Normalize) -> Floats:
    if len(step.mean) not in (1, array.shape[2]):
        raise InvalidTensor(f"has {array.shape[2]} channels, but the model's step normalize is declared for {len(step.mean)}")
    mean, std = (np.array(values, np.float32) for values in (step.mean, step.std))
    return np.asarray((array - mean) / std, np.float32)


def _lay_out(array: Floats, step: Layout) -> Floats:
    if step.to == "NCHW":
        return np.ascontiguousarray(array.transpose(2, 0, 1))
    return array.reshape(-1) if step.to == "flat" else array


def softmax(scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Over the last axis, in float64 so that large scores neither overflow nor round to a sum away from 1."""
    with np.errstate(invalid="ignore"):  # what is not finite stays so, and is told by `is_finite`
        exponents = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True, initial=-np.inf))
        return np.asarray(exponents / exponents.sum(axis=-1, keepdims=True))


def best_labels(labels: list[str], scores: npt.NDArray[Any], top: int) -> list[list[Prediction]]:
    """Per row of `scores`, (n, k): the `top` best labels with their scores, best first; the earlier label at a tie.

    Without labels a column's number is its label. Raises ModelFailed if there is not one label per column.
    """
    if scores.ndim != 2 or (labels and scores.shape[1] != len(labels)):
        columns = f"one column for each of {len(labels)} labels" if labels else "(n, k)"
        raise ModelFailed(f"the model's scores have shape {list(scores.shape)}; {columns} is expected")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    confidences = np.take_along_axis(scores, best, axis=1).tolist()
    return [
        [
            Prediction(labels[column] if labels else str(column), confidence)
            for column, confidence in zip(columns, row, strict=True)
        ]
        for columns, row in zip(best.tolist(), confidences, strict=True)
    ]
