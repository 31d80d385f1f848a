"""What the preparation of images and texts is expected to cost, from their headers and lengths."""

import io
import random
import struct
import zlib

import pytest
from PIL import Image

from inference.effort import FIRST_READ, image_size, prepare_us
from inference.engine.errors import InvalidTensor
from inference.engine.manifest import parse_manifest
from inference.engine.steps import read_images
from inference.gateway.friendly import read_predict
from inference.routes import ModelRoute, VersionRoute

pytestmark = pytest.mark.no_servers

SETTINGS = [
    ("RGB", "PNG", {}), ("L", "PNG", {}), ("RGBA", "PNG", {}), ("P", "PNG", {}), ("1", "PNG", {}), ("I;16", "PNG", {}),
    ("RGB", "JPEG", {}), ("L", "JPEG", {}), ("CMYK", "JPEG", {}), ("RGB", "JPEG", {"progressive": True}),
    ("RGB", "JPEG", {"exif": b"Exif\x00\x00" + bytes(60_000), "icc_profile": bytes(200_000), "comment": b"\xff\xc0\xff\xda"}),
    ("RGB", "WEBP", {}), ("RGB", "WEBP", {"lossless": True}), ("RGBA", "WEBP", {}), ("RGB", "WEBP", {"icc_profile": b"x" * 9}),
]  # fmt: skip
MANIFEST = parse_manifest({"task": "image-classification", "preprocessing": [{"step": "resize", "width": 2, "height": 2}]})


def saved(mode, form, size, **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize(("mode", "form", "options"), SETTINGS)
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (1000, 8)])
def test_the_size_of_an_image_is_what_the_decoder_finds_too(mode, form, options, size):
    image = saved(mode, form, size, **options)

    assert image_size(image) == (form, *size)
    assert read_images(MANIFEST, [image]).shape[0] == 1


def test_headers_that_are_cut_or_changed_anywhere_tell_some_size_or_none():
    rng = random.Random(3)
    for mode, form, options in SETTINGS:
        image = saved(mode, form, (40, 30), **options)
        for _ in range(200):
            broken = bytearray(image[: rng.randrange(len(image) + 1)])
            if broken:
                broken[rng.randrange(min(len(broken), 60))] = rng.choice((0, 0xFF, 0xD8, rng.randrange(256)))
            found, width, height = image_size(bytes(broken))
            assert found in ("", form)
            assert min(width, height) >= 0


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*sizes, before: bytes = b"") -> bytes:
    heads = [chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)) for side in sizes]
    pixels = zlib.compress(bytes((sizes[-1] + 1) * sizes[-1]))
    return b"\x89PNG\r\n\x1a\n" + before + b"".join(heads) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def two_framed_jpeg() -> bytes:
    """Its frame header stands behind more segments than are looked at."""
    image = saved("RGB", "JPEG", (64, 64))
    return image[:2] + b"\xff\xfe\x00\x02" * 2000 + image[2:]


@pytest.mark.parametrize("image", [png(8, 2000), png(2000, before=chunk(b"tEXt", b"a\0b")), two_framed_jpeg()])
def test_an_image_that_hides_its_size_from_the_estimate_is_refused_before_it_is_decoded(image):
    with pytest.raises(InvalidTensor, match=r"inputs\[0\] is not a readable image"):
        read_images(MANIFEST, [image])


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded():
    image = saved("RGB", "JPEG", (64, 64), progressive=True)
    scan = image[image.rindex(b"\xff\xda") : -2]

    with pytest.raises(InvalidTensor, match=r"inputs\[0\] is not a readable image"):
        read_images(MANIFEST, [image[:-2] + scan * 50 + image[-2:]])


def test_the_cost_follows_pixels_not_bytes():
    small, large = saved("RGB", "PNG", (8, 8)), saved("RGB", "PNG", (5600, 5600))

    assert len(large) < 200_000
    assert prepare_us([large]) > 200_000
    assert prepare_us([small] * 3) == pytest.approx(3 * prepare_us([small]))
    assert prepare_us([small]) < 1000


def test_the_cost_of_a_text_follows_what_is_read_of_it():
    assert prepare_us(["x" * 200]) > prepare_us(["x" * 100]) > 0
    assert prepare_us(["x" * 1_000_000]) == prepare_us(["x" * FIRST_READ])


def test_many_small_items_are_a_long_call_too():
    small = saved("RGB", "PNG", (1, 1))

    assert prepare_us([small] * 10_000) > 100_000
    assert prepare_us(["a"] * 10_000) > 100_000


def test_a_friendly_call_knows_what_its_items_cost():
    route = ModelRoute("m", "m", "o", "o", is_public=True, task="text-classification")
    version = VersionRoute("v", "1.0.0", "", "ready")

    ask = read_predict(b'{"inputs": ["abc", "d"]}', "application/json", None, route, version)

    assert ask.prepare_us == prepare_us(["abc", "d"]) > 0
