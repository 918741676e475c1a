"""How each scheme stores matrices, and which operators multiply with them.

Inputs and outputs of all schemes are float32: ONNX Runtime's CPU kernels have no other type for a
whole decoder. `int4_b32` has codes of 4 bits in blocks of 32 with a float32 scale each, (q − 8)·d:
the grid of llama.cpp's Q4_0, whose codes it holds unchanged in another order of nibbles.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toolchain.config import closest
from toolchain.errors import ArtifactError, ConfigError
from toolchain.quantize.four_bits import Codes
from toolchain.quantize.matrices import BITS, F16, F32, I4, Matrix, Packed, Promise, Rows
from toolchain.quantize.onnx.blueprint import MICROSOFT, Blueprint, Value
from toolchain.recipe import QuantizeSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK = 32
"""Weights that share a scale in int4."""
ACCURACY_LEVEL = 4
"""Activations are rounded to 8 bits, as in llama.cpp."""
# Without it MatMulNBits multiplies in float32: 2.4 times slower here, 3.6 times on an Apple M1
# (onnxruntime/mobius#402).


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """One way to store a model."""

    name: str
    type: str
    """Type of all matrices."""

    @property
    def nominal_bpw(self) -> float:
        """Bits per weight, with the scales."""
        return BITS[self.type] + (32 / BLOCK if self.type == I4 else 0)


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme(name="fp32", type=F32),
        Scheme(name="fp16", type=F16),
        Scheme(name="int4_b32", type=I4),
    )
}
"""Schemes by name."""
LEARNABLE = "int4_b32"
"""Scheme whose codes may be learned."""


def learns(spec: QuantizeSpec) -> bool:
    """Say whether the codes of the file are learned."""
    return bool(spec.distill) and spec.onnx_scheme == LEARNABLE


def find_scheme(name: str) -> Scheme:
    """Return a scheme by its name; raise ConfigError for one that does not exist."""
    if name not in SCHEMES:
        raise ConfigError(
            f"quantize: unknown ONNX scheme `{name}`", hint=closest(name, list(SCHEMES))
        )
    return SCHEMES[name]


# Nodes --------------------------------------------------------------------------------------------


def linear(blueprint: Blueprint, value: Value, kind: str, matrix: Matrix) -> Value:
    """Return value · matrixᵀ."""
    if kind == I4:
        return _linear_in_blocks(blueprint, value, matrix)

    # FusedMatMul takes the rows as they are, so nothing is transposed when the file is written.
    return blueprint.node(
        "FusedMatMul",
        [value, _widened(blueprint, kind, matrix)],
        {"transB": 1},
        domain=MICROSOFT,
    )


def look_up(blueprint: Blueprint, tokens: Value, kind: str, matrix: Matrix) -> Value:
    """Return the embedding rows of tokens."""
    if kind == I4:
        return _look_up_in_blocks(blueprint, tokens, matrix)

    rows = blueprint.node("Gather", [_plain(blueprint, kind, matrix), tokens])
    return blueprint.node("Cast", [rows], {"to": 1}) if kind == F16 else rows


def _plain(blueprint: Blueprint, kind: str, matrix: Matrix) -> Value:
    shape = (matrix.rows, matrix.columns)
    return blueprint.promised(Promise(matrix, kind, shape=shape), shape)


def _widened(blueprint: Blueprint, kind: str, matrix: Matrix) -> Value:
    """Return a matrix as float32: ONNX Runtime computes the cast once, when the file is loaded."""
    plain = _plain(blueprint, kind, matrix)
    return blueprint.node("Cast", [plain], {"to": 1}) if kind == F16 else plain


def _linear_in_blocks(blueprint: Blueprint, value: Value, matrix: Matrix) -> Value:
    codes, scales = _in_blocks(matrix)
    blocks = matrix.columns // BLOCK
    return blueprint.node(
        "MatMulNBits",
        [
            value,
            blueprint.promised(codes, (matrix.rows, blocks, BLOCK // 2)),
            blueprint.promised(scales, (matrix.rows * blocks,)),
        ],
        {
            "K": matrix.columns,
            "N": matrix.rows,
            "accuracy_level": ACCURACY_LEVEL,
            "bits": 4,
            "block_size": BLOCK,
        },
        domain=MICROSOFT,
    )


def _look_up_in_blocks(blueprint: Blueprint, tokens: Value, matrix: Matrix) -> Value:
    codes, scales = _in_blocks(matrix)
    blocks = matrix.columns // BLOCK
    # A head that is tied shows the same bytes in the shapes of MatMulNBits.
    return blueprint.node(
        "GatherBlockQuantized",
        [
            blueprint.promised(codes, (matrix.rows, matrix.columns // 2), suffix=".table"),
            tokens,
            blueprint.promised(scales, (matrix.rows, blocks), suffix=".table"),
        ],
        {"bits": 4, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1},
        domain=MICROSOFT,
    )


def _in_blocks(matrix: Matrix) -> tuple[Promise, Promise]:
    if matrix.columns % BLOCK:
        raise ArtifactError(
            f"int4_b32: rows of {matrix.columns} are not divisible by {BLOCK}", hint="use `fp16`"
        )
    codes = Promise(matrix, I4, shape=(matrix.rows, matrix.columns))
    scales = Promise(matrix, F32, "scales", (matrix.rows, matrix.columns // BLOCK))
    return codes, scales


# Bytes --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Packer:
    """Turns rows of the checkpoint into bytes of the data file."""

    codes: Codes = field(default_factory=Codes)

    def pack(self, rows: Rows) -> Packed:
        """Return the bytes of the weights and of their scales."""
        import numpy as np

        if rows.type != I4:
            stored = rows.values.astype({F32: "<f4", F16: "<f2"}[rows.type], copy=False)
            return np.ascontiguousarray(stored).view(np.uint8), np.empty(0, np.uint8)

        return from_q4_0(self.codes.blocks(rows))


def from_q4_0(packed: "NDArray[np.uint8]") -> Packed:
    """Return Q4_0 blocks as MatMulNBits holds them: codes two in a byte, and float32 scales.

    Byte j of a Q4_0 block has codes j and j + 16 (ggml-common.h, `block_q4_0`); byte j of a block
    of MatMulNBits has codes 2j and 2j + 1, the lower half first.
    """
    import numpy as np

    blocks = packed.reshape(-1, 2 + BLOCK // 2)
    scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype("<f4")
    even, odd = blocks[:, 2::2], blocks[:, 3::2]
    first_half = (even & 0x0F) | (odd & 0x0F) << 4
    second_half = even >> 4 | (odd & 0xF0)
    codes = np.concatenate([first_half, second_half], axis=1)

    return codes.reshape(-1), scales.reshape(-1).view(np.uint8)
