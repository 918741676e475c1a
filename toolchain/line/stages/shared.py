"""What several stages of the line need alike."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.artifacts import GuardFile
from toolchain.line.stages.stage import Kind
from toolchain.models.original import Original
from toolchain.recipe import Recipe

if TYPE_CHECKING:
    from toolchain.distill import Mark
    from toolchain.training.exam import ExamFigures


def after_tune(original: Original, adapter: Path) -> Original:
    """Return the model that was trained: the one before with an adapter more."""
    if original.trimmed:
        # What is trained after `trim` is the trimmed model, whose embedding an adapter may change:
        # its checkpoint is the base then.
        return Original(base=original.trimmed, adapters=(adapter,))
    return replace(original, adapters=(*original.adapters, adapter))


def scores(measured: "ExamFigures | Mark") -> str:
    """Return exact match, F1 and loss on held-out answers, with a space before them."""
    if measured.exact_match is None:
        return " not asked"
    text = f" exact {measured.exact_match:.1%} F1 {measured.f1:.1%}"
    if (accuracy := getattr(measured, "tool_accuracy", None)) is not None:
        text += f" calls {accuracy:.1%}"
    return text if measured.held_out_loss is None else f"{text} loss {measured.held_out_loss:.2f}"


def needed_guard(recipe: Recipe) -> tuple[Kind, ...]:
    """Return the guard as a kind that a stage reads as well, where the recipe has one."""
    return (GuardFile,) if recipe.guard else ()
