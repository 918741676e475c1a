"""How each scheme stores matrices, and how a graph multiplies with them; named as in LiteRT.

`dynamic_wi8_afp32` has the one 8-bit form that every runtime computes correctly: rows quantized by
their own scale, the tensor's scale 1, and an explicit multiplication. With scales in the tensor,
tflite-runtime 2.14 answers nonsense without an error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolchain.config import closest
from toolchain.errors import ArtifactError, ConfigError
from toolchain.quantize.matrices import BITS, F16, F32, I4, I8, Matrix, Packed, Promise, Rows
from toolchain.quantize.tflite.graph import Graph, Value, in_blocks, quantization

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK = 32
"""Weights that share a scale in int4."""
LITERT, LEGACY = "litert", "tflite-runtime"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """One way to store a model."""

    name: str
    head: str
    """Type of the embedding and the head."""
    layers: str
    """Type of all other matrices."""
    engines: tuple[str, ...] = (LITERT, LEGACY)
    """Engines that compute it correctly."""

    @property
    def nominal_bpw(self) -> float:
        """Bits per weight of the type that the scheme is named after."""
        return BITS[self.layers] + (16 / BLOCK if self.layers == I4 else 0)


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme(name="fp32", head=F32, layers=F32),
        Scheme(name="fp16", head=F16, layers=F16),
        Scheme(name="dynamic_wi8_afp32", head=I8, layers=I8),
        Scheme(name="dynamic_wi4_afp32_block32", head=I8, layers=I4, engines=(LITERT,)),
    )
}
"""Schemes by name. tflite-runtime 2.14 crashes on 4 bits in blocks (segmentation fault)."""


def find_scheme(name: str) -> Scheme:
    """Return a scheme by its name; raise ConfigError for one that does not exist."""
    if name not in SCHEMES:
        raise ConfigError(
            f"quantize: unknown TFLite scheme `{name}`", hint=closest(name, list(SCHEMES))
        )
    return SCHEMES[name]


def linear(
    graph: Graph, value: Value, kind: str, matrix: Matrix, bias: "NDArray[np.float32] | None"
) -> Value:
    """Return value · matrixᵀ + bias."""
    offset = None if bias is None else graph.constant(bias)
    if kind == F32:
        return graph.linear(value, _plain(graph, F32, matrix), offset)
    if kind == F16:
        return graph.linear(value, _widened(graph, matrix), offset)
    if kind == I4:
        return _biased(graph, graph.linear(value, _blocks(graph, matrix), version=12), offset)
    product = graph.linear(value, _rows(graph, matrix), version=9)
    return _biased(graph, graph.mul(product, _scales(graph, matrix, (matrix.rows,))), offset)


def look_up(graph: Graph, tokens: Value, kind: str, matrix: Matrix) -> Value:
    """Return the embedding rows of tokens."""
    if kind == F32:
        return graph.look_up(_plain(graph, F32, matrix), tokens, 1)
    if kind == F16:
        return graph.look_up(_widened(graph, matrix), tokens, 1)
    rows = graph.look_up(_rows(graph, matrix), tokens, 3)
    return graph.mul(rows, graph.gather(_scales(graph, matrix, (matrix.rows, 1)), tokens))


def _biased(graph: Graph, value: Value, bias: Value | None) -> Value:
    return value if bias is None else graph.add(value, bias)


def _plain(graph: Graph, kind: str, matrix: Matrix) -> Value:
    return graph.promised(Promise(matrix, kind, shape=(matrix.rows, matrix.columns)))


def _widened(graph: Graph, matrix: Matrix) -> Value:
    return graph.once(("widened", matrix), lambda: graph.widened(_plain(graph, F16, matrix)))


def _rows(graph: Graph, matrix: Matrix) -> Value:
    import numpy as np

    one = quantization(graph.blueprint, np.ones(1, np.float32))
    return graph.promised(Promise(matrix, I8, shape=(matrix.rows, matrix.columns)), one)


def _scales(graph: Graph, matrix: Matrix, shape: tuple[int, ...]) -> Value:
    return graph.promised(Promise(matrix, F32, "scales", (matrix.rows,)), shape=shape)


def _blocks(graph: Graph, matrix: Matrix) -> Value:
    if matrix.columns % BLOCK:
        raise ArtifactError(
            f"int4: rows of {matrix.columns} are not divisible by {BLOCK}",
            hint="use `dynamic_wi8_afp32`",
        )
    scales = graph.promised(Promise(matrix, F16, "scales", (matrix.rows, matrix.columns // BLOCK)))
    weights = Promise(matrix, I4, shape=(matrix.rows, matrix.columns))
    return graph.promised(weights, in_blocks(graph.blueprint, scales, BLOCK))


def _pack_plain(kind: str) -> Callable[["NDArray[np.float32]"], Packed]:
    def pack(rows: "NDArray[np.float32]") -> Packed:
        """Return the bytes of rows; there are no scales."""
        import numpy as np

        stored = rows.astype({F32: "<f4", F16: "<f2"}[kind], copy=False)
        return np.ascontiguousarray(stored).view(np.uint8), np.empty(0, np.uint8)

    return pack


def _pack_rows(rows: "NDArray[np.float32]") -> Packed:
    """Quantize each row to -127…127 by its largest weight; a row of zeros stays zeros."""
    import numpy as np

    scales = np.maximum(np.abs(rows).max(1), np.float32(1e-12)) / np.float32(127)
    return np.rint(rows / scales[:, None]).astype(np.int8).view(np.uint8), scales.view(np.uint8)


def _pack_blocks(rows: "NDArray[np.float32]") -> Packed:
    """Quantize blocks of 32 to -7…7 by the largest weight, two in a byte, lower half first."""
    import numpy as np

    blocks = rows.reshape(-1, BLOCK)
    scales = (np.maximum(np.abs(blocks).max(1), np.float32(1e-6)) / np.float32(7)).astype(
        np.float16
    )
    whole = (
        np.clip(np.rint(blocks / scales.astype(np.float32)[:, None]), -7, 7)
        .astype(np.int8)
        .view(np.uint8)
        .reshape(-1)
    )

    return (whole[0::2] & 0xF) | (whole[1::2] << 4), scales.view(np.uint8)


PACKERS: dict[str, Callable[["NDArray[np.float32]"], Packed]] = {
    F32: _pack_plain(F32),
    F16: _pack_plain(F16),
    I8: _pack_rows,
    I4: _pack_blocks,
}
"""Type → function from float32 rows to its bytes."""


def pack(rows: Rows) -> Packed:
    """Return the bytes of rows in the type that they are stored as."""
    return PACKERS[rows.type](rows.values)
