"""Reads foreign GGUF files: checked header, arrays, and rows of tensors as float32.

`device.manifest.gguf` checks the header before anything else is read. Rows are read by ggml's own
kernels, block by block.
"""

import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.manifest import ManifestError
from device.manifest.gguf import Array, Tensor, read_header
from toolchain.errors import ArtifactError
from toolchain.tools import ggml
from toolchain.tools.ggml import Type

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STRING = 8
_NUMBERS = {4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8"}
"""Type of an array's items (ggml docs/gguf.md) → how numpy reads them."""
_NOT_A_MODEL = {
    "adapter": "a LoRA adapter: give its base here, and the adapter's PEFT folder as `adapter`",
    "imatrix": "an importance matrix: name it in `quantize.importance`",
    "mmproj": "the eyes of a model for images: give the file of the language model",
}
"""`general.type` of other files, and what to do with them."""


class GgufFile:
    """An open model file; `open_gguf` returns one."""

    def __init__(self, path: Path) -> None:
        try:
            header = read_header(path)
        except ManifestError as error:
            raise ArtifactError(str(error), hint="download or copy the file again") from error
        self.path = path
        self.metadata: Mapping[str, Any] = header.metadata
        self.tensors: dict[str, Tensor] = {tensor.name: tensor for tensor in header.tensors}
        self._handle = os.open(path, os.O_RDONLY)

    def fault(self, problem: str, hint: str = "") -> ArtifactError:
        """Return an error that names this file."""
        return ArtifactError(f"{self.path.name}: {problem}", hint=hint)

    def strings(self, key: str) -> list[str]:
        """Return an array of texts; empty if the key is missing.

        Raises ArtifactError for any other value.
        """
        value = self.metadata.get(key, ())
        if isinstance(value, tuple) and all(isinstance(text, str) for text in value):
            return list(value)
        if not isinstance(value, Array) or value.kind != _STRING:
            raise self.fault(f"metadata `{key}` is not a list of texts")

        texts = []
        with self.path.open("rb") as stream:
            stream.seek(value.offset)
            for place in range(value.count):
                (length,) = struct.unpack("<Q", stream.read(8))
                try:
                    texts.append(stream.read(length).decode("utf-8"))
                except UnicodeDecodeError as error:
                    raise self.fault(f"item {place} of `{key}` is not UTF-8") from error

        return texts

    def numbers(self, key: str) -> "NDArray[Any] | None":
        """Return an array of numbers; None if the key is missing.

        Raises ArtifactError for any other value.
        """
        import numpy as np

        value = self.metadata.get(key)
        if value is None:
            return None
        if isinstance(value, tuple) and all(type(item) in (int, float) for item in value):
            return np.array(value)
        if not isinstance(value, Array) or value.kind not in _NUMBERS:
            raise self.fault(f"metadata `{key}` is not a list of numbers")
        return np.fromfile(self.path, _NUMBERS[value.kind], count=value.count, offset=value.offset)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape as checkpoints have it: the length of a row last."""
        return tuple(reversed(self.tensors[name].shape))

    def rows(self, name: str, first: int, count: int) -> "NDArray[np.float32]":
        """Return rows `first` to `first + count` of a tensor as float32 [count, row length]."""
        import numpy as np

        tensor = self.tensors[name]
        length = tensor.shape[0]
        kind = Type[tensor.type]
        row_bytes = ggml.row_bytes(kind, length)
        raw = os.pread(self._handle, count * row_bytes, tensor.offset + first * row_bytes)
        if len(raw) != count * row_bytes:
            raise self.fault(f"tensor `{name}`: the file became shorter while it was read")
        packed = np.frombuffer(bytearray(raw), np.uint8)
        return ggml.dequantize_rows(kind, packed, length)

    def whole(self, name: str) -> "NDArray[np.float32]":
        """Return a whole small tensor, flattened."""
        return self.rows(name, 0, math.prod(self.shape(name)[:-1])).reshape(-1)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def __enter__(self) -> "GgufFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_gguf(path: Path) -> GgufFile:
    """Open a language model in one file.

    Raises ArtifactError for a bad header, a part of a model, and a file of another kind.
    """
    file = GgufFile(path)
    try:
        _check_kind(file)
    except ArtifactError:
        file.close()
        raise
    return file


def _check_kind(file: GgufFile) -> None:
    kind = str(file.metadata.get("general.type", "model"))
    if kind != "model":
        raise file.fault(
            f"holds no model, but `{kind}`", hint=f"it is {_NOT_A_MODEL.get(kind, 'no base')}"
        )
    parts = file.metadata.get("split.count", 1)
    if parts not in (0, 1):
        hint = "join them with `llama-gguf-split --merge` of llama.cpp"
        raise file.fault(f"is one of {parts} parts of a model", hint=hint)
    if not file.tensors:
        raise file.fault("holds a vocabulary and no weights", hint="give the file of the model")
