"""The structure of an ONNX decoder, read within bounds, and digests of its tensors.

An ONNX file is hostile until `read_header` has passed it: ONNX Runtime opens whatever file it names
for its weights. Every node, tensor and name is visited; only operators of our decoders may occur,
and the one data file beside the model is all that it may name. Format: onnx.proto, IR version 10;
operators: ONNX opset 21, and com.microsoft (docs/ContribOperators.md). Standard library only,
Python 3.10 up.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from device.manifest import ManifestError
from device.manifest import onnx_schema as schema
from device.manifest.external import data_name
from device.manifest.flatbuffer import BadFileError
from device.manifest.onnx_checks import check_operators
from device.manifest.protobuf import Messages, Span, signed

MAX_GRAPH_BYTES = 64 << 20
# A decoder of 32 layers has 0.2 MB: its weights are in the data file.
MAX_NOTE_BYTES = 1 << 20
MAX_INLINE_BYTES = 1 << 12
"""Most bytes of a constant that is part of the graph."""
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 40
MAX_IR_VERSION, MAX_OPSET = 10, 21
NOTE = "demitasse"
"""Name of the metadata in which our own files carry what a GGUF has in its header."""

TYPES = {1: ("FLOAT", 32), 2: ("UINT8", 8), 6: ("INT32", 32), 7: ("INT64", 64), 10: ("FLOAT16", 16)}
"""Number of a tensor type (onnx.proto, DataType) → name, bits of an element."""
MICROSOFT = "com.microsoft"
OPERATORS = {
    "": {
        *("Add", "Cast", "Div", "Gather", "Gelu", "Identity", "Mul", "ReduceSum", "Reshape"),
        *("Shape", "Sigmoid", "SimplifiedLayerNormalization", "Slice", "Split", "Sub", "Tanh"),
    },
    MICROSOFT: {
        *("FusedMatMul", "GatherBlockQuantized", "GroupQueryAttention", "MatMulNBits"),
        "SkipSimplifiedLayerNormalization",
    },
}
"""Domain → operators of our decoders; no other is run."""


@dataclass(frozen=True)
class Tensor:
    """One tensor with values of its own."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: "int | None"
    """Place in the data file; None for a constant of the graph."""
    size: int
    """Bytes that its shape needs."""


@dataclass(frozen=True)
class Node:
    """One step of the graph."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: "dict[str, int | float | str]"


@dataclass(frozen=True)
class Port:
    """An input or output of the graph; a text in its shape is a length that varies."""

    type: str
    shape: "tuple[int | str, ...]"


@dataclass(frozen=True)
class Header:
    """The structure of an ONNX file."""

    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    inputs: dict[str, Port]
    outputs: dict[str, Port]
    note: dict[str, Any]
    """The metadata of our own files; empty in others."""
    size: int
    """Bytes of the graph's own file."""
    data_size: int

    @property
    def external(self) -> tuple[Tensor, ...]:
        """Tensors of the data file, each place once, in file order."""
        by_place = {
            tensor.offset: tensor
            for tensor in reversed(self.tensors.values())
            if tensor.offset is not None
        }
        return tuple(tensor for _, tensor in sorted(by_place.items()))


def read_header(path: "str | os.PathLike[str]") -> Header:
    """Read and check the structure of an ONNX file.

    Raise ManifestError `bad_onnx` that names the file and the fault.
    """
    name = os.path.basename(os.fspath(path))
    try:
        if (size := os.path.getsize(path)) > MAX_GRAPH_BYTES:
            raise BadFileError(f"a graph of {size:,} bytes, at most {MAX_GRAPH_BYTES:,} are read")
        with open(path, "rb") as stream:
            content = stream.read(MAX_GRAPH_BYTES)
        return _Walk(content, name, _data_size(path)).header()
    except OSError as error:
        raise ManifestError("bad_onnx", f"{name}: cannot be read: {error.strerror}") from error
    except BadFileError as error:
        raise ManifestError("bad_onnx", f"{name}: {error}") from error


def tensor_digests(path: "str | os.PathLike[str]") -> list[dict[str, Any]]:
    """Return name, type, size and sha256 of each tensor of the data file, in file order.

    Raise ManifestError for a bad file.
    """
    header = read_header(path)
    with open(_data_path(path), "rb") as stream:
        return [_digest(stream, tensor) for tensor in header.external]


def _data_path(path: "str | os.PathLike[str]") -> str:
    folder, name = os.path.split(os.fspath(path))
    return os.path.join(folder, data_name(name))


def _data_size(path: "str | os.PathLike[str]") -> "int | None":
    """Return the size of the data file; None if there is none."""
    data = _data_path(path)
    return os.path.getsize(data) if os.path.isfile(data) else None


def _digest(stream: Any, tensor: Tensor) -> dict[str, Any]:
    total = hashlib.sha256()
    stream.seek(tensor.offset)
    left = tensor.size
    while left and (chunk := stream.read(min(left, 1 << 20))):
        total.update(chunk)
        left -= len(chunk)
    return {
        "name": tensor.name,
        "type": tensor.type,
        "size": tensor.size,
        "sha256": total.hexdigest(),
    }


