"""The check of a GGUF header: what a sound file contains, and one sentence for each hostile
fault.
"""

import hashlib
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from device.manifest import ManifestError
from device.manifest.gguf import TYPES, Array, read_header, tensor_digests
from tests.fakes.gguf_bytes import (
    ARRAY,
    BOOL,
    NAME,
    Q8_0,
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


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    """Write bytes as `model.gguf`."""

    def write(raw: bytes) -> Path:
        file = tmp_path / "model.gguf"
        file.write_bytes(raw)
        return file

    return write


def fault(file: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        read_header(file)
    assert caught.value.code == "bad_gguf"
    return str(caught.value)


def test_a_sound_header_is_read(written: Callable[[bytes], Path]) -> None:
    header = read_header(written(SOUND))
    assert header.metadata == {
        "general.name": "tiny ☕",
        "general.alignment": 64,
        "flag": True,
        "few": (7, 8),
        "tokens": Array(STRING, 100),
        "many": Array(UINT64, 100),
    }
    assert [(t.name, t.type, t.shape, t.size) for t in header.tensors] == [
        ("a", "F32", (64, 2), 512),
        ("b.weight", "Q8_0", (32, 3), 102),
    ]
    assert header.tensors[1].offset - header.tensors[0].offset == 512
    assert header.size == len(SOUND)


def test_the_padding_behind_the_last_tensor_may_be_left_out(
    written: Callable[[bytes], Path],
) -> None:
    assert len(read_header(written(SOUND[: -(128 - 102)])).tensors) == 2


def test_a_file_without_tensors_is_a_header_alone(written: Callable[[bytes], Path]) -> None:
    assert read_header(written(gguf([NAME], []))).tensors == ()


def test_digests_are_those_of_each_tensors_bytes(written: Callable[[bytes], Path]) -> None:
    file = written(SOUND)
    first, second = read_header(file).tensors
    assert tensor_digests(file) == [
        {
            "name": t.name,
            "type": t.type,
            "size": t.size,
            "sha256": hashlib.sha256(SOUND[t.offset : t.offset + t.size]).hexdigest(),
        }
        for t in (first, second)
    ]


def test_types_are_those_of_the_format() -> None:
    constants = pytest.importorskip("gguf")
    for number, (name, block, size) in TYPES.items():
        kind = constants.GGMLQuantizationType(number)
        assert (kind.name, *constants.GGML_QUANT_SIZES[kind]) == (name, block, size)


@pytest.mark.slow
def test_every_prefix_of_a_file_is_refused(written: Callable[[bytes], Path]) -> None:
    for length in range(len(SOUND) - (128 - 102)):
        assert fault(written(SOUND[:length])).startswith("model.gguf: ")


BIG = 1 << 63
LLAMA = entry("general.architecture", STRING, text("llama"))


def words(*tokens: str) -> bytes:
    return entry(
        "tokenizer.ggml.tokens", ARRAY, array(STRING, len(tokens), b"".join(map(text, tokens)))
    )


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes are no GGUF file"),
    "four bytes": (b"GGUF", "4 bytes are no GGUF file"),
    "another magic": (b"GGML" + SOUND[4:], "does not begin with `GGUF`"),
    "old version": (gguf([], [], version=1), "version 1 is not known"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648 is not known"),
    "many tensors": (
        b"GGUF" + u32(3) + u64(BIG) + u64(0),
        f"claims {BIG} tensors and 0 metadata entries",
    ),
    "many entries": (
        b"GGUF" + u32(3) + u64(0) + u64(10**9),
        "claims 0 tensors and 1000000000 metadata entries",
    ),
    "endless key": (gguf([u64(BIG)], []), f"a metadata key is {BIG} bytes long, more than 255"),
    "no key": (gguf([entry("", BOOL, b"\0")], []), "a metadata key is empty or not printable"),
    "key with an escape": (
        gguf([entry("a\x1b[2J", BOOL, b"\0")], []),
        "a metadata key is empty or not printable",
    ),
    "key twice": (gguf([NAME, NAME], []), "metadata `general.name` is there twice"),
    "key of bytes": (
        gguf([u64(2) + b"\xff\xfe" + u32(BOOL) + b"\0"], []),
        "a metadata key is not UTF-8",
    ),
    "unknown kind": (gguf([entry("a", 13, bytes(8))], []), "metadata `a` has the unknown type 13"),
    "half true": (gguf([entry("a", BOOL, b"\2")], []), "metadata `a` is neither true nor false"),
    "endless text": (
        gguf([entry("a", STRING, u64(2**40))], []),
        f"metadata `a` is {2**40} bytes long, more than 1048576",
    ),
    "text of bytes": (gguf([entry("a", STRING, text(b"\xff"))], []), "metadata `a` is not UTF-8"),
    "text past the end": (gguf([entry("a", STRING, u64(500))], []), "the header is cut short"),
    "arrays of arrays": (
        gguf([entry("a", ARRAY, array(ARRAY, 1, b""))], []),
        "metadata `a` is an array of arrays",
    ),
    "array of unknown": (
        gguf([entry("a", ARRAY, array(99, 1, b""))], []),
        "metadata `a` has the unknown type 99",
    ),
    "10^9 strings": (
        gguf([entry("a", ARRAY, array(STRING, 10**9, bytes(4096)))], []),
        "metadata `a` claims 1000000000 strings",
    ),
    "10^18 numbers": (
        gguf([entry("a", ARRAY, array(UINT64, 10**18, bytes(4096)))], []),
        "the header is cut short",
    ),
    "2^63 bytes": (
        gguf([entry("a", ARRAY, array(0, BIG, bytes(4096)))], []),
        "the header is cut short",
    ),
    "long string": (
        gguf([entry("a", ARRAY, array(STRING, 65, u64(2**50)))], []),
        f"a string of `a` is {2**50} bytes long, more than 1048576",
    ),
    "alignment 0": (
        gguf([entry("general.alignment", UINT32, u32(0))], []),
        "alignment 0 is not a power of two from 8 to 4096",
    ),
    "alignment 48": (
        gguf([entry("general.alignment", UINT32, u32(48))], []),
        "alignment 48 is not a power of two from 8 to 4096",
    ),
    "alignment 2^31": (
        gguf([entry("general.alignment", UINT32, u32(1 << 31))], []),
        "alignment 2147483648 is not a power of two from 8 to 4096",
    ),
    "alignment by words": (
        gguf([entry("general.alignment", STRING, text("32"))], []),
        "metadata `general.alignment` has type 8, not 4",
    ),
    "signed alignment": (
        gguf([entry("general.alignment", 5, u32(32))], []),
        "metadata `general.alignment` has type 5, not 4",
    ),
    "no layers": (
        gguf([LLAMA, entry("llama.block_count", UINT32, u32(0))], []),
        "metadata `llama.block_count` is 0, not 1 to 512",
    ),
    "many layers": (
        gguf([LLAMA, entry("llama.block_count", UINT32, u32(513))], []),
        "metadata `llama.block_count` is 513, not 1 to 512",
    ),
    "layers ahead": (
        gguf([LLAMA, entry("llama.nextn_predict_layers", UINT32, u32(2))], []),
        "metadata `llama.nextn_predict_layers` is 2, of 1 layers",
    ),
    "token twice": (
        gguf([words("a", "b", "", "a")], []),
        "token 3 of the vocabulary is there twice",
    ),
    "token twice of many": (
        gguf([words(*(f"t{n % 99}" for n in range(100)))], []),
        "token 99 of the vocabulary is there twice",
    ),
    "token twice up to a zero": (
        gguf([words("a", "b", "a\0c")], []),
        "token 2 of the vocabulary is there twice",
    ),
    "stand-in for no word": (
        gguf([words("[EMPTY_1]", "")], []),
        "token 1 of the vocabulary is there twice",
    ),
    "byte -1": (
        gguf([words("<0x00>", "<0x-1>")], []),
        "token 1 of the vocabulary is named like a byte and is none",
    ),
    "no dimensions": (gguf([], [tensor(shape=())]), "tensor `a` has 0 dimensions"),
    "five dimensions": (gguf([], [tensor(shape=(1,) * 5)]), "tensor `a` has 5 dimensions"),
    "dimension 0": (gguf([], [tensor(shape=(32, 0))]), "tensor `a` has the shape [32, 0]"),
    "overflowing shape": (
        gguf([], [tensor(shape=(1 << 62, 4))]),
        f"tensor `a` has the shape [{1 << 62}, 4]",
    ),
    "wrapping shape": (
        gguf([], [tensor(shape=(1 << 32, 1 << 32))]),
        f"tensor `a` has the shape [{1 << 32}, {1 << 32}]",
    ),
    "unknown tensor type": (gguf([], [tensor(kind=4)]), "tensor `a` has the unknown type 4"),
    "broken rows": (
        gguf([], [tensor(shape=(33, 2), kind=Q8_0)], 128),
        "tensor `a` has rows of 33, which are not divisible by 32",
    ),
    "name of 64": (
        gguf([], [tensor("n" * 64)]),
        "the name of a tensor is 64 bytes long, more than 63",
    ),
    "name of bytes": (gguf([], [tensor(b"\xc3")]), "the name of a tensor is not UTF-8"),
    "name twice": (gguf([], [tensor(), tensor(offset=512)], 1024), "tensor `a` is there twice"),
    "overlap": (
        gguf([], [tensor(), tensor("b", offset=256)], 1024),
        "tensor `b` is not where the one before it ends",
    ),
    "hole": (
        gguf([], [tensor(), tensor("b", offset=1024)], 2048),
        "tensor `b` is not where the one before it ends",
    ),
    "offset past the end": (
        gguf([], [tensor(offset=BIG)], 512),
        "tensor `a` is not where the one before it ends",
    ),
    "data cut": (gguf([], [tensor()], 511), "is 607 bytes long, its header describes 608"),
    "data too long": (gguf([], [tensor()], 513), "is 609 bytes long, its header describes 608"),
    "bytes after a header": (gguf([NAME], []) + b"x", "is 65 bytes long, its header describes 64"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused_with_its_fault(
    written: Callable[[bytes], Path], case: str
) -> None:
    raw, message = HOSTILE[case]
    assert fault(written(raw)) == f"model.gguf: {message}"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert fault(tmp_path / "none.gguf") == "none.gguf: cannot be read: No such file or directory"


GREEDY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
from device.manifest import ManifestError
from device.manifest.gguf import read_header
try:
    read_header(sys.argv[1])
except ManifestError as error:
    print(error.code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 45])
def test_the_largest_header_that_is_looked_at_stays_in_256_mb_and_comes_to_an_end(
    written: Callable[[bytes], Path], length: int
) -> None:
    many = entry(
        "tokenizer.ggml.tokens",
        ARRAY,
        array(STRING, 1 << 20, b"".join(text(f"{i:0{length}}") for i in range(1 << 20))),
    )
    texts = [entry(f"t{i}", STRING, text(b"x" * (1 << 20))) for i in range(30)]
    file = written(gguf([many, *texts], [tensor()], 500))
    ran = subprocess.run(
        [sys.executable, "-c", GREEDY, str(file)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "bad_gguf\n"), ran.stderr
