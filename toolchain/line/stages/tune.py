"""Stage `tune` in the line: how it runs, its line of a plan and its line of results."""

from dataclasses import replace

from toolchain.artifacts import Artifact, Checkpoint, Dataset
from toolchain.line.flow import Flow
from toolchain.line.stages.shared import after_tune, scores
from toolchain.line.stages.stage import Stage
from toolchain.models.original import Original
from toolchain.recipe import LINEAR, Recipe
from toolchain.target import Target


def _run(flow: Flow) -> Checkpoint:
    from toolchain.training.four_bits import FOUR
    from toolchain.tune import ADAPTER, TuneFigures, tune

    recipe, out = flow.recipe, flow.out("tune")
    base = flow.merged()
    flow.checkpoint = tune(
        base,
        flow.data(),
        recipe.tune,
        out,
        flow.report,
        seed=recipe.seed,
        general=flow.general(recipe.evaluate.general),
        questions=flow.questions(),
        talk=flow.talk(recipe.tune),
        planted=recipe.evaluate.leak.planted,
    )
    flow.unmerged = replace(base, adapter=out / ADAPTER)
    four = TuneFigures.read(flow.checkpoint.record.figures).four_bits
    if four and four.merged_onto == FOUR:
        # The adapter belongs to the rounded base, so the merged model is its own reference.
        flow.original = Original(base=flow.checkpoint.path)
    else:
        flow.original = after_tune(flow.reference(), out / ADAPTER)
    return flow.checkpoint


def _plan(recipe: Recipe, target: Target, form: str) -> str:
    spec = recipe.tune
    source = recipe.model.base or "trained from scratch"
    bits = " on four bits" * (spec.base_bits == 4)
    is_all = spec.target_modules == LINEAR
    modules = "all linear layers" if is_all else ", ".join(spec.target_modules)
    how = f"LoRA{bits} r={spec.r} alpha={spec.alpha} on {modules}, {spec.length}{spec.beside}"
    return f"{how}, base {source}"


def _result(artifact: Artifact) -> str:
    from toolchain.training.probe import lost_words
    from toolchain.tune import TuneFigures

    figures = TuneFigures.read(artifact.record.figures)
    before, after = figures.base, figures.tuned
    text = (
        f"{figures.trainable_parameters:,} of {figures.total_parameters:,} parameters trained"
        f"; base{scores(before)}; tuned{scores(after)}"
    )
    if before.general_nats_per_byte is None:  # measured by an earlier version
        return text
    text += (
        f"; general text {before.general_nats_per_byte:.3f} → "
        f"{after.general_nats_per_byte:.3f} nats per byte"
    )
    if figures.forgotten:
        text += f"; {lost_words(figures.forgotten)}"
    return f"{text}; {figures.four_bits.words}" if figures.four_bits else text


STAGE = Stage(
    help="Run a recipe up to its fine-tuned checkpoint (LoRA, merged).",
    run=_run,
    plan=_plan,
    result=_result,
    extra="train",
    needs=(Dataset, Checkpoint),
    gives=Checkpoint,
)
