"""Stage `pretrain` in the line: how it runs, its line of a plan and its line of results."""

from toolchain.artifacts import Artifact, Checkpoint, Dataset
from toolchain.line.flow import Flow
from toolchain.line.stages.stage import Stage
from toolchain.models.original import Original
from toolchain.recipe import Recipe
from toolchain.target import Target


def _run(flow: Flow) -> Checkpoint:
    from toolchain.pretrain import pretrain

    spec = flow.recipe.model.scratch
    assert spec
    flow.checkpoint = pretrain(
        flow.data(),
        spec,
        flow.out("pretrain"),
        flow.report,
        seed=flow.recipe.seed,
    )
    flow.original = Original(base=flow.checkpoint.path)
    return flow.checkpoint


def _plan(recipe: Recipe, target: Target, form: str) -> str:
    spec = recipe.model.scratch
    assert spec
    return (
        f"llama {spec.layers} × {spec.hidden_size}, vocabulary {spec.vocab_size}, "
        f"{spec.steps} steps"
    )


def _result(artifact: Artifact) -> str:
    from toolchain.pretrain import PretrainFigures

    figures = PretrainFigures.read(artifact.record.figures)
    loss = figures.training.loss
    assert loss is not None
    return f"{figures.parameters / 1e6:.2f} M parameters, loss {loss:.2f}"


STAGE = Stage(
    run=_run,
    plan=_plan,
    result=_result,
    extra="train",
    needs=(Dataset,),
    gives=Checkpoint,
)
