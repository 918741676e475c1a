"""Stage `trim` in the line: how it runs, its line of a plan and its line of results."""

from dataclasses import replace

from toolchain.artifacts import Artifact, Checkpoint, Dataset
from toolchain.line.flow import Flow
from toolchain.line.stages.stage import Stage
from toolchain.recipe import Recipe
from toolchain.target import Target


def _run(flow: Flow) -> Checkpoint:
    from toolchain.trim import trim

    spec = flow.recipe.trim
    flow.checkpoint = trim(
        flow.merged(),
        flow.data(),
        spec,
        flow.out("trim"),
        flow.report,
        general=flow.general(spec.general),
    )
    flow.original = replace(flow.reference(), trimmed=flow.checkpoint.path)
    if flow.teacher:
        flow.teacher = replace(flow.teacher, trimmed=flow.checkpoint.path)
    return flow.checkpoint


def _plan(recipe: Recipe, target: Target, form: str) -> str:
    spec = recipe.trim
    return f"{spec.vocabulary or 'as few'} tokens, answers the same in ≥ {spec.min_identical:.1%}"


def _result(artifact: Artifact) -> str:
    from toolchain.trim import TrimFigures

    figures = TrimFigures.read(artifact.record.figures)
    share = figures.identical
    same = "" if share is None else f"; {share:.1%} of answers as before"
    return f"{figures.tokens.before} → {figures.tokens.after} tokens{same}"


STAGE = Stage(
    help="Run a recipe up to its checkpoint with the vocabulary of its subject alone.",
    run=_run,
    plan=_plan,
    result=_result,
    extra="train",
    needs=(Dataset, Checkpoint),
    gives=Checkpoint,
)
