"""An ONNX graph under construction: nodes in the order in which they run, and external data.

Weights do not pass through here: an external tensor is bytes or a promise with a place in the data
file. Only constants of a few bytes, such as shapes, are in the graph itself.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolchain.quantize.matrices import F16, F32, I4, Promise
from toolchain.tools import onnx as library

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALIGNMENT = 64
"""Bytes that each tensor of the data file is aligned to."""
OPSET, IR_VERSION = 21, 10
# onnxruntime 1.23 is the last one for Python 3.10; it reads both.
MICROSOFT = "com.microsoft"
"""Domain of the operators that only ONNX Runtime has."""
_STORED = {F32: "FLOAT", F16: "FLOAT16", I4: "UINT8"}
"""Type of a promise → type of its tensor. Codes of 4 bits lie two in a byte."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph."""

    name: str


NONE = Value("")
"""An input or output that is left out."""


class Blueprint:
    """Nodes, inputs, outputs and tensors of one graph."""

    def __init__(self, data_name: str) -> None:
        """Begin a graph whose weights lie in the file `data_name` beside it."""
        self._onnx = library.module()
        self._helper = self._onnx.helper
        self._data_name = data_name
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._tensors: dict[str, Any] = {}
        self._places: dict[Promise | bytes, int] = {}
        self.data_bytes = 0
        """Size of the data file so far."""

    # Inputs and outputs

    def input(self, name: str, kind: str, shape: Sequence[int | str]) -> Value:
        """Return a tensor that the caller fills; a text in its shape is a length that varies."""
        self._inputs.append(self._described(name, kind, shape))
        return Value(name)

    def output(self, name: str, shape: Sequence[int | str]) -> Value:
        """Return a float32 tensor that the caller reads."""
        self._outputs.append(self._described(name, "FLOAT", shape))
        return Value(name)

    def _described(self, name: str, kind: str, shape: Sequence[int | str]) -> Any:
        number = getattr(self._onnx.TensorProto, kind)
        return self._helper.make_tensor_value_info(name, number, list(shape))

    # Nodes

    def node(
        self,
        operator: str,
        inputs: Sequence[Value],
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        outputs: Sequence[Value] = (),
    ) -> Value:
        """Append a node and return its first output, which gets a name if none is given."""
        name = f"{operator}_{len(self._nodes)}"
        results = outputs or (Value(name),)
        node = self._helper.make_node(
            operator,
            [value.name for value in inputs],
            [value.name for value in results],
            name=name,
            domain=domain,
            **(attributes or {}),
        )
        self._nodes.append(node)
        return results[0]

    # Tensors

    def constant(self, name: str, values: "NDArray[Any]") -> Value:
        """Return a small constant that is part of the graph; equal names are one tensor."""
        if name not in self._tensors:
            self._tensors[name] = self._onnx.numpy_helper.from_array(values, name)
        return Value(name)

    def whole(self, name: str, values: "NDArray[np.float32]") -> Value:
        """Return a float32 tensor of the data file whose values are known."""
        content = values.astype("<f4", copy=False).tobytes()
        return self._external(name, "FLOAT", values.shape, content, len(content))

    def promised(
        self, promise: Promise, shape: Sequence[int], *, suffix: str = "", kind: str = ""
    ) -> Value:
        """Return a tensor of the data file that is written later.

        Several tensors, with a suffix each, may show the same bytes in other shapes.
        """
        stored = kind or _STORED[promise.type]
        return self._external(promise.name + suffix, stored, shape, promise, promise.size_bytes)

    def _external(
        self,
        name: str,
        kind: str,
        shape: Sequence[int],
        content: Promise | bytes,
        size: int,
    ) -> Value:
        if name in self._tensors:
            return Value(name)

        tensor = self._onnx.TensorProto(name=name, dims=list(shape))
        tensor.data_type = getattr(self._onnx.TensorProto, kind)
        tensor.data_location = self._onnx.TensorProto.EXTERNAL
        place = self._place(content, size)
        for key, value in (("location", self._data_name), ("offset", place), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))

        self._tensors[name] = tensor
        return Value(name)

    def _place(self, content: Promise | bytes, size: int) -> int:
        if content not in self._places:
            start = math.ceil(self.data_bytes / ALIGNMENT) * ALIGNMENT
            self._places[content] = start
            self.data_bytes = start + size
        return self._places[content]

    # The files

    def promises(self) -> dict[Promise, int]:
        """Return the offset of each promise in the data file."""
        return {
            content: place
            for content, place in self._places.items()
            if isinstance(content, Promise)
        }

    def contents(self) -> Iterator[tuple[int, bytes]]:
        """Yield offset and bytes of everything in the data file that is already known."""
        for content, place in self._places.items():
            if isinstance(content, bytes):
                yield place, content

    def serialized(self, notes: Mapping[str, str]) -> bytes:
        """Return the bytes of the model file; `notes` are metadata of the model."""
        graph = self._helper.make_graph(
            self._nodes, "decoder", self._inputs, self._outputs, list(self._tensors.values())
        )
        opsets = [
            self._helper.make_opsetid("", OPSET),
            self._helper.make_opsetid(MICROSOFT, 1),
        ]
        model = self._helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="demitasse"
        )
        self._helper.set_model_props(model, dict(notes))
        serialized: bytes = model.SerializeToString(deterministic=True)
        return serialized
