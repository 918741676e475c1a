"""A TFLite file's structure, read within bounds before any native parser sees the file; and the digests of its tensors.

A TFLite file is hostile until `read_header` has passed it: LiteRT follows its offsets unchecked. Every table, vector and string
that a decoder's graph uses is walked: places, counts, references from one to another, and that each constant has the bytes its
shape asks for. Format: FlatBuffers internals, and tflite/schema.fbs version 3. Standard library only, Python 3.10 up.
"""

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from device.manifest import ManifestError

MAX_ITEMS = 1 << 20
"""Items of all vectors that are walked; a decoder of 32 layers with three signatures has 0.15 million."""
MAX_BUFFERS, MAX_GRAPHS = 1 << 16, 64
MAX_NAME_BYTES, MAX_NOTE_BYTES, MAX_DIMENSIONS, MAX_ELEMENTS = 1 << 10, 1 << 20, 8, 1 << 40
NOTE = "demitasse"
"""Name of the metadata in which our own files say what a GGUF says in its header."""

TYPES = {
    0: ("FLOAT32", 32),
    1: ("FLOAT16", 16),
    2: ("INT32", 32),
    3: ("UINT8", 8),
    4: ("INT64", 64),
    6: ("BOOL", 8),
    7: ("INT16", 16),
    9: ("INT8", 8),
    10: ("FLOAT64", 64),
    12: ("UINT64", 64),
    15: ("UINT32", 32),
    16: ("UINT16", 16),
    17: ("INT4", 4),
    18: ("BFLOAT16", 16),
    19: ("INT2", 2),
    20: ("UINT4", 4),
}
"""Tensor types by number (schema.fbs): name, bits of an element. Strings, resources and variants are no part of a decoder."""
OPERATORS = {
    0: "ADD",
    2: "CONCATENATION",
    6: "DEQUANTIZE",
    7: "EMBEDDING_LOOKUP",
    9: "FULLY_CONNECTED",
    14: "LOGISTIC",
    18: "MUL",
    19: "RELU",
    22: "RESHAPE",
    25: "SOFTMAX",
    28: "TANH",
    36: "GATHER",
    39: "TRANSPOSE",
    40: "MEAN",
    41: "SUB",
    53: "CAST",
    65: "SLICE",
    76: "RSQRT",
    126: "BATCH_MATMUL",
    150: "GELU",
    151: "DYNAMIC_UPDATE_SLICE",
}
"""What a decoder of ours is made of; nothing else is run (schema.fbs, BuiltinOperator)."""
_VECTORS = {17: (0,), 8: (5,)}
"""Vectors of numbers in options, by kind of options: `ReshapeOptions.new_shape`, `FullyConnectedOptions.quant_spec`."""
_LEGACY_NEWEST = {"FULLY_CONNECTED": 11, "EMBEDDING_LOOKUP": 3, "DEQUANTIZE": 5}
"""Newest versions of operators that tflite-runtime 2.14 has; of all others the first is used."""


class _BadFileError(Exception):
    """A fault, before it is known in which file."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of one graph."""

    name: str
    type: str
    shape: tuple[int, ...]
    buffer: int
    scales: int
    """Scales of its own; blocks have theirs in a tensor."""
    size: int
    """Bytes that its shape asks for."""


@dataclass(frozen=True)
class Signature:
    """A graph that can be called by name."""

    name: str
    graph: int
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclass(frozen=True)
class Header:
    """What a TFLite file is made of."""

    operators: tuple[tuple[str, int], ...]
    """Name (a number where it is none of ours) and version."""
    graphs: tuple[tuple[Tensor, ...], ...]
    buffers: tuple[tuple[int, int], ...]
    """Place and size; (0, 0) where a tensor has no bytes of its own."""
    signatures: tuple[Signature, ...]
    note: dict[str, Any]
    """What our own files say of themselves; empty in others."""
    size: int

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """Tensors with bytes in the file, each once, in file order."""
        found = {
            tensor.buffer: tensor
            for graph in self.graphs[::-1]
            for tensor in graph[::-1]
            if self.buffers[tensor.buffer][1]
        }
        return tuple(sorted(found.values(), key=lambda tensor: self.buffers[tensor.buffer]))


