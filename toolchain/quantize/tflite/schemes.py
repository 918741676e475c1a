"""How each scheme stores matrices, and how a graph multiplies with them; named as in LiteRT.

`dynamic_wi8_afp32` has the one 8-bit form that every runtime computes correctly: rows quantized by
their own scale, the tensor's scale 1, and an explicit multiplication. With scales in the tensor,
tflite-runtime 2.14 answers nonsense without an error.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toolchain.config import closest
from toolchain.errors import ArtifactError, ConfigError
from toolchain.quantize.four_bits import Codes
from toolchain.quantize.matrices import BITS, F16, F32, I4, I8, Matrix, Packed, Promise, Rows
from toolchain.quantize.tflite.graph import Graph, Value, in_blocks, quantization
from toolchain.recipe import QuantizeSpec
from toolchain.tools import ggml
from toolchain.tools.ggml import Type

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK = 32
"""Weights that share a scale in int4."""
TINY = 6e-8
"""Smallest scale: zero and below are refused by XNNPACK."""
SHARES = tuple(share / 20 for share in range(14, 23))
"""Shares of a block's largest weight ÷ 7 that its scale is tried with."""
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
LEARNABLE = "dynamic_wi4_afp32_block32"
"""Scheme whose codes may be learned."""


def learns(spec: QuantizeSpec) -> bool:
    """Say whether the codes of the file are learned."""
    return bool(spec.distill) and spec.tflite_scheme == LEARNABLE


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


def in_q4_0(
    kind: Type, rows: "NDArray[np.float32]", weights: "NDArray[np.float32] | None" = None
) -> "NDArray[np.uint8]":
    """Return rows [rows, columns] as blocks of Q4_0 that this format can hold; others as ggml's.

    Its scales must be positive, where ggml's may have either sign. A block's scale is its largest
    weight ÷ 7; with the `weights` of its columns' errors, the best of a few near that.
    """
    import numpy as np

    if kind != Type.Q4_0:
        return ggml.pack(kind, rows, weights)

    blocks = rows.reshape(-1, BLOCK)
    largest = np.maximum(np.abs(blocks).max(1, keepdims=True), np.float32(1e-6))
    scales, codes = _rounded(blocks, largest / np.float32(7), low=-7)
    if weights is not None:
        counts = np.tile(weights.astype(np.float32).reshape(-1, BLOCK), (len(rows), 1))
        least = _error(blocks, scales, codes, counts)
        for share in SHARES:
            others = _rounded(blocks, largest * np.float32(share / 7), low=-8)
            error = _error(blocks, *others, counts)
            better = error < least
            scales = np.where(better, others[0], scales)
            codes = np.where(better, others[1], codes)
            least = np.where(better, error, least)

    packed = np.empty((len(blocks), 2 + BLOCK // 2), np.uint8)
    packed[:, :2] = np.ascontiguousarray(scales).view(np.uint8)
    unsigned = (codes + 8).astype(np.uint8)
    packed[:, 2:] = unsigned[:, : BLOCK // 2] | unsigned[:, BLOCK // 2 :] << 4
    return packed.reshape(-1)


def _rounded(
    blocks: "NDArray[np.float32]", scales: "NDArray[np.float32]", *, low: int
) -> "tuple[NDArray[np.float16], NDArray[np.int8]]":
    """Return float16 scales [blocks, 1] and codes [blocks, 32] from `low` to 7."""
    import numpy as np

    halves = scales.astype(np.float16)
    codes = np.clip(np.rint(blocks / halves.astype(np.float32)), low, 7)
    return halves, codes.astype(np.int8)


def _error(
    blocks: "NDArray[np.float32]",
    scales: "NDArray[np.float16]",
    codes: "NDArray[np.int8]",
    counts: "NDArray[np.float32]",
) -> "NDArray[np.float32]":
    """Return the weighed squared error of each block, [blocks, 1]."""
    wrong = codes * scales.astype("float32") - blocks
    error: NDArray[np.float32] = (counts * wrong**2).sum(1, keepdims=True)
    return error


def from_q4_0(packed: "NDArray[np.uint8]") -> Packed:
    """Return Q4_0 blocks as this format holds them: signed codes two in a byte, float16 scales.

    A scale below zero, which learning may have made of a tiny one, changes its sign with its codes;
    +8 is then held as 7.
    """
    import numpy as np

    blocks = packed.reshape(-1, 2 + BLOCK // 2)
    scales = np.ascontiguousarray(blocks[:, :2]).view("<f2")
    halves = blocks[:, 2:]
    codes = np.concatenate([halves & 15, halves >> 4], axis=1).astype(np.int8) - np.int8(8)
    codes = np.where(scales < 0, np.minimum(-codes, 7), codes).astype(np.int8)
    nibbles = codes.view(np.uint8) & np.uint8(15)
    positive = np.maximum(np.abs(scales), np.float16(TINY))

    both = nibbles[:, 0::2] | nibbles[:, 1::2] << np.uint8(4)
    return both.reshape(-1), positive.reshape(-1).view(np.uint8)


PACKERS: dict[str, Callable[["NDArray[np.float32]"], Packed]] = {
    F32: _pack_plain(F32),
    F16: _pack_plain(F16),
    I8: _pack_rows,
}
"""Type → function from float32 rows to its bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packer:
    """Turns rows of the checkpoint into bytes in the type that they are stored as."""

    codes: Codes = field(default_factory=lambda: Codes(pack=in_q4_0))

    def pack(self, rows: Rows) -> Packed:
        """Return the bytes of the weights and of their scales."""
        if rows.type == I4:
            return from_q4_0(self.codes.blocks(rows))
        return PACKERS[rows.type](rows.values)
