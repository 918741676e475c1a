"""The golden with a picture: a small one of ours, which a board must see as this computer does.

It is drawn here, so that no picture of anybody travels, and it is the same for every model.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from device.manifest.moment import RENDERED_AT
from device.manifest.pictures import PARTS, PICTURE, digest_of, has_pictures, to_url
from toolchain.evaluate.answers import Answered
from toolchain.evaluate.reference import Reference
from toolchain.figures import Measured
from toolchain.progress import Reporter
from toolchain.runtime.scoring import Scorer

QUESTION = "What is in this picture?"
MAX_TOKENS = 32
"""Longest answer of the golden, in tokens."""
MAX_GOLDEN_CHARS = (64 << 10) * 4 // 3
"""Characters of the `data:` URL of a golden's picture: 64 KiB."""
COMPARED = 64
"""Held-out questions about pictures that the reference is asked too, at most."""
_SIDE = 64


def seen_golden(child: Scorer, out: Path) -> dict[str, Any] | None:
    """Write the picture into `out`, ask about it, and return the golden.

    None, and no picture, if the model says nothing.
    """
    image = drawn()
    name = f"picture-{digest_of(image)[:12]}.png"
    asked = {"role": "user", "content": QUESTION}
    shown = {**asked, PARTS: [{PICTURE: to_url(image)}, QUESTION]}
    answer = child.answer([shown], MAX_TOKENS)
    if not answer.tokens:
        return None
    (out / name).write_bytes(image)
    return {
        "messages": [{**asked, PARTS: [{PICTURE: name}, QUESTION]}],
        "prompt_tokens": answer.prompt,
        "tokens": answer.tokens,
        "finish_reason": "stop" if answer.stopped else "length",
        "now": RENDERED_AT,
    }


def seen_alike(reference: Reference, answers: Sequence[Answered], report: Reporter) -> Measured:
    """Return the share of answers about pictures that are the reference's, token for token."""
    asked = [each for each in answers if has_pictures(each.messages)]
    asked = asked[:COMPARED]
    same = 0
    for number, each in enumerate(asked, 1):
        expected = reference.answers_about(each.messages[:-1], max(1, len(each.tokens)))
        same += expected == list(each.tokens)
        report.step("compare what is seen", number, len(asked), "pictures")
    if not asked:
        return Measured()
    return Measured(pictures=len(asked), picture_agreement=round(same / len(asked), 4))


def is_small(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether the pictures of a conversation are small enough to travel as a golden."""
    return all(len(message.get(PICTURE, "")) <= MAX_GOLDEN_CHARS for message in messages)


def drawn() -> bytes:
    """Return a PNG of 64 × 64 pixels: a red disc on a board of green, with a row of pins."""
    rows = b"".join(
        b"\0" + b"".join(_pixel(across, down) for across in range(_SIDE)) for down in range(_SIDE)
    )
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in chunks)


def _pixel(across: int, down: int) -> bytes:
    if (across - 22) ** 2 + (down - 24) ** 2 < 100:
        return b"\xe0\x20\x20"
    if down // 4 in (12, 13) and across % 6 < 3:
        return b"\xd8\xb8\x40"
    return b"\x10\x70\x38"


def _chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk (PNG specification, 5.3)."""
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
