"""Stage `align` in the line: how it runs, its line of a plan and its line of results."""

from toolchain.artifacts import Artifact, Checkpoint, Dataset
from toolchain.line.flow import Flow
from toolchain.line.stages.shared import after_tune
from toolchain.line.stages.stage import Stage
from toolchain.recipe import Recipe
from toolchain.target import Target


def _run(flow: Flow) -> Checkpoint:
    from toolchain.align import ADAPTER, align
    from toolchain.align.figures import BEFORE, AlignFigures

    recipe, out = flow.recipe, flow.out("align")
    assert recipe.align
    original = flow.reference()
    flow.checkpoint = align(
        flow.merged(),
        flow.data(),
        flow.preferences(),
        recipe.align,
        out,
        flow.report,
        seed=recipe.seed,
        general=flow.general(recipe.evaluate.general),
        questions=flow.questions(),
    )
    if AlignFigures.read(flow.checkpoint.record.figures).shipped != BEFORE:
        flow.original = after_tune(original, out / ADAPTER)
    return flow.checkpoint


def _plan(recipe: Recipe, target: Target, form: str) -> str:
    spec = recipe.align
    assert spec
    loss = "DPO or KTO" if spec.loss == "auto" else spec.loss.upper()
    return f"{loss} from {', '.join(spec.files)}, beta={spec.beta:g}, {spec.length}"


def _result(artifact: Artifact) -> str:
    from toolchain.align.figures import AlignFigures

    figures = AlignFigures.read(artifact.record.figures)
    marks = {"before": figures.before}
    marks |= {"aligned": figures.aligned.mark} if figures.aligned else {}
    marks |= {"control": figures.control.mark} if figures.control else {}
    shares = ", ".join(
        f"{name} {mark.followed:.1%}" for name, mark in marks.items() if mark.followed is not None
    )
    outcome = "; too few" * (not figures.aligned) + f"; `{figures.shipped}` ships"
    return (
        f"{figures.loss} from {figures.learned} preferences; followed of "
        f"{figures.before.preferences} held-out ones: {shares or 'not asked'}{outcome}"
    )


STAGE = Stage(
    help="Run a recipe up to the checkpoint that learned from preferences.",
    run=_run,
    plan=_plan,
    result=_result,
    extra="train",
    needs=(Dataset, Checkpoint),
    gives=Checkpoint,
)
