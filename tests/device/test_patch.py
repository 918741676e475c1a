"""A new file made of an old one and a patch: the host's frames through the board's own code."""

import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from device.errors import DeviceError
from device.manifest import delta
from device.manifest.gguf import TYPES
from device.patch import Rebuilt, add, difference, rebuild
from tests.fakes.updates import make_update
from toolchain.progress import Silent
from toolchain.push import coding
from toolchain.push.delta import Patch, make, old_file

NUMBERS = {name: number for number, (name, _, _) in TYPES.items()}


class Frames:
    """Frames in memory, as a session hands them out."""

    def __init__(self, raw: bytes) -> None:
        self._raw = io.BytesIO(raw)

    def exactly(self, size: int) -> bytes:
        taken = self._raw.read(size)
        assert len(taken) == size, "the board asks for more than was sent"
        return taken

    def rest(self) -> bytes:
        return self._raw.read()


@pytest.fixture(scope="module")
def update(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Patch]]:
    """Yield an old model file and the patch that makes the new one of it."""
    old, new = make_update(tmp_path_factory.mktemp("update"))
    yield old, make(old_file(old, "0" * 64), new, {}, Silent())


def apply(
    old: Path, out: Path, raw: bytes, size: int, *, at: int = 0, checked: int = 0
) -> int | None:
    """Rebuild `out` from byte `at` on and check that every frame was read."""
    source, base, made = (
        Frames(raw),
        os.open(old, os.O_RDONLY),
        os.open(out, os.O_RDWR | os.O_CREAT | os.O_APPEND),
    )
    try:
        os.ftruncate(made, at)
        wrong_at = rebuild(source, base, Rebuilt(made, at, checked), size)
    finally:
        os.close(base)
        os.close(made)
    assert source.rest() == b""
    return wrong_at


@pytest.mark.parametrize("kind", TYPES.values(), ids=[name for name, _, _ in TYPES.values()])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.3, 1.0])
def test_a_difference_added_to_the_old_blocks_gives_the_new_ones(
    kind: tuple[str, int, int], share: float
) -> None:
    name, _, block = kind
    draw = np.random.default_rng(5)
    old = draw.integers(0, 256, 600 * block, np.uint8)
    new = np.where(draw.random(old.size) < share, draw.integers(0, 256, old.size, np.uint8), old)
    payload = coding.difference(old, new, NUMBERS[name])
    there = difference(payload, NUMBERS[name], old.size)
    assert add(old.tobytes(), there, NUMBERS[name]) == new.tobytes()
    assert len(payload) < min(1.02, 2.5 * share) * old.size + 2000


@pytest.mark.parametrize("kind", TYPES)
def test_the_fields_of_a_type_are_its_block(kind: int) -> None:
    assert (
        sum(size for size, _ in delta.fields(kind))
        == delta.block_bytes(kind)
        == len(delta.high_bits(kind))
    )


def test_a_number_that_moved_by_one_is_one_symbol_whatever_its_bits() -> None:
    """0x0FFF to 0x1000, and back: all sixteen bits change, but only the lowest byte of the
    difference is not zero.
    """
    for before, after in ((0x0FFF, 0x1000), (0x1000, 0x0FFF)):
        old, new = (
            np.frombuffer(struct.pack("<H", number) * 64, np.uint8) for number in (before, after)
        )
        low, high = coding._number_planes(old.reshape(-1, 2), new.reshape(-1, 2), 2)
        assert (set(low), set(high)) == ({np.uint8(after - before & 255)}, {np.uint8(0)})


def test_a_file_is_rebuilt_byte_for_byte(update: tuple[Path, Patch], tmp_path: Path) -> None:
    old, patch = update
    raw = b"".join(patch.chunks(patch.frames))
    assert apply(old, tmp_path / "made", raw, patch.new.stat().st_size) is None
    assert (tmp_path / "made").read_bytes() == patch.new.read_bytes()
    assert len(raw) == patch.missing_bytes(0) < 0.12 * patch.whole_tensor_bytes


def test_a_patch_goes_on_at_any_byte_and_sends_at_most_one_frame_again(
    update: tuple[Path, Patch], tmp_path: Path
) -> None:
    old, patch = update
    whole, ends = patch.new.read_bytes(), sorted({frame.at + frame.made for frame in patch.frames})
    for there in [0, 1, *ends, *(end - 1 for end in ends), *(end + 1 for end in ends[:-1])]:
        offset, checked, frames = patch.resumed(there)
        assert checked <= offset <= there
        made = tmp_path / "made"
        made.write_bytes(whole[:there])
        assert (
            apply(old, made, b"".join(patch.chunks(frames)), len(whole), at=offset, checked=checked)
            is None
        )
        assert made.read_bytes() == whole
        again = [
            frame.payload
            for frame in frames
            if frame.at + frame.made <= there and frame.kind != delta.CHECK
        ]
        assert again == []


