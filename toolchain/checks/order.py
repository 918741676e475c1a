"""The order of a recipe's stages: what each needs before it, and what would come too late to change the model file."""

from toolchain.checks import Ahead, Findings
from toolchain.errors import ConfigError, FitError
from toolchain.recipe import Recipe

NEEDS: dict[str, tuple[str, ...]] = {
    "pretrain": ("ingest",),
    "tune": ("ingest",),
    "distill": ("ingest",),
    "trim": ("ingest",),
    "evaluate": ("ingest", "quantize"),
    "package": ("ingest", "quantize", "evaluate"),
}
"""Stage → the stages whose results it reads."""
MAKES_WEIGHTS = ("pretrain", "tune", "distill", "trim")
"""Stages that change what `quantize` reads."""


def check(ahead: Ahead, findings: Findings) -> None:
    """Find stages without what they need before them, stages that come too late, and formats that the target cannot run."""
    if not ahead.recipe.stages:
        findings.errors.append(ConfigError(f"{ahead.file}: stages: names no stage"))
    for place, stage in enumerate(ahead.stages):
        before = ahead.stages[:place]
        for needed in _needs(ahead.recipe, stage):
            if needed not in before:
                findings.errors.append(_missing(ahead, stage, needed))
        if stage in MAKES_WEIGHTS and "quantize" in before:
            problem = f"`{stage}` stands behind `quantize`: what it makes would not be shipped"
            findings.errors.append(ConfigError(f"{ahead.file}: stages: {problem}"))
    _check_formats(ahead, findings)


def _needs(recipe: Recipe, stage: str) -> list[str]:
    needed = list(NEEDS.get(stage, ()))
    spec = recipe.quantize
    if stage == "quantize" and (spec.importance is True or spec.distill):
        needed.append("ingest")
    if recipe.model.scratch and stage in ("tune", "distill", "trim", "quantize"):
        needed.append("pretrain")
    return needed


def _missing(ahead: Ahead, stage: str, needed: str) -> ConfigError:
    later = needed in ahead.stages
    hint = (
        f"move `{needed}` before `{stage}`"
        if later
        else f"such as stages = {_with(ahead, stage, needed)}"
    )
    return ConfigError(f"{ahead.file}: stages: `{stage}` needs `{needed}` before it", hint=hint)


def _with(ahead: Ahead, stage: str, needed: str) -> str:
    stages: list[str] = [*ahead.recipe.stages]
    stages.insert(stages.index(stage), needed)
    return "[" + ", ".join(f'"{name}"' for name in stages) + "]"


def _check_formats(ahead: Ahead, findings: Findings) -> None:
    if not ahead.walks("quantize", "evaluate", "package"):
        return
    asked = ahead.recipe.quantize.formats
    lacking = [form for form in asked if form not in ahead.formats]
    runs = f"it runs {', '.join(ahead.target.engines)}"
    if not asked:
        findings.errors.append(ConfigError(f"{ahead.file}: quantize: formats: names no format"))
    elif not ahead.formats:
        problem = f"{ahead.target.id}: runs no {' and no '.join(asked)}"
        findings.errors.append(FitError(problem, hint=runs))
    elif lacking:
        findings.notes.append(
            f"{ahead.target.id}: runs no {' and no '.join(lacking)}: that is left out; {runs}"
        )
