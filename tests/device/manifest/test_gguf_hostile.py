"""GGUF files made to break a reader: llama.cpp's own handcrafted kinds, the shapes behind CVEs, and
mutants.
"""

import random
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from device.manifest import ManifestError
from device.manifest.gguf import read_header
from tests.conftest import Rounds
from tests.fakes.bounds import bounds
from tests.fakes.gguf_bytes import (
    ARRAY,
    BOOL,
    NAME,
    SOUND,
    STRING,
    UINT32,
    UINT64,
    array,
    entry,
    gguf,
    tensor,
    text,
    u32,
    u64,
)
from toolchain.errors import ArtifactError
from toolchain.quantize.contents import read_contents

INT32, INT8_TENSOR, F32, I64 = 5, 24, 0, 27
MINUS_ONE = (1 << 64) - 1
HEAD = struct.pack("<I", 3)


def aligned(number: int, kind: int = UINT32) -> bytes:
    return entry("general.alignment", kind, u32(number))


def plain(key: str = "my_key_0") -> bytes:
    return entry(key, UINT32, u32(7))


def one(
    data: int = 512, *, entries: tuple[bytes, ...] = (), alignment: int = 32, **claim: object
) -> bytes:
    """Return a file of one tensor."""
    return gguf([*entries], [tensor(**claim)], data, alignment=alignment)  # type: ignore[arg-type]


HANDCRAFTED: dict[str, tuple[bytes, bool]] = {
    "header, bad magic": (b"GGML" + SOUND[4:], False),
    "header, version 0": (gguf([], [], version=0), False),
    "header, version 1": (gguf([], [], version=1), False),
    "header, version of the future": (gguf([], [], version=4), False),
    "header, 2^64-1 tensors": (b"GGUF" + HEAD + u64(MINUS_ONE) + u64(0), False),
    "header, 2^64-1 entries": (b"GGUF" + HEAD + u64(0) + u64(MINUS_ONE), False),
    "header, empty": (gguf([], []), True),
    "entries, key of 2^64-1 bytes": (
        gguf([u64(MINUS_ONE) + b"my_key_0" + u32(UINT32) + u32(7)], []),
        False,
    ),
    "entries, empty key": (gguf([plain("")], []), False),
    "entries, unknown type": (gguf([entry("my_key_0", 13, b"\7")], []), False),
    "entries, array of unknown type": (
        gguf([entry("my_key_0", ARRAY, array(13, 1, b"\7"))], []),
        False,
    ),
    "entries, key twice": (gguf([plain(), plain()], []), False),
    "entries, alignment 13": (gguf([plain(), aligned(13)], []), False),
    "entries, alignment of another type": (gguf([plain(), aligned(32, INT32)], []), False),
    "entries, sound": (
        gguf(
            [plain(), plain("my_key_1"), entry("s", STRING, text("x")), entry("b", BOOL, b"\1")], []
        ),
        True,
    ),
    "tensors, name too long": (
        one(name="my_tensor_0_with_a_name_that_is_longer_than_ggml_will_hold_in_its_struct"),
        False,
    ),
    "tensors, five dimensions": (one(shape=(64, 2, 1, 1, 1)), False),
    "tensors, dimension -1": (one(shape=(MINUS_ONE, MINUS_ONE)), False),
    "tensors, dimension 0": (one(0, shape=(64, 0)), False),
    "tensors, too many weights": (one(shape=(4 * (2**31 - 1), 4 * (2**31 - 1))), False),
    "tensors, too many bytes": (one(shape=(1533916891, 1533916891), kind=I64), False),
    "tensors, padding wraps": (one(shape=(4, 2**30 - 1, 2**30 + 1)), False),
    "tensors, unknown type": (one(kind=99), False),
    "tensors, offset -1": (one(offset=MINUS_ONE), False),
    "tensors, name twice": (gguf([], [tensor(), tensor(offset=512)], 1024), False),
    "tensors, alignment 13": (one(entries=(aligned(13),)), False),
    "tensors, aligned otherwise than said": (
        gguf([aligned(64)], [tensor(shape=(4,)), tensor("b", offset=32)], 544, alignment=64),
        False,
    ),
    "tensors, sound": (one(), True),
    "tensors, alignment of its own": (one(entries=(aligned(64),), alignment=64), True),
    "data, not enough": (one(511), False),
    "data, alignment 13": (one(entries=(aligned(13),), alignment=13), False),
    "data, aligned otherwise than said": (one(entries=(aligned(64),), alignment=8), False),
    "data, memory size overflows": (
        gguf(
            [],
            [
                tensor(shape=(2**63 - 64,), kind=INT8_TENSOR),
                tensor("b", (2**63 - 64,), INT8_TENSOR, 2**63 - 64),
            ],
            32,
        ),
        False,
    ),
    "data, sound": (gguf([NAME], [tensor(), tensor("b", offset=512)], 1024), True),
}
"""The kinds of llama.cpp's tests/test-gguf.cpp, and whether we accept them.

llama.cpp accepts alignment 1 and dimension 0, and we do not.
"""

