"""A GGUF file's header, read within bounds before any native parser sees the file; and the digests of its tensors.

A GGUF is hostile until `read_header` has passed it (CVE-2024-21836, CVE-2026-33298, CVE-2026-7482 and their like): counts, lengths,
alignment, dimensions, offsets and the file's exact size are checked, in about a second and little memory whatever the file claims.
Format: ggml docs/gguf.md, version 2 and 3, little-endian. Standard library only, Python 3.10 up.
"""

import hashlib
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from device.manifest import ManifestError

MAX_HEADER_BYTES = 64 << 20
MAX_ENTRIES = 4096
MAX_TENSORS = 16384
MAX_ITEMS = 1 << 20
"""Strings in all arrays together; a vocabulary of 262144 tokens with its merges has 0.8 million."""
MAX_TEXT_BYTES = 1 << 20
MAX_KEY_BYTES = 255
MAX_NAME_BYTES = 63
"""ggml's own bound on the name of a tensor (GGML_MAX_NAME)."""
MAX_ALIGNMENT = 4096
MAX_ELEMENTS = 1 << 48
MAX_LAYERS = 512
"""llama.cpp's own bound (LLAMA_MAX_LAYERS), which it asserts."""
KEPT_ITEMS = 64
"""Arrays of more items are passed over and only counted."""

TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
}
"""Tensor types by number (ggml.h): name, weights in a block, bytes of a block."""
_UINT32, _BOOL, _STRING, _ARRAY = 4, 7, 8, 9
_ALIGNMENT, _TOKENS = "general.alignment", "tokenizer.ggml.tokens"
_BYTE_NAME = re.compile(rb"<0x[0-9A-Fa-f]{2}>")
"""A byte's token in vocabularies that name them so; PLaMo-2's loader wrote before its table at `<0x-1>`."""
_CODES = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    _BOOL: "B",
    10: "Q",
    11: "q",
    12: "d",
}
_SCALARS = {kind: struct.Struct("<" + code) for kind, code in _CODES.items()}
_U32, _U64 = _SCALARS[4], _SCALARS[10]


@dataclass(frozen=True)
class Array:
    """An array that was counted and passed over."""

    kind: int
    """Type number of its items."""
    count: int
    offset: int = field(default=0, compare=False)
    """Byte in the file at which its items begin."""


_Claim = tuple[str, int, tuple[int, ...], int]
"""What the header says of a tensor: name, type number, shape, offset."""
Value = int | float | bool | str | tuple[Any, ...] | Array


