"""One flipped bit, anywhere in a pushed file or in a transfer: it is never accepted."""

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from device.errors import DeviceError
from device.manifest import delta
from device.patch import Rebuilt, rebuild
from device.store import RELEASES
from tests.conftest import Rounds
from tests.fakes.attacks import ACCEPTED, Board, Keys
from tests.fakes.gguf_bytes import SOUND
from tests.fakes.updates import make_update
from toolchain.progress import Silent
from toolchain.push.delta import make, old_file

MODEL = "model.gguf"
Place = Callable[[bytes], range]


def field(name: str, after: int, size: int) -> Place:
    """The bytes that stand so far behind a word."""

    def found(raw: bytes) -> range:
        start = raw.index(name.encode()) + len(name) + after
        return range(start, start + size)

    return found


def at(first: int, size: int) -> Place:
    return lambda _: range(first, first + size)


END = SOUND.index(b"b.weight") + len(b"b.weight") + 4 + 16 + 4 + 8
CLASSES: dict[str, tuple[str, Place]] = {
    "manifest: version": ("manifest.json", field('"version": ', 1, 1)),
    "manifest: counter": ("manifest.json", field('"counter": ', 0, 1)),
    "manifest: digest": ("manifest.json", field('"sha256": ', 1, 64)),
    "manifest: path": ("manifest.json", field('"path": ', 1, 10)),
    "manifest: anywhere": ("manifest.json", lambda raw: range(len(raw))),
    "signature": (
        "manifest.json.sig",
        lambda raw: range(raw.index(b"\n") + 1, raw.rindex(b"\n-----END") - 4),
    ),
    "gguf: magic": (MODEL, at(0, 4)),
    "gguf: version": (MODEL, at(4, 4)),
    "gguf: number of tensors": (MODEL, at(8, 8)),
    "gguf: number of entries": (MODEL, at(16, 8)),
    "gguf: length of a key": (MODEL, at(24, 8)),
    "gguf: type of a value": (MODEL, field("general.name", 0, 4)),
    "gguf: length of an array": (MODEL, field("tokens", 8, 8)),
    "gguf: dimensions": (MODEL, field("b.weight", 4, 16)),
    "gguf: offset": (MODEL, field("b.weight", 24, 8)),
    "gguf: padding": (MODEL, lambda _: range(END, (END + 63) // 64 * 64)),
    "gguf: weights": (MODEL, lambda raw: range((END + 63) // 64 * 64, len(raw))),
    "tokenizer": ("tokenizer.json", lambda raw: range(len(raw))),
    "template": ("chat_template.jinja", lambda raw: range(len(raw))),
}


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """A board onto which its owner brought a signed release with a small model."""
    folder = tmp_path_factory.mktemp("flips")
    made = Board(folder / "board", Keys(folder / "keys"))
    (made.folders[RELEASES] / MODEL).write_bytes(SOUND)
    (made.folders[RELEASES] / "tokenizer.json").write_text('{"version": "1.0", "truncation": null}')
    made.list_files()
    made.sign(RELEASES)
    made.arrive()
    return made


@pytest.mark.slow
@pytest.mark.soak(row=5, short=3 * len(CLASSES), whole=100 * len(CLASSES))
def test_a_flipped_bit_in_what_is_on_the_board_is_refused(board: Board, rounds: Rounds) -> None:
    assert board.verdict() == ACCEPTED
    store, there = board.store, board.there(RELEASES)
    for number in rounds:
        name, place = list(CLASSES.values())[number % len(CLASSES)]
        sound = (there / name).read_bytes()
        spoilt, draw = bytearray(sound), random.Random(number)
        spoilt[draw.choice(place(sound))] ^= 1 << draw.randrange(8)
        (there / name).write_bytes(spoilt)
        with pytest.raises(DeviceError) as caught:
            board.check()
        assert name.removesuffix(".sig").split(".")[0] in caught.value.message or name.endswith(
            ".sig"
        )
        (there / name).write_bytes(sound)
        rounds.saw(f"{list(CLASSES)[number % len(CLASSES)]}: refused")
    assert board.verdict() == ACCEPTED
    assert store.current() is None


@pytest.mark.slow
@pytest.mark.soak(row=5, short=60, whole=2000)
def test_a_flipped_bit_in_an_update_under_way_is_refused(tmp_path: Path, rounds: Rounds) -> None:
    old, new = make_update(tmp_path)
    patch, whole = (
        make(old_file(old, "0" * 64), new, {}, Silent()),
        hashlib.sha256(new.read_bytes()).digest(),
    )
    frames = list(patch.chunks(patch.frames))
    sound, base = b"".join(frames), os.open(old, os.O_RDONLY)
    heads = [sum(map(len, frames[:n])) for n in range(len(frames))]
    for number in rounds:
        draw, raw = random.Random(number), bytearray(sound)
        place = (
            draw.choice(heads) + draw.randrange(delta.FRAME.size)
            if number % 2
            else draw.randrange(len(raw))
        )
        raw[place] ^= 1 << draw.randrange(8)
        assert (
            outcome(bytes(raw), base, new.stat().st_size, tmp_path / "made", whole)
            != "something else was made"
        )
        rounds.saw("a bit of a frame's header" if number % 2 else "a bit of all frames")
    os.close(base)


class Sent:
    """Frames as they arrive; at their end the session is cut."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._at = raw, 0

    def exactly(self, size: int) -> bytes:
        self._at += size
        if self._at > len(self._raw):
            raise DeviceError("cut", "the session ended within a message")
        return self._raw[self._at - size : self._at]


def outcome(raw: bytes, base: int, size: int, file: Path, digest: bytes) -> str:
    """Return the board's answer to frames.

    A spare bit, which changes neither what is made nor what is read, is not a difference.
    """
    out = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    try:
        made = Rebuilt(out, 0, 0)
        if rebuild(Sent(raw), base, made, size) is not None:
            return "the old file is taken for damaged"
        return "something else was made" if made.total.digest() != digest else "the same bytes"
    except DeviceError as error:
        return error.code
    finally:
        os.close(out)
