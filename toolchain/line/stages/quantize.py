"""Stage `quantize` in the line: how it runs, its line of a plan and its line of results."""

from toolchain.artifacts import Artifact, Checkpoint, Dataset, ModelFile
from toolchain.figures import ModelFigures
from toolchain.line.flow import Flow
from toolchain.line.formats import FORMATS
from toolchain.line.stages.stage import Kind, Stage
from toolchain.recipe import Recipe
from toolchain.target import Target


def _run(flow: Flow) -> ModelFile:
    artifact = FORMATS[flow.format].quantize(flow, flow.recipe.quantize, flow.out("quantize"))
    flow.models[flow.format] = artifact
    return artifact


def _needed_to_quantize(recipe: Recipe) -> tuple[Kind, ...]:
    """Return the data set where the scheme is measured or learned on the recipe's text."""
    spec = recipe.quantize
    return (Dataset,) if spec.importance is True or spec.distill else ()


def _plan(recipe: Recipe, target: Target, form: str) -> str:
    return FORMATS[form].plan(recipe.quantize)


def _result(artifact: Artifact) -> str:
    figures = ModelFigures.read(artifact.record.figures)
    bits = f"{figures.real_bpw:.2f} bits per weight (nominal {figures.nominal_bpw:.2f})"
    is_learned = figures.distillation is not None and figures.distillation.shipped == "learned"
    return f"{figures.scheme}: {bits}" + ", codes learned in the format" * is_learned


STAGE = Stage(
    help="Run a recipe up to its quantized model file.",
    run=_run,
    plan=_plan,
    result=_result,
    needs=(Checkpoint,),
    may_need=_needed_to_quantize,
    gives=ModelFile,
    per_format=True,
)
