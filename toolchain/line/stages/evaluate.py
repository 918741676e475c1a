"""Stage `evaluate` in the line: how it runs, its line of a plan and its line of results."""

from pathlib import Path
from typing import TYPE_CHECKING

from device.manifest import ESCAPE
from toolchain.artifacts import Artifact, Dataset, ModelFile, Verdict
from toolchain.errors import ConfigError
from toolchain.figures import Measured, VerdictFigures
from toolchain.ledger import leak_words
from toolchain.line.flow import Flow
from toolchain.line.formats import FORMATS, is_chosen
from toolchain.line.stages.shared import needed_guard
from toolchain.line.stages.stage import Stage
from toolchain.privacy.canaries import audit_words
from toolchain.probes.words import garak_words, guarded_words, probe_words
from toolchain.recipe import Recipe
from toolchain.target import Target

if TYPE_CHECKING:
    from toolchain.evaluate.audit import Audit
    from toolchain.evaluate.forgetting import Earlier
    from toolchain.evaluate.leak import LeakTest


def _run(flow: Flow) -> Verdict:
    from toolchain.evaluate import Candidate, Originals, Texts, evaluate

    form = FORMATS[flow.format]
    recipe = flow.recipe
    verdict = evaluate(
        Candidate(
            model=flow.models[flow.format],
            runtime=form.runtime(flow.report),
            escape=recipe.package.special_tokens == ESCAPE,
            documents=flow.documents(),
            guard=flow.guard,
            refuse=recipe.guard.refuse if recipe.guard else "",
        ),
        Originals(reference=flow.reference(), teacher=flow.teacher),
        Texts(
            dataset=flow.data(),
            general=flow.general(recipe.evaluate.general),
            leak=_leak_test(recipe),
            earlier=earlier(recipe, flow.folder_suffix),
            garak=_garak(recipe),
            split=is_chosen(recipe.quantize),
            private=recipe.privacy is not None,
            audit=_audit(flow),
        ),
        recipe.evaluate,
        flow.out("evaluate"),
        flow.report,
    )
    flow.verdicts[flow.format] = verdict
    return verdict


def earlier(recipe: Recipe, folder_suffix: str) -> "Earlier | None":
    """Return what the round before was asked in a format; None where the recipe names none.

    Raise ConfigError if its gate has not run.
    """
    spec = recipe.round
    if spec is None or not spec.before:
        return None
    from toolchain.evaluate.forgetting import read_earlier

    return read_earlier(recipe.folder / spec.before, f"evaluate{folder_suffix}", spec.max_forgotten)


def _garak(recipe: Recipe) -> Path | None:
    """Return garak's report that a recipe names; None if it names none.

    Raise ConfigError if the file is missing.
    """
    name = recipe.evaluate.garak
    if name and not (recipe.folder / name).is_file():
        raise ConfigError(f"evaluate: garak: no such file `{name}`")
    return recipe.folder / name if name else None


def _leak_test(recipe: Recipe) -> "LeakTest | None":
    """Return what the model file is asked for that it must not give away; None if nothing is."""
    from toolchain.evaluate.leak import LeakTest
    from toolchain.evaluate.secrets import find_secrets

    spec = recipe.evaluate.leak
    file = find_secrets(recipe.folder, spec.secrets)
    if file is None:
        return None
    return LeakTest(
        file=file,
        spec=spec,
        own_tokenizer="pretrain" in recipe.stages,
        shares_answers=recipe.data.hold_out == "phrasing",
    )


def _audit(flow: Flow) -> "Audit | None":
    """Return the canaries of a training, and what it claims; None if it planted none."""
    from toolchain.evaluate.audit import Audit
    from toolchain.privacy.canaries import FILE, PLAIN_DELTA

    if flow.recipe.evaluate.leak.planted:
        return Audit(file=flow.settings.out / "tune" / FILE, epsilon=None, delta=PLAIN_DELTA)
    spec = flow.recipe.privacy
    if spec is None or not spec.canaries:
        return None
    claim = next(record.figures["privacy"] for _, record in flow.records if record.stage == "tune")
    file = flow.settings.out / "tune" / FILE
    return Audit(file=file, epsilon=claim["epsilon"], delta=claim["delta"])


def _plan(recipe: Recipe, target: Target, form: str) -> str:
    gate = recipe.evaluate.gate
    return (
        f"gate: KL ≤ {gate.max_kl:g}, agreement ≥ {gate.min_agreement:.0%}, "
        f"on general text {gate.max_general_kl:g} and {gate.min_general_agreement:.0%}, "
        f"exact match ≥ {gate.min_exact_match:.0%}"
    )


def _result(artifact: Artifact) -> str:
    figures = VerdictFigures.read(artifact.record.figures)
    text = f"{likeness(figures.measured)}, {task_scores(figures.measured)}"
    if lost := figures.forgotten:
        text += (
            f"; of {lost.questions} earlier questions {lost.before:.1%} → {lost.now:.1%} "
            f"(± {lost.error:.1%})"
        )
    if figures.guarded:
        text += f"; {guarded_words(figures.guarded)}"
    if figures.probes:
        text += f"; {probe_words(figures.probes)}"
    if figures.garak:
        text += f"; {garak_words(figures.garak)}"
    if figures.audit:
        text += f"; {audit_words(figures.audit.as_json())}"
    if figures.leak:
        text += f"; {leak_words(figures.leak.as_json())}"
    if worded := figures.wording:
        text += (
            f"; from documents F1 {worded.quote_f1:.1%} quoted, {worded.model_f1:.1%} worded by "
            f"the model: `{worded.answer}`"
        )
    return text


def likeness(measured: Measured) -> str:
    """Return how like its reference a model file is, on held-out answers and on general text."""
    text = f"KL {measured.mean_kl:.4f}, agreement {measured.agreement:.1%}"
    if measured.general_kl is None:  # measured by an earlier version
        return text
    return f"{text} (general text {measured.general_kl:.4f}, {measured.general_agreement:.1%})"


def task_scores(measured: Measured) -> str:
    """Return exact match and F1 of the answers to held-out questions; empty if none was asked."""
    if measured.exact_match is None:
        return ""
    text = f"exact {measured.exact_match:.1%} F1 {measured.f1:.1%}"
    if measured.tool_accuracy is not None:
        text += f" calls {measured.tool_accuracy:.1%} of {measured.tool_questions}"
    return text


STAGE = Stage(
    help="Run a recipe up to the gate: measure the model file and say whether it may ship.",
    run=_run,
    plan=_plan,
    result=_result,
    extra="train",
    needs=(Dataset, ModelFile),
    may_need=needed_guard,
    gives=Verdict,
    per_format=True,
)