def read_header(path: "str | os.PathLike[str]") -> Header:
    """Read and check the structure of a TFLite file; raise ManifestError `bad_tflite` that names the file and the fault."""
    name = os.path.basename(os.fspath(path))
    try:
        size = os.path.getsize(path)
        if size < 64:
            raise _BadFileError(f"{size} bytes are no TFLite file")
        with (
            open(path, "rb") as stream,
            mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ) as view,
        ):
            return _Walk(view).header()
    except OSError as error:
        raise ManifestError("bad_tflite", f"{name}: cannot be read: {error.strerror}") from error
    except struct.error as error:
        raise ManifestError("bad_tflite", f"{name}: points behind its end") from error
    except _BadFileError as error:
        raise ManifestError("bad_tflite", f"{name}: {error}") from error


def tensor_digests(path: "str | os.PathLike[str]") -> list[dict[str, Any]]:
    """Return name, type, size and sha256 of each constant, in file order; raise ManifestError for a bad file."""
    header = read_header(path)
    with (
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), header.size, access=mmap.ACCESS_READ) as view,
    ):
        return [
            _digest(view, tensor, *header.buffers[tensor.buffer]) for tensor in header.constants
        ]


def foreign_operators(header: Header) -> tuple[str, ...]:
    """Return what a file computes with that no decoder of ours does."""
    known = set(OPERATORS.values())
    return tuple(name for name, _ in header.operators if name not in known)


def legacy_fault(header: Header) -> str:
    """Return why tflite-runtime 2.14 must not run a file: it would answer nonsense or end the process; empty where it may."""
    for name, version in header.operators:
        if version > _LEGACY_NEWEST.get(name, 1):
            return f"tflite-runtime 2.14 has no {name} of version {version}"
    for tensor in (tensor for graph in header.graphs for tensor in graph):
        if tensor.type in ("INT4", "INT2", "UINT4", "BFLOAT16"):
            return f"tflite-runtime 2.14 ends with a crash on {tensor.type}"
        if tensor.scales > 1:
            return "tflite-runtime 2.14 computes nonsense with a scale for each row in the tensor"
    return ""


def _digest(view: mmap.mmap, tensor: Tensor, start: int, size: int) -> dict[str, Any]:
    total = hashlib.sha256()
    for at in range(start, start + size, 1 << 20):
        total.update(view[at : min(at + (1 << 20), start + size)])
    return {"name": tensor.name, "type": tensor.type, "size": size, "sha256": total.hexdigest()}


