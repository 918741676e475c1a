"""The structure of a TFLite file, read within bounds, and digests of its tensors.

A TFLite file is hostile until `read_header` has passed it: LiteRT follows its offsets unchecked.
Every table, vector and string that a decoder's graph uses is visited. Positions, counts and
references are checked, and that each constant has the bytes its shape needs. Format: FlatBuffers
internals, and tflite/schema.fbs version 3. Standard library only, Python 3.10 up.
"""

import hashlib
import json
import mmap
import os
import struct
from dataclasses import dataclass
from typing import Any

from device.manifest import ManifestError
from device.manifest.flatbuffer import MAX_ITEMS as MAX_ITEMS
from device.manifest.flatbuffer import BadFileError, Tables

# A decoder of 32 layers with three signatures has 0.15 million.
MAX_BUFFERS, MAX_GRAPHS = 1 << 16, 64
MAX_NOTE_BYTES = 1 << 20
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 40
NOTE = "demitasse"
"""Name of the metadata in which our own files carry what a GGUF has in its header."""

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
"""Number of a tensor type (schema.fbs) → name, bits of an element."""
# Strings, resources and variants do not occur in a decoder.
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
"""Number of an operator of our decoders (schema.fbs, BuiltinOperator) → name; no other is run."""
_VECTORS = {17: (0,), 8: (5,)}
"""Kind of options → places of its vectors of numbers."""
# `ReshapeOptions.new_shape`, `FullyConnectedOptions.quant_spec`.
_LEGACY_NEWEST = {"FULLY_CONNECTED": 11, "EMBEDDING_LOOKUP": 3, "DEQUANTIZE": 5}
"""Operator → newest version that tflite-runtime 2.14 has; 1 for all others."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of one graph."""

    name: str
    type: str
    shape: tuple[int, ...]
    buffer: int
    scales: int
    """Number of its own scales; scales of blocks are in a tensor."""
    size: int
    """Bytes that its shape needs."""


@dataclass(frozen=True)
class Signature:
    """A graph that can be called by name."""

    name: str
    graph: int
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclass(frozen=True)
class Header:
    """The structure of a TFLite file."""

    operators: tuple[tuple[str, int], ...]
    """Name (a number for a foreign operator) and version of each operator."""
    graphs: tuple[tuple[Tensor, ...], ...]
    buffers: tuple[tuple[int, int], ...]
    """(offset, size) of each buffer; (0, 0) for a tensor without bytes of its own."""
    signatures: tuple[Signature, ...]
    note: dict[str, Any]
    """The metadata of our own files; empty in others."""
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
    """Read and check the structure of a TFLite file.

    Raise ManifestError `bad_tflite` that names the file and the fault.
    """
    name = os.path.basename(os.fspath(path))
    try:
        size = os.path.getsize(path)
        if size < 64:
            raise BadFileError(f"{size} bytes are no TFLite file")
        with (
            open(path, "rb") as stream,
            mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ) as view,
        ):
            return _Walk(view).header()
    except OSError as error:
        raise ManifestError("bad_tflite", f"{name}: cannot be read: {error.strerror}") from error
    except struct.error as error:
        raise ManifestError("bad_tflite", f"{name}: points behind its end") from error
    except BadFileError as error:
        raise ManifestError("bad_tflite", f"{name}: {error}") from error


def tensor_digests(path: "str | os.PathLike[str]") -> list[dict[str, Any]]:
    """Return name, type, size and sha256 of each constant, in file order.

    Raise ManifestError for a bad file.
    """
    header = read_header(path)
    with (
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), header.size, access=mmap.ACCESS_READ) as view,
    ):
        return [
            _digest(view, tensor, *header.buffers[tensor.buffer]) for tensor in header.constants
        ]


def foreign_operators(header: Header) -> tuple[str, ...]:
    """Return the operators of a file that no decoder of ours has."""
    known = set(OPERATORS.values())
    return tuple(name for name, _ in header.operators if name not in known)


def legacy_fault(header: Header) -> str:
    """Return why tflite-runtime 2.14 must not run a file; empty if it may.

    It would compute nonsense or end the process.
    """
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


