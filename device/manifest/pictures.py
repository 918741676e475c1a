"""Bounds of pictures: kind, bytes and pixels, read in a file's header before anything decodes it.

Host and board ask alike: the host before it sends a picture, the board before it decodes one.
Standard library only, Python 3.10 up.
"""

import base64
import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from device.manifest.fields import ManifestError

MAX_BYTES = 2 << 20
"""Bytes of a picture's file."""
MAX_PIXELS = 4 << 20
"""Pixels of a picture."""
MAX_RATIO = 32
"""How many times one side may be longer than the other: of less a tile has no whole pixel."""
MAX_PICTURES = 4
"""Pictures in one conversation."""
PICTURE = "picture"
"""Field of a stored question with the picture that comes before its text, as a `data:` URL."""
PARTS = "parts"
"""Field of a message with pictures: its texts and the bytes of its pictures, in their order."""
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_READABLE_FRAMES = (0xC0, 0xC1, 0xC2)
"""JPEG markers of frames that are decoded: baseline, extended and progressive, Huffman-coded."""
_OTHER_FRAMES = {*range(0xC3, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""JPEG markers of frames that are not: lossless, hierarchical and arithmetic-coded."""
_ALONE = {0x01, *range(0xD0, 0xD9)}
"""JPEG markers without a length."""


@dataclass(frozen=True)
class Size:
    """What the header of a picture says."""

    width: int
    height: int


def digest_of(image: bytes) -> str:
    """Return the sha256 of a picture's bytes, in hex: what it is known by."""
    return hashlib.sha256(image).hexdigest()


def check(image: bytes) -> Size:
    """Return the size of a picture within bounds; raise ManifestError `bad_picture`."""
    if len(image) > MAX_BYTES:
        problem = f"the picture has {len(image):,} bytes, at most {MAX_BYTES:,} are read"
        raise ManifestError("bad_picture", problem)
    size = _size(image)
    if size is None:
        raise ManifestError("bad_picture", "the picture is not a whole JPEG or PNG file")
    if not 0 < size.width * size.height <= MAX_PIXELS:
        pixels = f"{size.width} × {size.height} pixels"
        problem = f"the picture has {pixels}, at most {MAX_PIXELS:,} are read"
        raise ManifestError("bad_picture", problem)
    if max(size.width, size.height) > MAX_RATIO * min(size.width, size.height):
        pixels = f"{size.width} × {size.height} pixels"
        problem = f"the picture has {pixels}: one side is more than {MAX_RATIO} times the other"
        raise ManifestError("bad_picture", problem)
    return size


def has_pictures(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether stored messages are about pictures."""
    return any(message.get(PICTURE) or message.get(PARTS) for message in messages)


def to_url(image: bytes) -> str:
    """Return a picture as a `data:` URL."""
    kind = "png" if image.startswith(_PNG) else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _size(image: bytes) -> "Size | None":
    if image.startswith(_PNG):
        return _png_size(image)
    return _jpeg_size(image) if image.startswith(_JPEG) else None


def _png_size(image: bytes) -> "Size | None":
    """Return the size in a PNG's first chunk (PNG specification, 11.2.2)."""
    if len(image) < 33 or image[8:16] != b"\x00\x00\x00\rIHDR":
        return None
    return Size(*struct.unpack(">II", image[16:24]))


def _uncut(image: bytes, at: int, size: Size) -> Size:
    """Return the size of a JPEG that has an end behind its scan; raise ManifestError otherwise.

    Decoders fill what is missing with grey; data of a scan never looks like the end (B.1.1.5).
    """
    if image.find(b"\xff\xd9", at) < 0:
        raise ManifestError("bad_picture", "the picture is cut short: the JPEG file has no end")
    return size


def _jpeg_size(image: bytes) -> "Size | None":
    """Return the size in a JPEG's only frame (ITU-T T.81, B.2.2).

    Raise ManifestError for a file that was cut.
    """
    at, found = 2, None
    while at + 4 <= len(image):
        if image[at] != 0xFF:
            return None
        marker = image[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        if marker == 0xDA and found:  # the scan begins: what comes behind is its data
            return _uncut(image, at, found)
        if marker in (0xDA, 0xD9):
            return None
        if marker in _OTHER_FRAMES or (marker in _READABLE_FRAMES and found):
            return None
        (length,) = struct.unpack(">H", image[at + 2 : at + 4])
        if marker in _READABLE_FRAMES:
            if length < 8 or at + 9 > len(image):
                return None
            height, width = struct.unpack(">HH", image[at + 5 : at + 9])
            found = Size(width, height)
        if length < 2:
            return None
        at += 2 + length
    return None
