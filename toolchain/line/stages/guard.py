"""Stage `guard` in the line: how it runs, its line of a plan and its line of results."""

from toolchain.artifacts import Artifact, Dataset, GuardFile
from toolchain.line.flow import Flow
from toolchain.line.stages.stage import Stage
from toolchain.recipe import Recipe
from toolchain.target import Target


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
    )
    return flow.guard


def _plan(recipe: Recipe, target: Target, form: str) -> str:
    spec = recipe.guard
    assert spec
    own = "".join(f", {name}" for name in spec.unsafe)
    return f"refuse {spec.refuse}, false alarms ≤ {spec.false_alarms:.1%}; learns our seeds{own}"


def guard_words(artifact: Artifact) -> str:
    """Return one line that says how well a guard tells."""
    from toolchain.guard.measures import GuardFigures

    figures = GuardFigures.read(artifact.record.figures)
    false = figures.held_out
    return (
        f"flags {false.share:.1%} of {false.texts} held-out questions, and "
        f"{figures.caught.share:.1%} of {figures.caught.texts} unsafe texts that it never saw "
        f"(AUC {figures.auc:.3f}); {figures.size_bytes / 1e3:.0f} kB"
    )


STAGE = Stage(
    help="Run a recipe up to its guard: what tells unsafe questions, trained and measured.",
    run=_run,
    plan=_plan,
    result=guard_words,
    needs=(Dataset,),
    gives=GuardFile,
)
