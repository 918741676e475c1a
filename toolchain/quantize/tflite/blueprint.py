"""A TFLite model under construction: its buffers, operator codes and signatures.

Weights do not pass through here: a buffer is bytes or a promise, which `file` gives a place and
`write` fills.
"""

from toolchain.quantize.matrices import Promise
from toolchain.tools import litert


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
