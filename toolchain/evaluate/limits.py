"""The limits of the gate: what a recipe asks of a model file, and the sentence for each that was missed."""

from toolchain.artifacts import Figures
from toolchain.recipe import GateSpec


def failures(figures: Figures, gate: GateSpec) -> list[str]:
    """Return one sentence for each limit of the gate that was missed."""
    limits = [
        ("mean_kl", "<=", gate.max_kl),
        ("agreement", ">=", gate.min_agreement),
        ("teacher_kl", "<=", gate.max_teacher_kl),
        ("teacher_agreement", ">=", gate.min_teacher_agreement),
        ("exact_match", ">=", gate.min_exact_match),
        ("f1", ">=", gate.min_f1),
        ("eos_rate", ">=", gate.min_eos_rate),
        ("template_mismatches", "<=", 0),
    ]
    missed = [
        (name, sign, limit)
        for name, sign, limit in limits
        # those of a teacher are measured after `distill` only
        if name in figures and not _holds(figures[name], sign, limit)
    ]
    return [
        f"{name} is {figures[name]:.4g}, the gate asks {sign} {limit:g}"
        for name, sign, limit in missed
    ]


def _holds(value: float, sign: str, limit: float) -> bool:
    return value <= limit if sign == "<=" else value >= limit
