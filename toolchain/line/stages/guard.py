"""Stage `guard` in the line: how it runs, its line of a plan and its line of results."""

from typing import TYPE_CHECKING

from toolchain.artifacts import Artifact, Dataset, GuardFile
from toolchain.line.flow import Flow
from toolchain.line.stages.stage import Stage
from toolchain.recipe import Recipe
from toolchain.target import Target

if TYPE_CHECKING:
    from toolchain.guard.judging import GuardModel
    from toolchain.guard_figures import CeilingFigures


def _run(flow: Flow) -> GuardFile:
    from toolchain.guard import guard

    recipe = flow.recipe
    assert recipe.guard
    flow.guard = guard(
        flow.data(),
        recipe.guard,
        recipe.folder,
        flow.out("guard"),
        flow.report,
        seed=recipe.seed,
        model=guard_model(recipe),
    )
    return flow.guard


def guard_model(recipe: Recipe) -> "GuardModel | None":
    """Return the guard model that a recipe compares its guard with; None if it names none."""
    from toolchain import runtime
    from toolchain.guard.judging import GuardModel, find_guard_model

    name = recipe.guard.model if recipe.guard else ""
    if not name:
        return None
    file = find_guard_model(name, recipe.folder)
    return GuardModel(file=file, name=name, runtime=runtime.for_this_computer())


def _plan(recipe: Recipe, target: Target, form: str) -> str:
    spec = recipe.guard
    assert spec
    own = "".join(f", {name}" for name in spec.unsafe)
    text = f"refuse {spec.refuse}, false alarms ≤ {spec.false_alarms:.1%}; learns our seeds{own}"
    return f"{text}; compared with {spec.model}" if spec.model else text


def guard_words(artifact: Artifact) -> str:
    """Return one line that says how well a guard tells."""
    from toolchain.guard_figures import GuardFigures

    figures = GuardFigures.read(artifact.record.figures)
    false = figures.held_out
    return (
        f"flags {false.share:.1%} of {false.texts} held-out questions, and "
        f"{figures.caught.share:.1%} of {figures.caught.texts} unsafe texts that it never saw "
        f"(AUC {figures.auc:.3f}); {figures.size_bytes / 1e3:.0f} kB"
        + (f"; {ceiling_words(figures.ceiling)}" if figures.ceiling else "")
    )


def ceiling_words(beside: "CeilingFigures") -> str:
    """Return what a guard model catches beside the guard, on the same texts."""
    floor, ceiling = beside.floor.caught, beside.ceiling.caught
    return (
        f"of the same {ceiling.texts} unsafe texts it flags {floor.share:.1%} "
        f"({floor.low:.0%} … {floor.high:.0%}), the model {beside.model} {ceiling.share:.1%} "
        f"({ceiling.low:.0%} … {ceiling.high:.0%}; AUC {beside.ceiling.auc:.3f})"
    )


STAGE = Stage(
    help="Run a recipe up to its guard: what tells unsafe questions, trained and measured.",
    run=_run,
    plan=_plan,
    result=guard_words,
    needs=(Dataset,),
    gives=GuardFile,
)