class _Walk(Tables):
    """One walk over a file: every read is checked, and visited items are counted."""

    def header(self) -> Header:
        """Return the structure of the file; raise BadFileError with the fault."""
        if self.view[4:8] != b"TFL3":
            raise BadFileError("not a TFLite file")

        root = self.table(self.u32(0))
        if (version := self.number(root, 0, "<I")) != 3:
            raise BadFileError(f"version {version}, not 3")

        operators = tuple(self._operator_code(table) for table in self.tables(root, 1))
        buffers = tuple(self._buffer(table) for table in self.tables(root, 4, MAX_BUFFERS))
        graphs = tuple(
            self._graph(table, buffers, len(operators))
            for table in self.tables(root, 2, MAX_GRAPHS)
        )
        if not graphs or not buffers:
            raise BadFileError("no graph in it")

        signatures = tuple(
            self._signature(table, graphs) for table in self.tables(root, 7, MAX_GRAPHS)
        )
        note = self._note(root, buffers)
        last = max(start + size for start, size in buffers)
        if note and last != self.end:
            raise BadFileError(f"{self.end - last} bytes more than its buffers take")

        return Header(operators, graphs, buffers, signatures, note, self.end)

    # The model's parts

    def _operator_code(self, table: dict[int, int]) -> tuple[str, int]:
        if 1 in table:
            raise BadFileError("a custom operator")
        code = max(self.number(table, 0, "<b"), self.number(table, 3, "<i"))
        version = self.number(table, 2, "<i", 1)
        return OPERATORS.get(code, str(code)), version

    def _buffer(self, table: dict[int, int]) -> tuple[int, int]:
        if self.number(table, 1, "<Q") > 1 or 0 not in table:
            offset = self.number(table, 1, "<Q")
            size = self.number(table, 2, "<Q")
            if offset > 1 and (offset > self.end or size > self.end - offset):
                raise BadFileError(
                    f"a buffer of {size} bytes at {offset}: the file ends at {self.end}"
                )
            return (offset, size) if offset > 1 else (0, 0)

        place = self.follow(table[0])
        size = self.u32(place)
        if size > self.end - place - 4:
            raise BadFileError(
                f"a buffer of {size} bytes at {place + 4}: the file ends at {self.end}"
            )

        return place + 4, size

    def _graph(
        self, table: dict[int, int], buffers: tuple[tuple[int, int], ...], operators: int
    ) -> tuple[Tensor, ...]:
        tensors = tuple(self._tensor(each, buffers) for each in self.tables(table, 0))
        self.references(table, (1, 2), len(tensors))

        for operator in self.tables(table, 3):
            if self.number(operator, 0, "<I") >= operators:
                raise BadFileError("an operator that is not listed")
            self.references(operator, (1, 2, 8), len(tensors), none=True)
            self._options(operator)

        self.text(table, 4)
        return tensors

    def _tensor(self, table: dict[int, int], buffers: tuple[tuple[int, int], ...]) -> Tensor:
        name = self.text(table, 3)
        number = self.number(table, 1, "<b")
        buffer = self.number(table, 2, "<I")
        shape = tuple(self.numbers(table, 0, "<i", MAX_DIMENSIONS))
        if number not in TYPES:
            raise BadFileError(f"tensor `{name}`: type {number} is not known")
        if buffer >= len(buffers):
            raise BadFileError(f"tensor `{name}`: buffer {buffer} of {len(buffers)}")
        if 6 in table:
            raise BadFileError(f"tensor `{name}`: is sparse")

        list(self.numbers(table, 7, "<i", MAX_DIMENSIONS))
        kind, bits = TYPES[number]
        size = (self._elements(name, shape) * bits + 7) // 8
        if buffers[buffer][1] not in (0, size):
            raise BadFileError(
                f"tensor `{name}`: {buffers[buffer][1]} bytes for shape {list(shape)} of {kind}"
            )

        return Tensor(name, kind, shape, buffer, self._scales(table, name), size)

    def _elements(self, name: str, shape: tuple[int, ...]) -> int:
        count = 1
        for length in shape:
            count *= length
            if length < 0 or count > MAX_ELEMENTS:
                raise BadFileError(f"tensor `{name}`: shape {list(shape)}")

        return count

    def _scales(self, table: dict[int, int], name: str) -> int:
        if 4 not in table:
            return 0

        quantization = self.table(self.follow(table[4]))
        if self.number(quantization, 4, "<B") not in (0, 2):
            raise BadFileError(f"tensor `{name}`: a quantization that is not known")

        if 5 in quantization:
            self.table(self.follow(quantization[5]))

        for place, code in ((0, "<f"), (1, "<f"), (3, "<q")):
            self.length(quantization, place, struct.calcsize(code))

        return self.length(quantization, 2, 4)

    def _options(self, operator: dict[int, int]) -> None:
        if {5, 9, 10, 12} & operator.keys():
            raise BadFileError("an operator with options of its own")
        if 4 in operator:
            options = self.table(self.follow(operator[4]))
            for place in _VECTORS.get(self.number(operator, 3, "<B"), ()):
                self.length(options, place, 4)

    def _signature(
        self, table: dict[int, int], graphs: tuple[tuple[Tensor, ...], ...]
    ) -> Signature:
        graph = self.number(table, 4, "<I")
        if graph >= len(graphs):
            raise BadFileError(f"a signature of graph {graph} of {len(graphs)}")

        inputs, outputs = (
            dict(self._named(each, graphs[graph]) for each in self.tables(table, place))
            for place in (0, 1)
        )
        return Signature(self.text(table, 2), graph, inputs, outputs)

    def _named(self, table: dict[int, int], tensors: tuple[Tensor, ...]) -> tuple[str, Tensor]:
        index = self.number(table, 1, "<I")
        if index >= len(tensors):
            raise BadFileError(f"a signature names tensor {index} of {len(tensors)}")
        return self.text(table, 0), tensors[index]

    def _note(self, root: dict[int, int], buffers: tuple[tuple[int, int], ...]) -> dict[str, Any]:
        for entry in self.tables(root, 6):
            if self.text(entry, 0) == NOTE:
                buffer = self.number(entry, 1, "<I")
                start, size = buffers[buffer] if buffer < len(buffers) else (0, MAX_NOTE_BYTES + 1)
                if size > MAX_NOTE_BYTES:
                    raise BadFileError("what it says of itself is no note")
                return self._json(self.view[start : start + size])
        return {}

    def _json(self, content: bytes) -> dict[str, Any]:
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BadFileError("what it says of itself is not JSON") from error

        if not isinstance(fields, dict):
            raise BadFileError("what it says of itself is not an object")
        return fields