@pytest.mark.parametrize("spoil", ["flip", "cut"])
def test_a_damaged_old_file_ends_the_new_one_before_the_tensor_and_the_rest_comes_whole(
    update: tuple[Path, Patch], tmp_path: Path, spoil: str
) -> None:
    old, patch = update
    broken, made, whole = tmp_path / "broken", tmp_path / "made", patch.new.read_bytes()
    tensor = old_file(old, "").tensors["blk.1.ffn_up.weight"]
    raw = bytearray(old.read_bytes())
    raw[tensor.offset + 5] ^= 1
    broken.write_bytes(raw if spoil == "flip" else raw[: tensor.offset + 5])
    wrong_at = apply(broken, made, b"".join(patch.chunks(patch.frames)), len(whole))
    assert wrong_at == tensor.offset + len(whole) - len(raw)
    assert made.read_bytes()[:wrong_at] == whole[:wrong_at]
    if spoil == "flip":
        mended = patch.without(wrong_at, Silent())
        assert (
            apply(
                broken,
                made,
                b"".join(mended.chunks(mended.frames)),
                len(whole),
                at=wrong_at,
                checked=wrong_at,
            )
            is None
        )
        assert made.read_bytes() == whole


def frame(
    kind: int, payload: bytes = b"", *, made: int = 0, tensor_type: int = 0, first: int = 0
) -> bytes:
    return delta.FRAME.pack(kind, tensor_type, len(payload), made, first) + payload


def section(body: bytes, *, run: int = 0, common: bytes = b"", rare: bytes = b"") -> bytes:
    deflated = coding.packed(body)
    return delta.SECTION.pack(run, len(common), len(rare), len(deflated)) + common + rare + deflated


Q8_0 = NUMBERS["Q8_0"]
NONSENSE: dict[str, tuple[bytes, str]] = {
    "unknown kind": (frame(5, made=8), "frame of kind 5 with 0 bytes for 8"),
    "nothing made": (frame(delta.PLAIN), "frame of kind 1 with 0 bytes for 0"),
    "more than the file": (frame(delta.COPY, made=35), "frame of kind 0 with 0 bytes for 35"),
    "2^60 bytes": (
        frame(delta.PLAIN, made=1 << 60),
        "frame of kind 1 with 0 bytes for 1,152,921,504,606,846,976",
    ),
    "endless payload": (
        delta.FRAME.pack(delta.PACKED, 0, 1 << 31, 8, 0),
        "frame of kind 2 with 2,147,483,648 bytes for 8",
    ),
    "beyond any file": (
        frame(delta.COPY, made=34, first=1 << 63),
        "frame of kind 0 with 0 bytes for 34",
    ),
    "half a block": (
        frame(delta.ADD, made=17, tensor_type=Q8_0),
        "frame of kind 3 with 0 bytes for 17",
    ),
    "no such type": (
        frame(delta.ADD, made=34, tensor_type=99),
        "frame of kind 3 with 0 bytes for 34",
    ),
    "short digest": (frame(delta.CHECK, b"x"), "frame of kind 4 with 1 bytes for 0"),
    "too few": (
        frame(delta.PLAIN, b"xy", made=3),
        "the patch makes no sense: 2 bytes came where 3 belong",
    ),
    "not deflated": (
        frame(delta.PACKED, b"\xff" * 9, made=3),
        "the patch makes no sense: a section cannot be inflated",
    ),
    "bomb": (
        frame(delta.PACKED, coding.packed(bytes(1 << 20)), made=3),
        "the patch makes no sense: a section is cut or too long",
    ),
    "cut deflate": (
        frame(delta.PACKED, coding.packed(b"abc" * 5)[:-3], made=15),
        "the patch makes no sense: a section is cut or too long",
    ),
    "no section": (
        frame(delta.ADD, made=34, tensor_type=Q8_0),
        "the patch makes no sense: 0 bytes came where 8 belong",
    ),
    "short section": (
        frame(delta.ADD, section(b""), made=34, tensor_type=Q8_0),
        "the patch makes no sense: 0 bytes came where 1 belong",
    ),
    "too many words": (
        frame(delta.ADD, section(b"", run=255, common=b"\1\2"), made=34, tensor_type=Q8_0),
        "the patch makes no sense: a section has too many words",
    ),
    "no such word": (
        frame(delta.ADD, section(b"\xff", run=1, common=b"\1"), made=34, tensor_type=Q8_0),
        "the patch makes no sense: a token stands for nothing",
    ),
    "a bomb of words": (
        frame(delta.ADD, section(b"\4", run=200, common=b"\1"), made=34, tensor_type=Q8_0),
        "the patch makes no sense: a section is longer than its field",
    ),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_frames_that_make_no_sense_are_refused(
    update: tuple[Path, Patch], tmp_path: Path, case: str
) -> None:
    raw, message = NONSENSE[case]
    with pytest.raises(DeviceError) as caught:
        apply(update[0], tmp_path / "made", raw, 34)
    assert (caught.value.code, caught.value.message) == ("bad_patch", message)


def test_the_nibbles_of_a_section_are_nibbles(update: tuple[Path, Patch], tmp_path: Path) -> None:
    scales = section(b"\0") + section(b"\0")
    raw = frame(
        delta.ADD,
        scales + section(b"", run=1, common=b"\x10"),
        made=18,
        tensor_type=NUMBERS["Q4_0"],
    )
    with pytest.raises(DeviceError, match="a section has too many words"):
        apply(update[0], tmp_path / "made", raw, 34)