SHAPES: dict[str, bytes] = {
    "CVE-2024-39720, a file of four bytes": b"GGUF",
    "CVE-2024-21825, as many entries as make the sum of their sizes wrap": b"GGUF"
    + HEAD
    + u64(0)
    + u64(2**64 // 64 + 1),
    "CVE-2024-21836, as many tensors as make the sum of their sizes wrap": b"GGUF"
    + HEAD
    + u64(2**64 // 128 + 1)
    + u64(0),
    "CVE-2024-23496, a string of 2^64-1 bytes: length + 1 is 0": gguf(
        [entry("a", STRING, u64(MINUS_ONE))], []
    ),
    "CVE-2024-23605, an array whose bytes wrap": gguf(
        [entry("a", ARRAY, array(UINT64, 2**61 + 1, bytes(64)))], []
    ),
    "CVE-2024-21802, dimensions whose product wraps to a little": one(shape=(2**32, 2**32)),
    "CVE-2026-33298, a tensor whose bytes wrap": one(shape=(2**62 // 4, 4, 4)),
    "CVE-2026-7482, a tensor beyond the end of the file": one(offset=2**20),
    "CVE-2026-7482, a tensor larger than the file": one(shape=(64, 2**20)),
    "an alignment of 2^31 in 57 bytes": gguf([aligned(1 << 31)], []),
    "a key that is the array it counts": gguf(
        [entry("a", ARRAY, array(ARRAY, 2**32, array(ARRAY, 2**32, b"")))], []
    ),
    "strings without end": gguf([entry("a", ARRAY, array(STRING, 2**20 + 1, u64(0) * 4096))], []),
    "a negative dimension": one(shape=(2**63, 2)),
    "an offset that wraps with the header's end": one(offset=2**64 - 64),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("kind", HANDCRAFTED)
def test_llama_cpps_handcrafted_kinds_are_taken_or_refused(file: Path, kind: str) -> None:
    raw, sound = HANDCRAFTED[kind]
    file.write_bytes(raw)
    if sound:
        assert read_header(file).size == len(raw)
    else:
        with pytest.raises(ManifestError) as caught:
            read_header(file)
        assert caught.value.code == "bad_gguf"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_behind_the_cves_are_refused_on_board_and_host(file: Path, shape: str) -> None:
    file.write_bytes(SHAPES[shape])
    with bounds(), pytest.raises(ManifestError):
        read_header(file)
    with bounds(), pytest.raises(ArtifactError, match=r"^model\.gguf: "):
        read_contents(file)


EXTREMES = (
    0,
    1,
    2**7,
    2**8 - 1,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
HEADER = SOUND.index(b"b.weight") + 40


def flipped(raw: bytearray, draw: random.Random) -> None:
    if raw:
        raw[draw.randrange(min(HEADER, len(raw)))] ^= 1 << draw.randrange(8)


def overwritten(raw: bytearray, draw: random.Random) -> None:
    at, width = draw.randrange(HEADER), draw.choice((1, 2, 4, 8))
    raw[at : at + width] = draw.choice(
        (draw.randbytes(width), (draw.choice(EXTREMES) % 256**width).to_bytes(width, "little"))
    )


def moved(raw: bytearray, draw: random.Random) -> None:
    start, size, to = draw.randrange(HEADER), draw.randrange(1, 64), draw.randrange(HEADER)
    raw[to:to] = raw[start : start + size]


def taken_out(raw: bytearray, draw: random.Random) -> None:
    start = draw.randrange(HEADER)
    del raw[start : start + draw.randrange(1, 64)]


def cut(raw: bytearray, draw: random.Random) -> None:
    del raw[draw.randrange(len(raw) + 1) :]


def counted_wrong(raw: bytearray, draw: random.Random) -> None:
    """Change one of the counts and lengths that the header begins with."""
    at = draw.choice(
        (
            8,
            16,
            24,
            SOUND.index(b"tokens") + 14,
            SOUND.index(b"many") + 12,
            SOUND.index(b"few") + 11,
        )
    )
    raw[at : at + 8] = u64(draw.choice((*EXTREMES, draw.getrandbits(16), draw.getrandbits(32))))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flipped,
    overwritten,
    moved,
    taken_out,
    cut,
    counted_wrong,
)


@pytest.mark.slow
@pytest.mark.soak(row=7, short=10_000, whole=1_000_000)
def test_mutants_are_read_or_refused_and_nothing_else(file: Path, rounds: Rounds) -> None:
    with file.open("w+b", buffering=0) as stream, bounds():
        for number in rounds:
            signal.setitimer(signal.ITIMER_PROF, 1.0)
            draw, mutant = random.Random(number), bytearray(SOUND)
            for _ in range(1 + number % 3):
                draw.choice(MUTATIONS)(mutant, draw)
            stream.seek(0)
            stream.write(mutant)
            stream.truncate()
            try:
                read_header(file)
                rounds.saw("read")
            except ManifestError as error:
                assert error.code == "bad_gguf"
                rounds.saw("refused")
