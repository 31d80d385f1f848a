"""What it costs to prepare a friendly call's items, estimated from their sizes alone: nothing is decoded here.

The gateway estimates, and the estimate travels with the call, so that a lane holds no more of such work than of any other
and a worker knows what is long before it begins. The pixels are those that an image's header tells; the engine refuses an image
of which the decoder finds another size, so no image can pass for a smaller one.
"""

from collections.abc import Sequence

FIRST_READ = 2048  # characters of a text that are tokenized first, which is enough for most
US_PER_TEXT, US_PER_IMAGE = 30.0, 100.0  # measured, for the smallest
US_PER_CHARACTER = 1.0  # measured: 0.9 for one token per character, less for words
US_PER_PIXEL = {"PNG": 0.012, "JPEG": 0.005, "WEBP": 0.012}  # measured: 0.010, 0.0035 (progressive 0.0075), 0.011
MAX_SEGMENTS = 1000  # of a JPEG before its pixels; any camera's has less than 300
MAX_SCANS = 40  # of a JPEG, each of which passes over all pixels; a progressive one has about ten
BARE = frozenset((0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)))  # JPEG markers without a segment behind them
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xDE}  # those whose segment tells the size
START_OF_SCAN = 0xDA


def prepare_us(items: Sequence[bytes | str]) -> float:
    """Expected microseconds to make the model's input of image files (bytes) and texts (str)."""
    return sum([_text_us(item) if isinstance(item, str) else _image_us(item) for item in items])


def _text_us(text: str) -> float:
    return US_PER_TEXT + min(len(text), FIRST_READ) * US_PER_CHARACTER


def _image_us(image: bytes) -> float:
    form, width, height = image_size(image)
    return US_PER_IMAGE + width * height * US_PER_PIXEL.get(form, 0.0)


def image_size(image: bytes) -> tuple[str, int, int]:
    """Format, width and height as the header tells them; ("", 0, 0) if it is none of a PNG, JPEG or WEBP."""
    if image[:8] == b"\x89PNG\r\n\x1a\n" and image[12:16] == b"IHDR" and len(image) >= 24:
        return "PNG", int.from_bytes(image[16:20]), int.from_bytes(image[20:24])
    if image[:3] == b"\xff\xd8\xff":
        return "JPEG", *_jpeg_size(image)
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP" and len(image) >= 30:
        return "WEBP", *_webp_size(image)
    return "", 0, 0


def _webp_size(image: bytes) -> tuple[int, int]:
    """RFC 9649, sections 2.5 to 2.7."""
    kind = image[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(image[24:27], "little"), 1 + int.from_bytes(image[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(image[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(image[26:28], "little") & 0x3FFF, int.from_bytes(image[28:30], "little") & 0x3FFF
    return 0, 0


def _jpeg_size(image: bytes) -> tuple[int, int]:
    """That of the last frame header before the pixels. ITU-T T.81, annex B; 0 × 0 if it is not told, or hard to find.

    Behind it come at most MAX_SCANS: a hundred bytes make another.
    """
    if image.count(bytes((0xFF, START_OF_SCAN))) > MAX_SCANS:
        return 0, 0
    size = (0, 0)
    at = 2
    for _ in range(MAX_SEGMENTS):
        at = image.find(b"\xff", at) + 1
        while at < len(image) and image[at] == 0xFF:  # fill bytes
            at += 1
        if not 0 < at < len(image):
            break
        marker = image[at]
        at += 1
        if marker == START_OF_SCAN:
            return size
        if marker in FRAMES:
            size = int.from_bytes(image[at + 5 : at + 7]), int.from_bytes(image[at + 3 : at + 5])
        if marker and marker not in BARE:
            at += int.from_bytes(image[at : at + 2])
    return 0, 0