class _Walk(Messages):
    """One walk over a file."""

    def __init__(self, content: bytes, name: str, data_size: "int | None") -> None:
        super().__init__(content)
        self._data_name = data_name(name)
        self._data_size = data_size

    def header(self) -> Header:
        """Return the structure of the file; raise BadFileError with the fault."""
        model = self._fields(Span(0, len(self.content)), schema.MODEL)
        if "graph" not in model:
            raise BadFileError("not an ONNX file")
        if not 3 < (version := self._number(model, "ir_version")) <= MAX_IR_VERSION:
            raise BadFileError(f"IR version {version}, at most {MAX_IR_VERSION} is run")

        self._check_opsets(model)
        graph = self._fields(self._span(model, "graph"), schema.GRAPH)
        tensors = self._tensors(graph)
        inputs = dict(self._port(span) for span in self._spans(graph, "input"))
        outputs = dict(self._port(span) for span in self._spans(graph, "output"))
        nodes = tuple(self._node(span) for span in self._spans(graph, "node"))
        _check_names(nodes, {*tensors, *inputs}, set(outputs))
        check_operators(nodes, tensors)

        note = self._note(model)
        self._check_places(tensors.values(), exact=bool(note))
        return Header(
            nodes, tensors, inputs, outputs, note, len(self.content), self._data_size or 0
        )

    # Messages

    def _fields(
        self, span: Span, known: "Mapping[int, tuple[str, int]]"
    ) -> "dict[str, list[int | Span]]":
        return self.message(span, known, schema.REPEATED)

    def _spans(self, fields: "dict[str, list[int | Span]]", name: str) -> list[Span]:
        return [value for value in fields.get(name, []) if isinstance(value, Span)]

    def _span(self, fields: "dict[str, list[int | Span]]", name: str) -> Span:
        spans = self._spans(fields, name)
        if not spans:
            raise BadFileError(f"has no `{name}`")
        return spans[0]

    def _number(self, fields: "dict[str, list[int | Span]]", name: str) -> int:
        return signed(fields[name][0]) if name in fields else 0

    def _name(self, fields: "dict[str, list[int | Span]]", name: str) -> str:
        spans = self._spans(fields, name)
        return self.text(spans[0]) if spans else ""

    # The model's parts

    def _check_opsets(self, model: "dict[str, list[int | Span]]") -> None:
        most = {"": MAX_OPSET, "ai.onnx": MAX_OPSET, MICROSOFT: 1}
        for span in self._spans(model, "opset_import"):
            fields = self._fields(span, schema.OPSET)
            domain = self._name(fields, "domain")
            version = self._number(fields, "version")
            if domain not in most or not 0 < version <= most[domain]:
                raise BadFileError(f"operators of `{domain}` {version} are not run")

    def _tensors(self, graph: "dict[str, list[int | Span]]") -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for span in self._spans(graph, "initializer"):
            tensor = self._tensor(self._fields(span, schema.TENSOR))
            if not tensor.name or tensor.name in tensors:
                raise BadFileError(f"tensor `{tensor.name}` is there twice")
            tensors[tensor.name] = tensor
        return tensors

    def _tensor(self, fields: "dict[str, list[int | Span]]") -> Tensor:
        name = self._name(fields, "name")
        shape = tuple(signed(length) for length in fields.get("dims", []))
        number = self._number(fields, "data_type")
        if number not in TYPES:
            raise BadFileError(f"tensor `{name}`: type {number} is not known")

        kind, bits = TYPES[number]
        size = _elements(name, shape) * bits // 8
        if self._number(fields, "data_location") == 0:
            raw = self._spans(fields, "raw_data")
            stored = raw[0].size if raw else 0
            if stored != size or size > MAX_INLINE_BYTES or "external_data" in fields:
                raise BadFileError(f"tensor `{name}`: {stored} bytes for shape {list(shape)}")
            return Tensor(name, kind, shape, None, size)

        if "raw_data" in fields:
            raise BadFileError(f"tensor `{name}`: has its bytes in two places")
        return Tensor(name, kind, shape, self._place(name, fields, size), size)

    def _place(self, name: str, fields: "dict[str, list[int | Span]]", size: int) -> int:
        """Return the offset of an external tensor in the one data file that may be named."""
        pairs = [self._pair(span) for span in self._spans(fields, "external_data")]
        entries = dict(pairs)
        if len(pairs) != 3 or set(entries) != {"location", "offset", "length"}:
            raise BadFileError(f"tensor `{name}`: where its bytes lie is not said as we say it")
        if entries["location"] != self._data_name:
            raise BadFileError(
                f"tensor `{name}`: its bytes are in `{entries['location'][:80]}`, "
                f"not in `{self._data_name}`"
            )
        if self._data_size is None:
            raise BadFileError(f"`{self._data_name}` with its weights is missing")

        offset, length = (_whole(entries[key]) for key in ("offset", "length"))
        if length != size:
            raise BadFileError(f"tensor `{name}`: {length} bytes, its shape needs {size}")
        if offset > self._data_size or size > self._data_size - offset:
            raise BadFileError(
                f"tensor `{name}`: {size} bytes at {offset}: the data ends at {self._data_size}"
            )

        return offset

    def _check_places(self, tensors: "Iterable[Tensor]", *, exact: bool) -> None:
        """Raise BadFileError for tensors that overlap in part, and for bytes behind the last one.

        The same bytes may be shown in two shapes.
        """
        spans = sorted(
            {(each.offset, each.offset + each.size) for each in tensors if each.offset is not None}
        )
        last = 0
        for start, end in spans:
            if start < last:
                raise BadFileError(f"two tensors overlap at {start} of the data")
            last = end
        if exact and last != (self._data_size or 0):
            raise BadFileError(
                f"{(self._data_size or 0) - last} bytes of data more than its tensors take"
            )

    def _pair(self, span: Span) -> tuple[str, str]:
        fields = self._fields(span, schema.PAIR)
        return self._name(fields, "key"), self._name(fields, "value")

    def _port(self, span: Span) -> tuple[str, Port]:
        fields = self._fields(span, schema.VALUE)
        name = self._name(fields, "name")
        kind = self._fields(self._span(fields, "type"), schema.TYPE)
        tensor = self._fields(self._span(kind, "tensor_type"), schema.TENSOR_TYPE)
        number = self._number(tensor, "elem_type")
        if number not in TYPES:
            raise BadFileError(f"`{name}`: type {number} is not known")

        shape = self._fields(self._span(tensor, "shape"), schema.SHAPE)
        lengths = tuple(self._length(each) for each in self._spans(shape, "dim"))
        if len(lengths) > MAX_DIMENSIONS:
            raise BadFileError(f"`{name}`: {len(lengths)} dimensions")
        return name, Port(TYPES[number][0], lengths)

    def _length(self, span: Span) -> "int | str":
        fields = self._fields(span, schema.DIMENSION)
        if "dim_value" in fields:
            return self._number(fields, "dim_value")
        return self._name(fields, "dim_param")

    def _node(self, span: Span) -> Node:
        fields = self._fields(span, schema.NODE)
        domain = self._name(fields, "domain")
        operator = self._name(fields, "op_type")
        if operator not in OPERATORS.get("" if domain == "ai.onnx" else domain, ()):
            raise BadFileError(f"computes with `{operator}`, which no decoder of ours does")

        pairs = [self._attribute(each) for each in self._spans(fields, "attribute")]
        attributes = dict(pairs)
        if len(attributes) != len(pairs):
            raise BadFileError(f"`{operator}` has an attribute twice")
        inputs = tuple(self.text(each) for each in self._spans(fields, "input"))
        outputs = tuple(self.text(each) for each in self._spans(fields, "output"))
        return Node(operator, inputs, outputs, attributes)

    def _attribute(self, span: Span) -> "tuple[str, int | float | str]":
        fields = self._fields(span, schema.ATTRIBUTE)
        name = self._name(fields, "name")
        values = {1: "f", 2: "i", 3: "s"}
        held = fields.keys() & set(values.values())
        if held != {values.get(self._number(fields, "type"), "")}:
            raise BadFileError(f"attribute `{name}` is not of the kind that it says")
        if "i" in fields:
            return name, self._number(fields, "i")
        if "f" in fields:
            return name, self.real(self._span(fields, "f"))
        return name, self._name(fields, "s")

    def _note(self, model: "dict[str, list[int | Span]]") -> dict[str, Any]:
        found: list[Span] = []
        for span in self._spans(model, "metadata_props"):
            fields = self._fields(span, schema.PAIR)
            if self._name(fields, "key") == NOTE:
                found.append(self._span(fields, "value"))
        if not found:
            return {}
        if len(found) > 1 or found[0].size > MAX_NOTE_BYTES:
            raise BadFileError("what it says of itself is no note")

        try:
            note = json.loads(self.content[found[0].start : found[0].end])
        except (ValueError, RecursionError) as error:
            raise BadFileError("what it says of itself is not JSON") from error
        if not isinstance(note, dict):
            raise BadFileError("what it says of itself is not an object")
        return note


def _elements(name: str, shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
        if length < 0 or count > MAX_ELEMENTS or len(shape) > MAX_DIMENSIONS:
            raise BadFileError(f"tensor `{name}`: shape {list(shape)}"[:200])
    return count


def _whole(text: str) -> int:
    """Return the number that a text of digits stands for; raise BadFileError for another text."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadFileError(f"`{text[:40]}` is no place of a file")
    return int(text)


def _check_names(nodes: tuple[Node, ...], known: set[str], outputs: set[str]) -> None:
    """Raise BadFileError unless every node reads what is known before it runs."""
    for node in nodes:
        for name in filter(None, node.inputs):
            if name not in known:
                raise BadFileError(f"`{node.operator}` reads `{name[:80]}`, which is not computed")
        for name in filter(None, node.outputs):
            if name in known:
                raise BadFileError(f"`{name[:80]}` is computed twice")
            known.add(name)
    for name in sorted(outputs - known):
        raise BadFileError(f"its output `{name[:80]}` is not computed")
