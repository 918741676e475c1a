"""Stage `ingest` in the line: how it runs, its line of a plan and its line of results."""

from toolchain.artifacts import Artifact, Dataset
from toolchain.figures import DatasetFigures
from toolchain.line.flow import Flow
from toolchain.line.stages.stage import Stage
from toolchain.recipe import Recipe
from toolchain.target import Target


def _run(flow: Flow) -> Dataset:
    from toolchain.ingest import Ways, ingest

    flow.dataset = ingest(
        flow.recipe.data.without_terms(),
        flow.recipe.folder,
        flow.out("ingest"),
        flow.report,
        seed=flow.recipe.seed,
        ways=Ways(ingest=flow.recipe.ingest, work=flow.settings.out, report=flow.report),
    )
    return flow.dataset


def _plan(recipe: Recipe, target: Target, form: str) -> str:
    data = recipe.data
    turns = len(data.turns)
    openings = list(data.documents)
    if turns:
        openings.append(f"{turns} turn{'s' * (turns > 1)}")
    opened = f", opened by {' and '.join(openings)}" if openings else ""
    held_out = ", ".join(data.held_out) or f"by {data.hold_out}"
    return f"{', '.join(data.files)}, hold out {held_out}{opened}"


def _result(artifact: Artifact) -> str:
    figures = DatasetFigures.read(artifact.record.figures)
    dropped = sum(figures.dropped.values())
    return f"{figures.train} conversations to learn, {figures.held_out} held out, {dropped} dropped"


STAGE = Stage(
    help="Run a recipe's first stage: read the data, split it, say what was dropped and why.",
    run=_run,
    plan=_plan,
    result=_result,
    gives=Dataset,
)
