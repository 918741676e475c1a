"""The split of entries by each entry's own text and the seed.

Nothing else decides, so that other entries may come and go.
"""

import hashlib
import unicodedata
from collections.abc import Sequence

from device.manifest.pictures import PICTURE
from toolchain.ingest.entries import Messages
from toolchain.recipe import DataSpec
from toolchain.tool_use import said

DROPPED, LEFT_OUT, LEARNED, HELD_OUT = range(4)
"""What becomes of a phrasing; of `LEFT_OUT` ones a round replays none."""


def question_key(messages: Messages) -> str:
    """Return what repeated questions share: all but the answer, without case, spaces, end marks."""
    return plain_key("\0".join(_asked(messages)))


def question_of(messages: Messages) -> str:
    """Return all that was said before the answer, without the system prompt."""
    return "\n".join(_asked(messages))


def _asked(messages: Messages) -> list[str]:
    """Return what was said before the answer; a picture is told by its digest."""
    asked = [message for message in messages[:-1] if message["role"] != "system"]
    seen = [hashlib.sha256(each[PICTURE].encode()).hexdigest() for each in asked if PICTURE in each]
    return [*seen, *map(said, asked)]


def plain_key(text: str) -> str:
    """Return a text without case, spaces and end marks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(" ?!.。")


def key_digest(key: str) -> int:
    """Return 64 bits of a key: among a hundred million of them two are the same by accident with a
    probability of 0.0003."""
    content = key.encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def draw(seed: int, key: str, purpose: str = "") -> int:
    """Return 64 bits that are fixed by the seed and a question's key."""
    hashed = hashlib.sha256(f"{purpose}{seed}\0{key}".encode()).digest()
    return int.from_bytes(hashed[:8], "big")


def chosen(file: str, spec: DataSpec, draws: Sequence[int], replays: Sequence[int]) -> list[int]:
    """Return what becomes of each phrasing of an entry, by what was drawn for them.

    What is held out stays so, whatever the round.
    """
    states = _choose(file, spec, draws)
    # Drawn apart from what is held out, which is drawn by the same question.
    if file in spec.newest or spec.replay >= 1 or _fraction(replays[0]) < spec.replay:
        return states
    return [LEFT_OUT if state == LEARNED else state for state in states]


def _choose(file: str, spec: DataSpec, draws: Sequence[int]) -> list[int]:
    count = len(draws)
    if spec.held_out:
        return [HELD_OUT if file in spec.held_out else LEARNED] * count
    if spec.hold_out == "conversation":
        is_out = _fraction(draws[0]) < spec.held_out_share
        return [HELD_OUT if is_out else LEARNED] * count
    if count == 1:
        return [LEARNED]
    held = min(range(count), key=lambda at: _fraction(draws[at]))
    return [HELD_OUT if at == held else LEARNED for at in range(count)]


def _fraction(drawn: int) -> float:
    """Return a number in [0, 1)."""
    return drawn / 2**64
