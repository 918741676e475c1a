"""Order of a recipe's stages and its formats, checked against the rows.

Each stage needs what it reads before it, and none may come too late to change the model file.
"""

from collections.abc import Iterator, Sequence

from toolchain import extras
from toolchain.artifacts import Checkpoint, ModelFile
from toolchain.checks import Findings
from toolchain.config import closest
from toolchain.errors import ConfigError, FitError
from toolchain.line.formats import FORMATS
from toolchain.line.stages import STAGES, Kind
from toolchain.recipe import Recipe
from toolchain.target import Target


def faults(recipe: Recipe, stages: Sequence[str]) -> list[ConfigError]:
    """Return what is wrong with the first stages of a recipe, `stages`, and with its formats."""
    return [*_wrong_order(recipe, stages), *_wrong_formats(recipe)]


def check_target(recipe: Recipe, target: Target, findings: Findings) -> None:
    """Find formats that the target has no engine for."""
    asked = recipe.quantize.formats
    lacking = [form for form in asked if form not in runnable(recipe, target)]
    runs = f"it runs {', '.join(target.engines)}"
    if not asked:
        problem = f"{recipe.id}.toml: quantize: formats: names no format"
        findings.errors.append(ConfigError(problem))
    elif len(lacking) == len(asked):
        problem = f"{target.id}: runs no {' and no '.join(asked)}"
        findings.errors.append(FitError(problem, hint=runs))
    elif lacking:
        findings.notes.append(
            f"{target.id}: runs no {' and no '.join(lacking)}: that is left out; {runs}"
        )


def check_extras(recipe: Recipe, stages: Sequence[str], findings: Findings) -> None:
    """Find packages that the stages or the formats need and that are not installed."""
    for extra, key in _extras_of(recipe, stages).items():
        with findings.gathering():
            extras.require(extra, f"{recipe.id}.toml: {key}")


def extras_of(recipe: Recipe) -> set[str]:
    """Return the extras of the package that a recipe needs."""
    return set(_extras_of(recipe, recipe.stages))


def _extras_of(recipe: Recipe, stages: Sequence[str]) -> dict[str, str]:
    """Return the extras of the package that stages and formats need, and the key that says so."""
    rows = [STAGES[stage] for stage in stages if stage in STAGES]
    extras_needed = {row.extra: "stages" for row in rows if row.extra}
    if any(row.gives is ModelFile for row in rows):
        forms = [FORMATS[form] for form in recipe.quantize.formats if form in FORMATS]
        extras_needed |= {form.extra: "quantize: formats" for form in forms if form.extra}

    if "tune" in stages and recipe.tune.base_bits == 4:
        extras_needed["qlora"] = "tune: base_bits"
    if "ingest" in stages and recipe.ingest.engine == "ray":
        extras_needed["ray"] = "ingest: engine"
    return extras_needed


def runnable(recipe: Recipe, target: Target) -> tuple[str, ...]:
    """Return the formats of a recipe that the target has an engine for."""
    known = [form for form in recipe.quantize.formats if form in FORMATS]
    return tuple(form for form in known if FORMATS[form].engine in target.engines)


def _wrong_order(recipe: Recipe, stages: Sequence[str]) -> Iterator[ConfigError]:
    where = f"{recipe.id}.toml: stages"
    if not recipe.stages:
        yield ConfigError(f"{where}: names no stage")
    unknown = [stage for stage in stages if stage not in STAGES]
    for stage in unknown:
        yield ConfigError(f"{where}: unknown stage `{stage}`", hint=closest(stage, list(STAGES)))
    if unknown:
        return

    for place, stage in enumerate(stages):
        row, before = STAGES[stage], stages[:place]
        for kind in (*row.needs, *row.may_need(recipe)):
            giver = _giver(kind, recipe)
            if giver and giver not in before:
                hint = _remedy(recipe, stages, stage, giver)
                yield ConfigError(f"{where}: `{stage}` needs `{giver}` before it", hint=hint)
        shipped = [name for name in before if STAGES[name].gives is ModelFile]
        if shipped and row.gives is Checkpoint:
            problem = f"`{stage}` stands behind `{shipped[0]}`: what it makes would not be shipped"
            yield ConfigError(f"{where}: {problem}")
        if stage in ("tune", "distill") and "align" in before:
            problem = f"`{stage}` stands behind `align`: what was preferred would be learned over"
            yield ConfigError(f"{where}: {problem}", hint=f"move `align` behind `{stage}`")


def _giver(kind: Kind, recipe: Recipe) -> str:
    """Return the stage that gives the first artifact of a kind; empty if the base is one."""
    if kind is Checkpoint and recipe.model.base:
        return ""
    return next(name for name, row in STAGES.items() if row.gives is kind and kind not in row.needs)


def _remedy(recipe: Recipe, stages: Sequence[str], stage: str, giver: str) -> str:
    if giver in stages:
        return f"move `{giver}` before `{stage}`"
    place = recipe.stages.index(stage)
    listed = [*recipe.stages[:place], giver, *recipe.stages[place:]]
    return "such as stages = [" + ", ".join(f'"{name}"' for name in listed) + "]"


def _wrong_formats(recipe: Recipe) -> Iterator[ConfigError]:
    where, spec = f"{recipe.id}.toml: quantize", recipe.quantize
    for form in spec.formats:
        if form not in FORMATS:
            hint = closest(form, list(FORMATS))
            yield ConfigError(f"{where}: formats: unknown format `{form}`", hint=hint)
        elif spec.adapter == "beside" and not FORMATS[form].has_unmerged_adapter:
            problem = f"`beside` is not for {form}: an adapter goes into such a file"
            yield ConfigError(f"{where}: adapter: {problem}")
