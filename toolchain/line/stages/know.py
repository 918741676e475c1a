"""Stage `know` in the line: how it runs, its line of a plan and its line of results."""

from toolchain.artifacts import Artifact, Knowledge
from toolchain.figures import KnowledgeFigures, SearchScores
from toolchain.line.flow import Flow
from toolchain.line.formats import FORMATS
from toolchain.line.stages.stage import Stage
from toolchain.recipe import Recipe
from toolchain.target import Target


def _run(flow: Flow) -> Knowledge:
    from toolchain.know import know

    recipe = flow.recipe
    assert recipe.knowledge
    flow.knowledge = know(
        flow.texts(),
        recipe.knowledge.without_terms(),
        recipe.folder,
        FORMATS["gguf"].runtime(flow.report),
        flow.out("know"),
        flow.report,
        offline=flow.settings.offline,
        seed=recipe.seed,
    )
    return flow.knowledge


def _plan(recipe: Recipe, target: Target, form: str) -> str:
    spec = recipe.knowledge
    assert spec
    tuned = f", tuned for {spec.tune.epochs} epochs" if spec.tune else ""
    return f"{', '.join(spec.files)}, found by {spec.embedder} as {spec.scheme}{tuned}"


def _result(artifact: Artifact) -> str:
    figures = KnowledgeFigures.read(artifact.record.figures)
    text = f"{figures.passages} passages, {figures.questions} questions"
    measured = figures.fresh or figures.tuning
    if measured is None:
        return text
    also = f" and {measured.also:.1%} by another passage" if measured.also else ""
    return (
        f"{text}; the right passage first {measured.first:.1%}, among three "
        f"{measured.among_three:.1%}; answered rightly {measured.right:.1%}{also}, "
        f"unsupported {measured.wrong:.1%}, falsely {measured.false:.1%} of those without an answer"
        f"{_bare(figures.fresh_bare)}"
    )


def _bare(scores: SearchScores | None) -> str:
    if scores is None:
        return ""
    return (
        f"; from a passage that nobody wrote questions for, rightly {scores.right:.1%}, "
        f"unsupported {scores.wrong:.1%}"
    )


STAGE = Stage(
    help="Run a recipe up to its knowledge: documents cut, found by questions, measured.",
    run=_run,
    plan=_plan,
    result=_result,
    gives=Knowledge,
)