@dataclass(frozen=True)
class Tensor:
    """Where one tensor stands in the file."""

    name: str
    type: str
    shape: tuple[int, ...]
    """As ggml counts: the length of a row first."""
    offset: int
    """Byte in the file at which it begins."""
    size: int
    """Bytes, without the padding behind it."""


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself."""

    metadata: dict[str, Value]
    tensors: tuple[Tensor, ...]
    size: int
    """Bytes of the whole file."""


def read_header(path: "str | os.PathLike[str]") -> Header:
    """Read and check the header of a GGUF file; raise ManifestError `bad_gguf` that names the file and the fault."""
    name = os.path.basename(os.fspath(path))
    try:
        size = os.path.getsize(path)
        if size < 24:
            raise _BadFileError(f"{size} bytes are no GGUF file")
        with (
            open(path, "rb") as stream,
            mmap.mmap(
                stream.fileno(), min(size, MAX_HEADER_BYTES), access=mmap.ACCESS_READ
            ) as view,
        ):
            return _parse(_Cursor(view), size)
    except OSError as error:
        raise ManifestError("bad_gguf", f"{name}: cannot be read: {error.strerror}") from error
    except struct.error as error:
        raise ManifestError("bad_gguf", f"{name}: the header is cut short") from error
    except _BadFileError as error:
        raise ManifestError("bad_gguf", f"{name}: {error}") from error


def tensor_digests(path: "str | os.PathLike[str]") -> list[dict[str, Any]]:
    """Return name, type, size and sha256 of each tensor, in file order; raise ManifestError for a bad file."""
    header = read_header(path)
    with open(path, "rb") as stream:
        return [
            {
                "name": tensor.name,
                "type": tensor.type,
                "size": tensor.size,
                "sha256": _digest(stream, tensor),
            }
            for tensor in header.tensors
        ]


EMBEDDING, HEAD = "token_embd.weight", "output.weight"


def streamed_bytes(header: Header) -> int:
    """Return the bytes read for one token: all weights but the embedding, of which one row counts unless it is the head too."""
    names = {tensor.name for tensor in header.tensors}
    return sum(
        tensor.size for tensor in header.tensors if tensor.name != EMBEDDING or HEAD not in names
    )


def read_strings(
    path: "str | os.PathLike[str]", array: Array, wanted: "set[int]"
) -> dict[int, str]:
    """Return some strings of an array of a file that `read_header` has passed, by their place in it."""
    found: dict[int, str] = {}
    with open(path, "rb") as stream:
        stream.seek(array.offset)
        for place in range(min(max(wanted, default=-1) + 1, array.count)):
            (length,) = _U64.unpack(stream.read(_U64.size))
            if place in wanted:
                found[place] = stream.read(length).decode("utf-8", "replace")
            else:
                stream.seek(length, os.SEEK_CUR)
    return found


def _digest(stream: BinaryIO, tensor: Tensor) -> str:
    total, left = hashlib.sha256(), tensor.size
    stream.seek(tensor.offset)
    while left:
        chunk = stream.read(min(left, 1 << 20))
        if not chunk:
            raise ManifestError("bad_gguf", f"tensor `{tensor.name}` is cut short")
        total.update(chunk)
        left -= len(chunk)
    return total.hexdigest()


class _BadFileError(Exception):
    """A fault, before it is known in which file."""


class _Cursor:
    """A place in the header that only moves forward; reading past the end raises struct.error."""

    def __init__(self, view: mmap.mmap) -> None:
        self.view = view
        self.at = 0
        self.items_left = MAX_ITEMS

    def take(self, layout: struct.Struct) -> Any:
        (value,) = layout.unpack_from(self.view, self.at)
        self.at += layout.size
        return value

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.view):
            raise struct.error

    def name(self, limit: int, what: str) -> str:
        """Return a string that may be shown as it is."""
        text = self.text(limit, what)
        if not text or not text.isprintable():
            raise _BadFileError(f"{what} is empty or not printable")
        return text

    def text(self, limit: int, what: str) -> str:
        """Return a string of at most `limit` bytes."""
        length = self.take(_U64)
        if length > limit:
            raise _BadFileError(f"{what} is {length} bytes long, more than {limit}")
        start = self.at
        self.skip(length)
        try:
            return self.view[start : self.at].decode("utf-8")
        except UnicodeDecodeError:
            raise _BadFileError(f"{what} is not UTF-8") from None


def _parse(cursor: _Cursor, size: int) -> Header:
    if cursor.view[:4] != b"GGUF":
        raise _BadFileError("does not begin with `GGUF`")
    cursor.skip(4)
    version, tensors, entries = cursor.take(_U32), cursor.take(_U64), cursor.take(_U64)
    if version not in (2, 3):
        raise _BadFileError(f"version {version} is not known")
    if tensors > MAX_TENSORS or entries > MAX_ENTRIES:
        raise _BadFileError(f"claims {tensors} tensors and {entries} metadata entries")
    metadata: dict[str, Value] = {}
    for _ in range(entries):
        key = cursor.name(MAX_KEY_BYTES, "a metadata key")
        if key in metadata:
            raise _BadFileError(f"metadata `{key}` is there twice")
        kind = cursor.take(_U32)
        if key == _ALIGNMENT and kind != _UINT32:
            raise _BadFileError(f"metadata `{key}` has type {kind}, not {_UINT32}")
        metadata[key] = _value(cursor, key, kind)
    _refuse_deadly(cursor.view, metadata)
    claims = [_claim(cursor) for _ in range(tensors)]
    return Header(metadata, _place(claims, cursor.at, _alignment(metadata), size), size)


def _value(cursor: _Cursor, key: str, kind: int) -> Value:
    value: Value = _array(cursor, key) if kind == _ARRAY else _reader(cursor, key, kind)()
    return value


def _reader(cursor: _Cursor, key: str, kind: int) -> Callable[[], Any]:
    if kind == _STRING:
        return lambda: cursor.text(MAX_TEXT_BYTES, f"metadata `{key}`")
    if kind == _BOOL:
        return lambda: _bool(cursor, key)
    if kind not in _SCALARS:
        raise _BadFileError(f"metadata `{key}` has the unknown type {kind}")
    return lambda: cursor.take(_SCALARS[kind])


def _bool(cursor: _Cursor, key: str) -> bool:
    byte = cursor.take(_SCALARS[_BOOL])
    if byte > 1:
        raise _BadFileError(f"metadata `{key}` is neither true nor false")
    return bool(byte)


def _array(cursor: _Cursor, key: str) -> Value:
    kind, count = cursor.take(_U32), cursor.take(_U64)
    if kind == _ARRAY:
        raise _BadFileError(f"metadata `{key}` is an array of arrays")
    read = _reader(cursor, key, kind)
    if count <= KEPT_ITEMS:
        return tuple(read() for _ in range(count))
    offset = cursor.at
    if kind == _STRING:
        _skip_strings(cursor, key, count)
    else:
        cursor.skip(count * _SCALARS[kind].size)
    return Array(kind, count, offset)


def _skip_strings(cursor: _Cursor, key: str, count: int) -> None:
    cursor.items_left -= count
    if cursor.items_left < 0:
        raise _BadFileError(f"metadata `{key}` claims {count} strings")
    view, at, unpack = cursor.view, cursor.at, _U64.unpack_from
    for _ in range(count):
        (length,) = unpack(view, at)
        if length > MAX_TEXT_BYTES:
            raise _BadFileError(
                f"a string of `{key}` is {length} bytes long, more than {MAX_TEXT_BYTES}"
            )
        at += 8 + length
    cursor.skip(at - cursor.at)


def _refuse_deadly(view: mmap.mmap, metadata: dict[str, Value]) -> None:
    """Refuse what is sound by the format, but makes llama.cpp abort or write past its memory when it loads a model."""
    architecture = metadata.get("general.architecture")
    layers = metadata.get(f"{architecture}.block_count", 1)
    if type(layers) is not int or not 1 <= layers <= MAX_LAYERS:
        raise _BadFileError(
            f"metadata `{architecture}.block_count` is {str(layers)[:20]}, not 1 to {MAX_LAYERS}"
        )
    ahead = metadata.get(f"{architecture}.nextn_predict_layers", 0)
    if type(ahead) is not int or not 0 <= ahead <= layers:
        raise _BadFileError(
            f"metadata `{architecture}.nextn_predict_layers` is {str(ahead)[:20]}, of {layers} layers"
        )
    bytes_by_name, seen = metadata.get("tokenizer.ggml.model") != "gpt2", set()
    for place, whole in enumerate(_vocabulary(view, metadata.get(_TOKENS, ()))):
        word = whole.partition(b"\0")[0]  # llama.cpp reads no further
        seen.add(hash(word or b"[EMPTY_%d]" % place))
        if len(seen) <= place:
            raise _BadFileError(f"token {place} of the vocabulary is there twice")
        if (
            bytes_by_name
            and word[:3] == b"<0x"
            and word[-1:] == b">"
            and not _BYTE_NAME.fullmatch(word)
        ):
            raise _BadFileError(f"token {place} of the vocabulary is named like a byte and is none")


def _vocabulary(view: mmap.mmap, tokens: Value) -> Iterator[bytes]:
    """Yield the words of a vocabulary that was read or passed over."""
    if isinstance(tokens, tuple):
        yield from (word.encode() for word in tokens if isinstance(word, str))
    elif isinstance(tokens, Array) and tokens.kind == _STRING:
        at, unpack = tokens.offset, _U64.unpack_from
        for _ in range(tokens.count):
            (length,) = unpack(view, at)
            yield view[at + 8 : at + 8 + length]
            at += 8 + length


def _alignment(metadata: dict[str, Value]) -> int:
    alignment = metadata.get(_ALIGNMENT, 32)
    if (
        type(alignment) is not int
        or not 8 <= alignment <= MAX_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        raise _BadFileError(
            f"alignment {str(alignment)[:20]} is not a power of two from 8 to {MAX_ALIGNMENT}"
        )
    return alignment


def _claim(cursor: _Cursor) -> _Claim:
    name = cursor.name(MAX_NAME_BYTES, "the name of a tensor")
    count = cursor.take(_U32)
    if not 1 <= count <= 4:
        raise _BadFileError(f"tensor `{name}` has {count} dimensions")
    shape = tuple(cursor.take(_U64) for _ in range(count))
    return name, cursor.take(_U32), shape, cursor.take(_U64)


def _place(claims: list[_Claim], header_end: int, alignment: int, size: int) -> tuple[Tensor, ...]:
    """Check that the tensors follow each other without a hole and end with the file."""
    start = end = _padded(header_end, alignment)
    tensors: dict[str, Tensor] = {}
    for name, kind, shape, offset in claims:
        if name in tensors:
            raise _BadFileError(f"tensor `{name}` is there twice")
        if start + offset != _padded(end, alignment):
            raise _BadFileError(f"tensor `{name}` is not where the one before it ends")
        end = start + offset + _tensor_bytes(name, kind, shape)
        tensors[name] = Tensor(name, TYPES[kind][0], shape, start + offset, end - start - offset)
    if size not in ((end, _padded(end, alignment)) if claims else (header_end, start)):
        raise _BadFileError(
            f"is {size} bytes long, its header describes {end if claims else header_end}"
        )
    return tuple(tensors.values())


def _tensor_bytes(name: str, kind: int, shape: tuple[int, ...]) -> int:
    if kind not in TYPES:
        raise _BadFileError(f"tensor `{name}` has the unknown type {kind}")
    _, block, block_bytes = TYPES[kind]
    elements = 1
    for length in shape:
        elements *= length
        if not 0 < elements <= MAX_ELEMENTS:
            raise _BadFileError(f"tensor `{name}` has the shape {list(shape)}")
    if shape[0] % block:
        raise _BadFileError(
            f"tensor `{name}` has rows of {shape[0]}, which are not divisible by {block}"
        )
    return elements // block * block_bytes


def _padded(size: int, alignment: int) -> int:
    return (size + alignment - 1) // alignment * alignment
