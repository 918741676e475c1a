"""TFLite graphs, built of the official schema's objects: operators, versions, options and shapes.

Operators are those of every LiteRT runtime since tflite-runtime 2.14, in the oldest version for
their types.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from toolchain.quantize.matrices import F32, I4, I8, I32, Promise
from toolchain.quantize.tflite.blueprint import Blueprint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CONSTANTS = {"float32": F32, "int32": I32}


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of one graph."""

    index: int
    shape: tuple[int, ...]
    type: str = F32


@dataclass(slots=True)
class Graph:
    """One signature: tensors and operators in the order in which they run."""

    blueprint: Blueprint
    name: str
    inputs: dict[str, Value] = field(default_factory=dict)
    _tensors: list[Any] = field(default_factory=list)
    _operators: list[Any] = field(default_factory=list)
    _known: dict[Any, Value] = field(default_factory=dict)

    # Tensors

    def input(self, name: str, shape: tuple[int, ...], kind: str = F32) -> Value:
        """Return a tensor that the caller fills."""
        self.inputs[name] = self._tensor(shape, kind)
        return self.inputs[name]

    def constant(self, values: "NDArray[Any]") -> Value:
        """Return a constant tensor."""
        content = values.tobytes()
        kind = _CONSTANTS[values.dtype.name]
        return self.once(
            (values.shape, kind, content),
            lambda: self._tensor(values.shape, kind, self.blueprint.buffer(content)),
        )

    def numbers(self, *values: int) -> Value:
        """Return a constant vector of whole numbers."""
        import numpy as np

        return self.constant(np.array(values, np.int32))

    def scalar(self, value: float) -> Value:
        """Return a constant of one number."""
        import numpy as np

        return self.constant(np.array([value], np.float32))

    def promised(
        self, promise: Promise, quantization: Any = None, shape: tuple[int, ...] = ()
    ) -> Value:
        """Return a tensor whose bytes come later."""
        buffer = self.blueprint.buffer(promise)
        place = shape or promise.shape
        return self.once(
            (promise, shape),
            lambda: self._tensor(place, promise.type, buffer, quantization, promise.name),
        )

    def once(self, key: Any, make: Callable[[], Value]) -> Value:
        """Return the value of a key, made at the first call."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def _tensor(
        self,
        shape: Sequence[int],
        kind: str,
        buffer: int = 0,
        quantization: Any = None,
        name: str = "",
    ) -> Value:
        import numpy as np

        schema = self.blueprint.schema
        entry = self.blueprint.schema.TensorT()
        entry.shape = np.array(shape, np.int32)
        entry.type = getattr(schema.TensorType, kind)
        entry.buffer = buffer
        entry.name = name or f"{self.name}/{len(self._tensors)}"
        entry.quantization = quantization
        self._tensors.append(entry)
        return Value(len(self._tensors) - 1, tuple(shape), kind)

    # Operators

    def _run(
        self,
        operator: str,
        inputs: Sequence[Value | None],
        shape: Sequence[int],
        kind: str = F32,
        version: int = 1,
        options: tuple[str, dict[str, Any]] | None = None,
    ) -> Value:
        import numpy as np

        schema = self.blueprint.schema
        entry = self.blueprint.schema.OperatorT()
        result = self._tensor(shape, kind)
        entry.opcodeIndex = self.blueprint.code(operator, version)
        entry.inputs = np.array(
            [-1 if value is None else value.index for value in inputs], np.int32
        )
        entry.outputs = np.array([result.index], np.int32)
        if options:
            name, fields = options
            entry.builtinOptionsType = getattr(schema.BuiltinOptions, f"{name}Options")
            entry.builtinOptions = getattr(schema, f"{name}OptionsT")()
            for key, value in fields.items():
                setattr(entry.builtinOptions, key, value)

        self._operators.append(entry)
        return result

    def _pairwise(self, operator: str, name: str, one: Value, other: Value) -> Value:
        import numpy as np

        return self._run(
            operator,
            [one, other],
            np.broadcast_shapes(one.shape, other.shape),
            one.type,
            options=(name, {}),
        )

    def add(self, one: Value, other: Value) -> Value:
        """Return the sum, broadcast."""
        return self._pairwise("ADD", "Add", one, other)

    def sub(self, one: Value, other: Value) -> Value:
        """Return the difference, broadcast."""
        return self._pairwise("SUB", "Sub", one, other)

    def mul(self, one: Value, other: Value) -> Value:
        """Return the product, element by element, broadcast."""
        return self._pairwise("MUL", "Mul", one, other)

    def _each(
        self, operator: str, value: Value, options: tuple[str, dict[str, Any]] | None = None
    ) -> Value:
        return self._run(operator, [value], value.shape, options=options)

    def relu(self, value: Value) -> Value:
        """Return the value, with negative elements set to 0."""
        return self._each("RELU", value)

    def rsqrt(self, value: Value) -> Value:
        """Return 1 / √value."""
        return self._each("RSQRT", value)

    def tanh(self, value: Value) -> Value:
        """Return the hyperbolic tangent."""
        return self._each("TANH", value)

    def silu(self, value: Value) -> Value:
        """Return x · sigmoid(x)."""
        return self.mul(value, self._each("LOGISTIC", value))

    def gelu(self, value: Value) -> Value:
        """Return GELU in its tanh approximation."""
        return self._each("GELU", value, ("Gelu", {"approximate": True}))

    def softmax(self, value: Value) -> Value:
        """Return the softmax along the last axis."""
        return self._each("SOFTMAX", value, ("Softmax", {"beta": 1.0}))

    def real(self, value: Value) -> Value:
        """Return whole numbers as float32."""
        return self._run("CAST", [value], value.shape, options=("Cast", {}))

    def widened(self, value: Value) -> Value:
        """Return float16 as float32."""
        return self._run("DEQUANTIZE", [value], value.shape, version=3, options=("Dequantize", {}))

    def mean(self, value: Value, axis: int) -> Value:
        """Return the mean along an axis, which stays with length 1."""
        shape = [*value.shape[:axis], 1, *value.shape[axis + 1 :]]
        return self._run(
            "MEAN", [value, self.numbers(axis)], shape, options=("Reducer", {"keepDims": True})
        )

    def reshape(self, value: Value, *shape: int) -> Value:
        """Return the same elements in another shape."""
        if shape == value.shape:
            return value
        options = ("Reshape", {"newShape": list(shape)})
        return self._run(
            "RESHAPE", [value, self.numbers(*shape)], shape, value.type, options=options
        )

    def slice(self, value: Value, axis: int, first: int, count: int) -> Value:
        """Return `count` places along an axis; STRIDED_SLICE would decode five times as slowly."""
        if (first, count) == (0, value.shape[axis]):
            return value
        begin = [0] * len(value.shape)
        shape = list(value.shape)
        begin[axis] = first
        shape[axis] = count
        inputs = [value, self.numbers(*begin), self.numbers(*shape)]
        return self._run("SLICE", inputs, shape, value.type, options=("Slice", {}))

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Return the values one after the other along an axis."""
        shape = list(values[0].shape)
        shape[axis] = sum(value.shape[axis] for value in values)
        return self._run(
            "CONCATENATION",
            values,
            shape,
            values[0].type,
            options=("Concatenation", {"axis": axis}),
        )

    def transpose(self, value: Value, *axes: int) -> Value:
        """Return the value with its axes in another order."""
        return self._run(
            "TRANSPOSE",
            [value, self.numbers(*axes)],
            [value.shape[axis] for axis in axes],
            options=("Transpose", {}),
        )

    def matmul(self, one: Value, other: Value, *, transposed: bool = False) -> Value:
        """Return batched products over the last two axes; the right one may be transposed."""
        width = other.shape[-2] if transposed else other.shape[-1]
        return self._run(
            "BATCH_MATMUL",
            [one, other],
            (*one.shape[:-1], width),
            options=("BatchMatMul", {"adjY": transposed}),
        )

    def gather(self, table: Value, places: Value) -> Value:
        """Return rows of a table."""
        return self._run(
            "GATHER", [table, places], (*places.shape, *table.shape[1:]), options=("Gather", {})
        )

    def look_up(self, table: Value, tokens: Value, version: int) -> Value:
        """Return rows of an embedding, as float32."""
        return self._run(
            "EMBEDDING_LOOKUP", [tokens, table], (*tokens.shape, table.shape[1]), version=version
        )

    def put(self, cache: Value, rows: Value, start: Value) -> Value:
        """Return the cache with rows written from `start` on."""
        return self._run("DYNAMIC_UPDATE_SLICE", [cache, rows, start], cache.shape)

    def linear(
        self, value: Value, weights: Value, bias: Value | None = None, version: int = 1
    ) -> Value:
        """Return value · weightsᵀ + bias; for integer weights the value is quantized by row."""
        options = {"asymmetricQuantizeInputs": weights.type in (I8, I4)}
        shape = (*value.shape[:-1], weights.shape[0])
        return self._run(
            "FULLY_CONNECTED",
            [value, weights, bias],
            shape,
            version=version,
            options=("FullyConnected", options),
        )

    def finish(self, outputs: dict[str, Value]) -> None:
        """Make the graph a signature of the model."""
        schema = self.blueprint.schema
        model = self.blueprint.model
        entry = schema.SubGraphT()
        signature = schema.SignatureDefT()
        entry.name = self.name
        entry.tensors = self._tensors
        entry.operators = self._operators
        entry.inputs = [value.index for value in self.inputs.values()]
        entry.outputs = [value.index for value in outputs.values()]
        signature.signatureKey = self.name
        signature.subgraphIndex = len(model.subgraphs)
        signature.inputs = self._map(self.inputs)
        signature.outputs = self._map(outputs)
        model.subgraphs.append(entry)
        model.signatureDefs.append(signature)

    def _map(self, values: dict[str, Value]) -> list[Any]:
        entries = []
        for name, value in values.items():
            entry = self.blueprint.schema.TensorMapT()
            entry.name = name
            entry.tensorIndex = value.index
            entries.append(entry)
        return entries


def quantization(blueprint: Blueprint, scale: "NDArray[np.float32]") -> Any:
    """Return the quantization of a symmetric tensor."""
    import numpy as np

    entry = blueprint.schema.QuantizationParametersT()
    entry.scale = scale
    entry.zeroPoint = np.zeros(len(scale), np.int64)
    entry.quantizedDimension = 0
    return entry


def in_blocks(blueprint: Blueprint, scales: Value, block: int) -> Any:
    """Return the quantization of a tensor whose rows are cut into blocks with a scale each."""
    schema = blueprint.schema
    details = schema.BlockwiseQuantizationT()
    details.scales = scales.index
    details.blockSize = block
    details.zeroPoints = -1

    entry = schema.QuantizationParametersT()
    entry.detailsType = schema.QuantizationDetails.BlockwiseQuantization
    entry.details = details
    return entry
