"""A TFLite model under construction: its buffers, operator codes and signatures.

Weights do not pass through here: a buffer is bytes or a promise, which `file` gives a place and
`write` fills.
"""

import math
from dataclasses import dataclass

from toolchain.tools import litert

F32, F16, I32, I8, I4 = "FLOAT32", "FLOAT16", "INT32", "INT8", "INT4"
"""Tensor types, as the schema spells them."""
BITS = {F32: 32, F16: 16, I32: 32, I8: 8, I4: 4}


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of one or more tensors of the checkpoint, below each other."""

    origins: tuple[str, ...]
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Promise:
    """Bytes that are written later: a matrix, or the scales of its rows or blocks."""

    matrix: Matrix
    type: str
    part: str = "weights"
    """`weights` or `scales`."""
    shape: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """First tensor of the checkpoint, number of others, and `.scales` for scales."""
        first, *more = self.matrix.origins
        others = f"+{len(more)}" if more else ""
        suffix = f".{self.part}" if self.part != "weights" else ""
        return first + others + suffix

    @property
    def size_bytes(self) -> int:
        """Bytes of the buffer."""
        return math.prod(self.shape) * BITS[self.type] // 8


class Blueprint:
    """A model under construction: its operator codes, its buffers and its signatures."""

    def __init__(self) -> None:
        self.schema = litert.schema()
        self.model = self.schema.ModelT()
        self.model.version = 3
        self.model.description = "demitasse"
        self.model.operatorCodes = []
        self.model.subgraphs = []
        self.model.signatureDefs = []
        self.model.metadata = []
        self.buffers: list[bytes | Promise] = [b""]
        """The first one is empty, as the format asks."""
        self._codes: dict[tuple[str, int], int] = {}
        self._kept: dict[bytes | Promise, int] = {}

    def buffer(self, content: bytes | Promise) -> int:
        """Return the number of a buffer; the same content is kept once for all graphs."""
        if content not in self._kept:
            self._kept[content] = len(self.buffers)
            self.buffers.append(content)
        return self._kept[content]

    def note(self, name: str, content: bytes) -> None:
        """Put a named piece of metadata into the file."""
        entry = self.schema.MetadataT()
        entry.name = name
        entry.buffer = self.buffer(content)
        self.model.metadata.append(entry)

    def code(self, operator: str, version: int) -> int:
        """Return the number of an operator in a version."""
        if (operator, version) not in self._codes:
            entry = self.schema.OperatorCodeT()
            entry.builtinCode = getattr(self.schema.BuiltinOperator, operator)
            entry.deprecatedBuiltinCode = min(entry.builtinCode, 127)
            entry.version = version
            self._codes[operator, version] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(entry)
        return self._codes[operator, version]