class _Walk:
    """One walk over a file: every read is checked, and what is walked is counted."""

    def __init__(self, view: mmap.mmap) -> None:
        self._view, self._end, self._left = view, len(view), MAX_ITEMS

    def header(self) -> Header:
        if self._view[4:8] != b"TFL3":
            raise _BadFileError("not a TFLite file")
        root = self._table(self._u32(0))
        if (version := self._number(root, 0, "<I")) != 3:
            raise _BadFileError(f"version {version}, not 3")
        operators = tuple(self._operator_code(table) for table in self._tables(root, 1))
        buffers = tuple(self._buffer(table) for table in self._tables(root, 4, MAX_BUFFERS))
        graphs = tuple(
            self._graph(table, buffers, len(operators))
            for table in self._tables(root, 2, MAX_GRAPHS)
        )
        if not graphs or not buffers:
            raise _BadFileError("no graph in it")
        signatures = tuple(
            self._signature(table, graphs) for table in self._tables(root, 7, MAX_GRAPHS)
        )
        note, last = self._note(root, buffers), max(start + size for start, size in buffers)
        if note and last != self._end:
            raise _BadFileError(f"{self._end - last} bytes more than its buffers take")
        return Header(operators, graphs, buffers, signatures, note, self._end)

    # The model's parts

    def _operator_code(self, table: dict[int, int]) -> tuple[str, int]:
        if 1 in table:
            raise _BadFileError("a custom operator")
        code = max(self._number(table, 0, "<b"), self._number(table, 3, "<i"))
        version = self._number(table, 2, "<i", 1)
        return OPERATORS.get(code, str(code)), version

    def _buffer(self, table: dict[int, int]) -> tuple[int, int]:
        if self._number(table, 1, "<Q") > 1 or 0 not in table:
            offset, size = self._number(table, 1, "<Q"), self._number(table, 2, "<Q")
            if offset > 1 and (offset > self._end or size > self._end - offset):
                raise _BadFileError(
                    f"a buffer of {size} bytes at {offset}: the file ends at {self._end}"
                )
            return (offset, size) if offset > 1 else (0, 0)
        place = self._follow(table[0])
        size = self._u32(place)
        if size > self._end - place - 4:
            raise _BadFileError(
                f"a buffer of {size} bytes at {place + 4}: the file ends at {self._end}"
            )
        return place + 4, size

    def _graph(
        self, table: dict[int, int], buffers: tuple[tuple[int, int], ...], operators: int
    ) -> tuple[Tensor, ...]:
        tensors = tuple(self._tensor(each, buffers) for each in self._tables(table, 0))
        self._references(table, (1, 2), len(tensors))
        for operator in self._tables(table, 3):
            if self._number(operator, 0, "<I") >= operators:
                raise _BadFileError("an operator that is not listed")
            self._references(operator, (1, 2, 8), len(tensors), none=True)
            self._options(operator)
        self._text(table, 4)
        return tensors

    def _tensor(self, table: dict[int, int], buffers: tuple[tuple[int, int], ...]) -> Tensor:
        name, number, buffer = (
            self._text(table, 3),
            self._number(table, 1, "<b"),
            self._number(table, 2, "<I"),
        )
        shape = tuple(self._numbers(table, 0, "<i", MAX_DIMENSIONS))
        if number not in TYPES:
            raise _BadFileError(f"tensor `{name}`: type {number} is not known")
        if buffer >= len(buffers):
            raise _BadFileError(f"tensor `{name}`: buffer {buffer} of {len(buffers)}")
        if 6 in table:
            raise _BadFileError(f"tensor `{name}`: is sparse")
        list(self._numbers(table, 7, "<i", MAX_DIMENSIONS))
        kind, bits = TYPES[number]
        size = (self._elements(name, shape) * bits + 7) // 8
        if buffers[buffer][1] not in (0, size):
            raise _BadFileError(
                f"tensor `{name}`: {buffers[buffer][1]} bytes for shape {list(shape)} of {kind}"
            )
        return Tensor(name, kind, shape, buffer, self._scales(table, name), size)

    def _elements(self, name: str, shape: tuple[int, ...]) -> int:
        count = 1
        for length in shape:
            count *= length
            if length < 0 or count > MAX_ELEMENTS:
                raise _BadFileError(f"tensor `{name}`: shape {list(shape)}")
        return count

    def _scales(self, table: dict[int, int], name: str) -> int:
        if 4 not in table:
            return 0
        quantization = self._table(self._follow(table[4]))
        if self._number(quantization, 4, "<B") not in (0, 2):
            raise _BadFileError(f"tensor `{name}`: a quantization that is not known")
        if 5 in quantization:
            self._table(self._follow(quantization[5]))
        for place, code in ((0, "<f"), (1, "<f"), (3, "<q")):
            self._length(quantization, place, struct.calcsize(code))
        return self._length(quantization, 2, 4)

    def _options(self, operator: dict[int, int]) -> None:
        if {5, 9, 10, 12} & operator.keys():
            raise _BadFileError("an operator with options of its own")
        if 4 in operator:
            options = self._table(self._follow(operator[4]))
            for place in _VECTORS.get(self._number(operator, 3, "<B"), ()):
                self._length(options, place, 4)

    def _signature(
        self, table: dict[int, int], graphs: tuple[tuple[Tensor, ...], ...]
    ) -> Signature:
        graph = self._number(table, 4, "<I")
        if graph >= len(graphs):
            raise _BadFileError(f"a signature of graph {graph} of {len(graphs)}")
        inputs, outputs = (
            dict(self._named(each, graphs[graph]) for each in self._tables(table, place))
            for place in (0, 1)
        )
        return Signature(self._text(table, 2), graph, inputs, outputs)

    def _named(self, table: dict[int, int], tensors: tuple[Tensor, ...]) -> tuple[str, Tensor]:
        index = self._number(table, 1, "<I")
        if index >= len(tensors):
            raise _BadFileError(f"a signature names tensor {index} of {len(tensors)}")
        return self._text(table, 0), tensors[index]

    def _note(self, root: dict[int, int], buffers: tuple[tuple[int, int], ...]) -> dict[str, Any]:
        for entry in self._tables(root, 6):
            if self._text(entry, 0) == NOTE:
                buffer = self._number(entry, 1, "<I")
                start, size = buffers[buffer] if buffer < len(buffers) else (0, MAX_NOTE_BYTES + 1)
                if size > MAX_NOTE_BYTES:
                    raise _BadFileError("what it says of itself is no note")
                return self._json(self._view[start : start + size])
        return {}

    def _json(self, content: bytes) -> dict[str, Any]:
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _BadFileError("what it says of itself is not JSON") from error
        if not isinstance(fields, dict):
            raise _BadFileError("what it says of itself is not an object")
        return fields

    # FlatBuffers: offsets count from where they stand; a table begins with its distance to the vtable of its fields' places

    def _u32(self, at: int) -> int:
        return int(struct.unpack_from("<I", self._view, at)[0])

    def _follow(self, at: int) -> int:
        place = at + self._u32(at)
        if place == at or place + 4 > self._end:
            raise _BadFileError("points behind its end")
        return place

    def _table(self, at: int) -> dict[int, int]:
        """Return the place of each field that is there."""
        self._count(1)
        vtable = at - int(struct.unpack_from("<i", self._view, at)[0])
        if not 0 <= vtable <= self._end - 4:
            raise _BadFileError("a table without a description")
        length, size = struct.unpack_from("<HH", self._view, vtable)
        if length < 4 or length % 2 or at + size > self._end or length > 256:
            raise _BadFileError("a table with a broken description")
        places = struct.unpack_from(f"<{length // 2 - 2}H", self._view, vtable + 4)
        if any(place >= size or 0 < place < 4 for place in places):
            raise _BadFileError("a field outside of its table")
        return {number: at + place for number, place in enumerate(places) if place}

    def _tables(
        self, table: dict[int, int], field: int, most: int = MAX_ITEMS
    ) -> Iterator[dict[int, int]]:
        if field not in table:
            return
        start, count = self._vector(table[field], 4)
        if count > most:
            raise _BadFileError(f"claims {count} parts of one kind")
        for at in range(start, start + 4 * count, 4):
            yield self._table(self._follow(at))

    def _vector(self, field: int, item_bytes: int) -> tuple[int, int]:
        """Return place and count of a vector's items."""
        place = self._follow(field)
        count = self._u32(place)
        if count * item_bytes > self._end - place - 4:
            raise _BadFileError("a vector that is longer than the file")
        self._count(count)
        return place + 4, count

    def _length(self, table: dict[int, int], field: int, item_bytes: int) -> int:
        return self._vector(table[field], item_bytes)[1] if field in table else 0

    def _numbers(self, table: dict[int, int], field: int, code: str, most: int) -> tuple[int, ...]:
        if field not in table:
            return ()
        start, count = self._vector(table[field], struct.calcsize(code))
        if count > most:
            raise _BadFileError(f"a vector of {count} numbers where {most} are possible")
        return struct.unpack_from(f"<{count}{code[1:]}", self._view, start)

    def _references(
        self, table: dict[int, int], fields: tuple[int, ...], tensors: int, *, none: bool = False
    ) -> None:
        for field in fields:
            for index in self._numbers(table, field, "<i", 1 << 12):
                if not (0 <= index < tensors or (none and index == -1)):
                    raise _BadFileError(f"names tensor {index} of {tensors}")

    def _number(self, table: dict[int, int], field: int, code: str, default: int = 0) -> int:
        return (
            int(struct.unpack_from(code, self._view, table[field])[0])
            if field in table
            else default
        )

    def _text(self, table: dict[int, int], field: int) -> str:
        if field not in table:
            return ""
        start, count = self._vector(table[field], 1)
        if count > MAX_NAME_BYTES:
            raise _BadFileError(f"a name of {count} bytes")
        text = self._view[start : start + count].decode("utf-8", "replace")
        if not text.isprintable():
            raise _BadFileError("a name that cannot be printed")
        return text

    def _count(self, items: int) -> None:
        self._left -= items
        if self._left < 0:
            raise _BadFileError(f"more than {MAX_ITEMS} parts")
