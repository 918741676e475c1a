"""Codes on the grid of Q4_0 for containers other than GGUF: rounded by importance, or learned.

ONNX's and TFLite's blocks of 32 are that grid with another order of the codes, so one learning
serves all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.artifacts import RESUME, Figures
from toolchain.models.architecture import Model
from toolchain.models.lora import Lora
from toolchain.progress import Reporter
from toolchain.quantize.gguf import NOTHING, Additions, importance_of
from toolchain.quantize.matrices import Rows
from toolchain.recipe import InFormatSpec, QuantizeSpec
from toolchain.tools import ggml
from toolchain.tools.ggml import Pack, Type

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toolchain.quantize.learned.in_format import Learned

SCHEME = "Q4_0"
"""Scheme of a GGUF whose blocks are those of this grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A checkpoint that was opened and checked, and what its codes are learned by."""

    folder: Path
    model: Model
    lora: Lora | None
    distill: InFormatSpec | None
    head: Type = Type.Q4_0
    """Type nearest to what holds embedding and head; only matrices of layers are learned."""
    pack: Pack = ggml.pack
    """Rounds rows to blocks where nothing is learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """What decides the codes of each matrix, by its name in the checkpoint."""

    importance: "Mapping[str, NDArray[np.float32]]" = field(default_factory=dict)
    """Weight of the errors of each column."""
    learned: "Mapping[str, NDArray[np.uint8]]" = field(default_factory=dict)
    """Q4_0 blocks of tensors whose codes were learned."""
    vectors: "Mapping[str, NDArray[np.float32]]" = field(default_factory=dict)
    """Learned vectors, which replace the checkpoint's."""
    pack: Pack = ggml.pack

    def blocks(self, rows: Rows) -> "NDArray[np.uint8]":
        """Return rows as blocks of Q4_0: learned, or rounded."""
        if rows.origin in self.learned:
            size = ggml.row_bytes(Type.Q4_0, rows.values.shape[1])
            first = rows.first * size
            return self.learned[rows.origin][first : first + len(rows.values) * size]
        return self.pack(Type.Q4_0, rows.values, self.importance.get(rows.origin))


def used(additions: Additions, spec: QuantizeSpec, *, in_blocks: bool) -> Additions:
    """Return the additions that a file uses; others must not cause the work to be redone.

    `in_blocks` says whether its scheme has codes on this grid. Raises ConfigError for settings
    whose text or conversations are missing.
    """
    if not in_blocks:
        return NOTHING
    additions.check_for(spec)
    # A budget of `quantize.scheme` is a GGUF's: its trials are nothing to this file.
    return additions.only_for(spec.model_copy(update={"scheme": SCHEME}))


def prepare(
    opened: Opened, additions: Additions, out: Path, report: Reporter
) -> tuple[Codes, Figures]:
    """Return what decides the codes of a file, and figures of what was learned."""
    matrix = importance_of(additions, opened.folder, opened.model, opened.lora, out, report)
    weighed = matrix.weights() if matrix else {}
    origins = {each.name: each.origin for each in opened.model.tensors if each.origin}
    by_origin = {origins[name]: values for name, values in weighed.items() if name in origins}
    chunks: Figures = {"importance_chunks": matrix.chunks if matrix else 0}
    if not opened.distill:
        return Codes(importance=by_origin, pack=opened.pack), chunks

    learned, figures = _learned(opened, opened.distill, additions, weighed, out, report)
    codes = Codes(
        importance=by_origin,
        learned=learned.packed if learned else {},
        vectors=dict(learned.vectors) if learned else {},
        pack=opened.pack,
    )
    return codes, chunks | {"distillation": figures}


def _learned(
    opened: Opened,
    spec: InFormatSpec,
    additions: Additions,
    weighed: "Mapping[str, NDArray[np.float32]]",
    out: Path,
    report: Reporter,
) -> "tuple[Learned | None, Figures]":
    """Return what was learned, None if plain rounding is better, and the figures."""
    from toolchain.quantize.learned.in_format import Lesson, learn

    kinds = {
        each.name: (Type.Q4_0 if each.name.startswith("blk.") else opened.head)
        if each.origin and len(each.shape) > 1
        else Type.F32
        for each in opened.model.tensors
    }
    lesson = Lesson(
        folder=opened.folder,
        model=opened.model,
        lora=opened.lora,
        kinds=kinds,
        importance=weighed,
        lessons=additions.lessons,
        trials=additions.trials,
        spec=spec,
        seed=additions.seed,
        pack=opened.pack,
    )
    return learn(lesson, out / RESUME, report)
