"""Adapters whose base was changed before training: recomputes the subtracted part and removes it.

PiSSA (arXiv:2404.02948) and OLoRA (arXiv:2406.01775) take A₀ and B₀ from the weight W itself and
train on W − s·B₀A₀. The trained model is W − s·B₀A₀ + s·BA: on the unchanged W that is an adapter
of twice the rank. peft recomputes A₀ and B₀ each time it loads such an adapter
(`LoraLayer.pissa_init`, `olora_init`); this module does so without torch.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from toolchain.errors import ArtifactError
from toolchain.models.lora import Delta, Lora
from toolchain.models.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

OWN_COSINE = 0.5
"""Cosine of ΔW with the base's W, in units of √(rank ÷ width), that shows a part of the base."""
# Measured on tiny models of width 64 to 256 and ranks 2 to 32: 1.1 to 1.7 for PiSSA and OLoRA,
# still 0.54 to 0.87 when training had moved A and B by their own norm; at most 0.04 for plain
# random LoRA. In GPT-3 it was below 0.29 (arXiv:2106.09685, table 7).


def without_initial_part(lora: Lora, weights: Weights) -> Lora:
    """Return the adapter of twice the rank that fits the unchanged base."""
    import numpy as np

    deltas = {}
    for name, delta in lora.deltas.items():
        a, b = initial_part(lora.initialisation, _matrix(weights, name), delta.rank, delta.scale)
        deltas[name] = Delta(
            a=np.concatenate([delta.a, a.astype(np.float32)]),
            b=np.concatenate([delta.b, -b.astype(np.float32)], axis=1),
            scale=delta.scale,
        )
    return replace(lora, deltas=deltas)


def initial_part(kind: str, weight: "Matrix", rank: int, scale: float) -> "tuple[Matrix, Matrix]":
    """Return peft's initial A₀ (rank, in) and B₀ (out, rank), up to the signs of their rows."""
    import numpy as np

    if kind == "olora":
        # the first columns of Q come from the first columns of W alone
        q, _ = np.linalg.qr(weight[:, :rank])
        return q.T @ weight, q
    # Largest singular values through the smaller Gram matrix: a full SVD of a wide weight takes
    # ten times as long.
    wide = weight.shape[0] <= weight.shape[1]
    _, vectors = np.linalg.eigh(weight @ weight.T if wide else weight.T @ weight)
    top = vectors[:, : -rank - 1 : -1]
    return (top.T @ weight, top / scale) if wide else (top.T, weight @ top / scale)


def refuse_a_part_of_the_base(lora: Lora, weights: Weights) -> None:
    """Raise ArtifactError for an adapter that holds a part of its base without saying so.

    With the base it was trained on, which lacks that part, the adapter passes.
    """
    import numpy as np

    cosines = [_cosine(delta, _matrix(weights, name)) for name, delta in lora.deltas.items()]
    if float(np.median(cosines)) >= OWN_COSINE:
        raise ArtifactError(
            f"adapter {lora.name}: holds a part of its base, "
            "as PiSSA, OLoRA and CorDA put it there before training, "
            "but `init_lora_weights` does not say so",
            hint="save it again with "
            "`save_pretrained(…, path_initial_model_for_weight_conversion=…)`, "
            "or give the folder of the base that was trained on, from which that part was taken",
        )


def _cosine(delta: Delta, weight: "Matrix") -> float:
    """Return the cosine of ΔW and W in units of √(rank ÷ width), without making ΔW."""
    import numpy as np

    a, b = delta.a.astype(np.float64), delta.b.astype(np.float64)
    inner = float((b.T @ weight * a).sum()) * np.sign(delta.scale)
    norm = float(np.sqrt(max(0.0, ((b.T @ b) * (a @ a.T)).sum())) * np.linalg.norm(weight))
    return inner / norm / float(np.sqrt(delta.rank / min(weight.shape))) if norm else 0.0


def _matrix(weights: Weights, name: str) -> "Matrix":
    import numpy as np

    return weights.rows(name, 0, weights.tensors[name].rows).astype(np.float64)
