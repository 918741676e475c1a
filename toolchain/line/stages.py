"""Stages of the line, one row each: name, help, needs, what it gives, how it runs, its texts.

A new stage is a module of its own with the stage's name, its row here, its spec in `recipe` and its
test. The verbs of the command line, the check of a recipe's order and the tables of a walk are made
from these rows. The order of the rows is the order of the verbs in `--help`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from device.manifest import ESCAPE
from toolchain.artifacts import (
    Artifact,
    Bundle,
    Checkpoint,
    Dataset,
    GuardFile,
    Knowledge,
    ModelFile,
    Verdict,
)
from toolchain.errors import ConfigError
from toolchain.figures import (
    BundleFigures,
    DatasetFigures,
    KnowledgeFigures,
    Measured,
    ModelFigures,
    SearchScores,
    VerdictFigures,
)
from toolchain.ledger import grouped, leak_words, total, travelling
from toolchain.line.flow import Flow
from toolchain.line.formats import FORMATS, is_chosen
from toolchain.models.original import Original
from toolchain.privacy.canaries import audit_words
from toolchain.probes.words import garak_words, guarded_words, probe_words
from toolchain.recipe import LINEAR, Recipe
from toolchain.target import Target
from toolchain.terms.found import travelling_files

if TYPE_CHECKING:
    from toolchain.distill import Mark
    from toolchain.evaluate.audit import Audit
    from toolchain.evaluate.forgetting import Earlier
    from toolchain.evaluate.leak import LeakTest
    from toolchain.teaching.writing import Assignment
    from toolchain.training.exam import ExamFigures

Kind = type[Artifact]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage: a row of `STAGES`."""

    help: str = ""
    """Help text of the stage's verb; empty for a stage without one."""
    run: Callable[[Flow], Artifact]
    """Runs the stage on the newest artifacts and returns its own."""
    plan: Callable[[Recipe, Target, str], str]
    """Recipe, target and format → what the stage will do: the parameters that matter, in one
    line."""
    result: Callable[[Artifact], str]
    """Artifact → what the stage measured, in one line."""
    needs: tuple[Kind, ...] = ()
    """Kinds of artifacts that the stage reads."""
    may_need: Callable[[Recipe], tuple[Kind, ...]] = lambda recipe: ()
    """Kinds that it reads as well with this recipe."""
    gives: Kind
    """Kind of the stage's artifact."""
    per_format: bool = False
    """Whether the stage is done for each format of the recipe."""
    extra: str = ""
    """Extra of the package that the stage needs."""


# ingest -------------------------------------------------------------------------------------------


def _ingest(flow: Flow) -> Dataset:
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


def _plan_ingest(recipe: Recipe, target: Target, form: str) -> str:
    data = recipe.data
    turns = len(data.turns)
    openings = list(data.documents)
    if turns:
        openings.append(f"{turns} turn{'s' * (turns > 1)}")
    opened = f", opened by {' and '.join(openings)}" if openings else ""
    held_out = ", ".join(data.held_out) or f"by {data.hold_out}"
    return f"{', '.join(data.files)}, hold out {held_out}{opened}"


def _ingested(artifact: Artifact) -> str:
    figures = DatasetFigures.read(artifact.record.figures)
    dropped = sum(figures.dropped.values())
    return f"{figures.train} conversations to learn, {figures.held_out} held out, {dropped} dropped"


# pretrain -----------------------------------------------------------------------------------------


def _pretrain(flow: Flow) -> Checkpoint:
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


def _plan_pretrain(recipe: Recipe, target: Target, form: str) -> str:
    spec = recipe.model.scratch
    assert spec
    return (
        f"llama {spec.layers} × {spec.hidden_size}, vocabulary {spec.vocab_size}, "
        f"{spec.steps} steps"
    )


def _pretrained(artifact: Artifact) -> str:
    from toolchain.pretrain import PretrainFigures

    figures = PretrainFigures.read(artifact.record.figures)
    loss = figures.training.loss
    assert loss is not None
    return f"{figures.parameters / 1e6:.2f} M parameters, loss {loss:.2f}"


# tune ---------------------------------------------------------------------------------------------


def _tune(flow: Flow) -> Checkpoint:
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
        talk=flow.talk() if recipe.tune.general_share else (),
        planted=recipe.evaluate.leak.planted,
    )
    flow.unmerged = replace(base, adapter=out / ADAPTER)
    four = TuneFigures.read(flow.checkpoint.record.figures).four_bits
    if four and four.merged_onto == FOUR:
        # The adapter belongs to the rounded base, so the merged model is its own reference.
        flow.original = Original(base=flow.checkpoint.path)
    else:
        flow.original = _after_tune(flow.reference(), out / ADAPTER)
    return flow.checkpoint


def _after_tune(original: Original, adapter: Path) -> Original:
    """Return the model that was trained: the one before with an adapter more."""
    if original.trimmed:
        # What is trained after `trim` is the trimmed model, whose embedding an adapter may change:
        # its checkpoint is the base then.
        return Original(base=original.trimmed, adapters=(adapter,))
    return replace(original, adapters=(*original.adapters, adapter))


def _plan_tune(recipe: Recipe, target: Target, form: str) -> str:
    spec = recipe.tune
    source = recipe.model.base or "trained from scratch"
    bits = " on four bits" * (spec.base_bits == 4)
    is_all = spec.target_modules == LINEAR
    modules = "all linear layers" if is_all else ", ".join(spec.target_modules)
    return f"LoRA{bits} r={spec.r} alpha={spec.alpha} on {modules}, {spec.length}, base {source}"


def _tuned(artifact: Artifact) -> str:
    from toolchain.training.probe import lost_words
    from toolchain.tune import TuneFigures

    figures = TuneFigures.read(artifact.record.figures)
    before, after = figures.base, figures.tuned
    text = (
        f"{figures.trainable_parameters:,} of {figures.total_parameters:,} parameters trained"
        f"; base{_scores(before)}; tuned{_scores(after)}"
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


def _scores(measured: "ExamFigures | Mark") -> str:
    """Return exact match, F1 and loss on held-out answers, with a space before them."""
    if measured.exact_match is None:
        return " not asked"
    text = f" exact {measured.exact_match:.1%} F1 {measured.f1:.1%}"
    if (accuracy := getattr(measured, "tool_accuracy", None)) is not None:
        text += f" calls {accuracy:.1%}"
    return text if measured.held_out_loss is None else f"{text} loss {measured.held_out_loss:.2f}"


# distill ------------------------------------------------------------------------------------------


def _distill(flow: Flow) -> Checkpoint:
    from toolchain.distill import distill

    recipe, spec = flow.recipe, flow.recipe.distill
    assert spec
    teacher = flow.fetched(spec.teacher, "teacher") if spec.teacher else flow.merged()
    student = flow.fetched(spec.student, "student") if spec.student else None
    flow.checkpoint = distill(
        teacher,
        flow.data(),
        spec.without_terms(),
        flow.out("distill"),
        flow.report,
        seed=recipe.seed,
        student=student,
        assignment=_assignment(flow, teacher),
        questions=flow.questions(),
    )
    flow.teacher = Original(base=teacher.path) if spec.teacher else flow.reference()
    if student and not spec.needs_same_tokens:
        # A teacher that only wrote may have other tokens: no file is compared with it.
        flow.teacher = None
        flow.original = Original(base=flow.checkpoint.path, tokenizer=Original(base=student.path))
        return flow.checkpoint
    flow.original = Original(base=flow.checkpoint.path, tokenizer=flow.teacher)
    return flow.checkpoint


def _assignment(flow: Flow, teacher: Checkpoint) -> "Assignment | None":
    """Return what a teacher writes before the student learns; None if it writes nothing."""
    from toolchain.endpoint.address import is_endpoint
    from toolchain.ingest.refusals import Refusals
    from toolchain.teaching.writers import EndpointWriter, FolderWriter
    from toolchain.teaching.writing import Assignment

    spec = flow.recipe.distill.write if flow.recipe.distill else None
    if spec is None:
        return None
    writer: EndpointWriter | FolderWriter
    if is_endpoint(spec.teacher):
        writer = EndpointWriter(spec.teacher, spec.teacher_model)
    else:
        folder = flow.fetched(spec.teacher, "writer") if spec.teacher else teacher
        writer = FolderWriter(folder.path, folder.digest)
    return Assignment(
        spec=spec,
        near=flow.recipe.folder,
        writer=writer,
        refusals=Refusals(flow.data(), flow.recipe.data),
    )


def _plan_distill(recipe: Recipe, target: Target, form: str) -> str:
    spec = recipe.distill
    assert spec
    count = spec.layers if isinstance(spec.layers, int) else len(spec.layers)
    student = spec.student or f"{count} layer{'s' * (count > 1)} of the teacher"
    learned = "labels" if spec.loss == "labels" else f"{spec.loss}, T={spec.temperature:g}"
    text = f"{spec.teacher or 'the tuned model'} → {student}, {learned}, {spec.length}"
    if spec.write is None:
        return text
    sources = ", ".join((*spec.write.questions, *spec.write.documents))
    return f"{text}; {spec.write.teacher or 'the teacher'} writes from {sources}"


def _distilled(artifact: Artifact) -> str:
    from toolchain.distill import DistillFigures
    from toolchain.training.probe import lost_words

    figures = DistillFigures.read(artifact.record.figures)
    trained = {
        "student": figures.student,
        "control": figures.control,
        "longer control": figures.longer,
    }
    text = f"{figures.best.mark.parameters / 1e6:.2f} M parameters"
    if figures.student is None:
        text += "; there is nothing to teach"
    if figures.written:
        text += f"; {figures.written:,} conversations written"
    for name, each in trained.items():
        text += f"; {name}{_scores(each.mark)}" if each else ""
    if figures.forgotten:
        text += f"; {lost_words(figures.forgotten)}"
    return f"{text}; the {figures.shipped} ships"


# align --------------------------------------------------------------------------------------------


def _align(flow: Flow) -> Checkpoint:
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
        flow.original = _after_tune(original, out / ADAPTER)
    return flow.checkpoint


def _plan_align(recipe: Recipe, target: Target, form: str) -> str:
    spec = recipe.align
    assert spec
    loss = "DPO or KTO" if spec.loss == "auto" else spec.loss.upper()
    return f"{loss} from {', '.join(spec.files)}, beta={spec.beta:g}, {spec.length}"


def _aligned(artifact: Artifact) -> str:
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


# trim ---------------------------------------------------------------------------------------------


def _trim(flow: Flow) -> Checkpoint:
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


def _plan_trim(recipe: Recipe, target: Target, form: str) -> str:
    spec = recipe.trim
    return f"{spec.vocabulary or 'as few'} tokens, answers the same in ≥ {spec.min_identical:.1%}"


def _trimmed(artifact: Artifact) -> str:
    from toolchain.trim import TrimFigures

    figures = TrimFigures.read(artifact.record.figures)
    share = figures.identical
    same = "" if share is None else f"; {share:.1%} of answers as before"
    return f"{figures.tokens.before} → {figures.tokens.after} tokens{same}"


# know ---------------------------------------------------------------------------------------------


def _know(flow: Flow) -> Knowledge:
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


def _plan_know(recipe: Recipe, target: Target, form: str) -> str:
    spec = recipe.knowledge
    assert spec
    tuned = f", tuned for {spec.tune.epochs} epochs" if spec.tune else ""
    return f"{', '.join(spec.files)}, found by {spec.embedder} as {spec.scheme}{tuned}"


def _known(artifact: Artifact) -> str:
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


# guard --------------------------------------------------------------------------------------------


def _guard(flow: Flow) -> GuardFile:
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


def _plan_guard(recipe: Recipe, target: Target, form: str) -> str:
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


def _needed_guard(recipe: Recipe) -> tuple[Kind, ...]:
    return (GuardFile,) if recipe.guard else ()


# quantize -----------------------------------------------------------------------------------------


def _quantize(flow: Flow) -> ModelFile:
    artifact = FORMATS[flow.format].quantize(flow, flow.recipe.quantize, flow.out("quantize"))
    flow.models[flow.format] = artifact
    return artifact


def _needed_to_quantize(recipe: Recipe) -> tuple[Kind, ...]:
    """Return the data set where the scheme is measured or learned on the recipe's text."""
    spec = recipe.quantize
    return (Dataset,) if spec.importance is True or spec.distill else ()


def _plan_quantize(recipe: Recipe, target: Target, form: str) -> str:
    return FORMATS[form].plan(recipe.quantize)


def _quantized(artifact: Artifact) -> str:
    figures = ModelFigures.read(artifact.record.figures)
    bits = f"{figures.real_bpw:.2f} bits per weight (nominal {figures.nominal_bpw:.2f})"
    is_learned = figures.distillation is not None and figures.distillation.shipped == "learned"
    return f"{figures.scheme}: {bits}" + ", codes learned in the format" * is_learned


# evaluate -----------------------------------------------------------------------------------------


def _evaluate(flow: Flow) -> Verdict:
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


def _plan_evaluate(recipe: Recipe, target: Target, form: str) -> str:
    gate = recipe.evaluate.gate
    return (
        f"gate: KL ≤ {gate.max_kl:g}, agreement ≥ {gate.min_agreement:.0%}, "
        f"on general text {gate.max_general_kl:g} and {gate.min_general_agreement:.0%}, "
        f"exact match ≥ {gate.min_exact_match:.0%}"
    )


def _evaluated(artifact: Artifact) -> str:
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


# package ------------------------------------------------------------------------------------------


def _package(flow: Flow) -> Bundle:
    from toolchain.package import Origin, Parts, package

    recipe, form = flow.recipe, flow.format
    licences = travelling_files(flow.base) if flow.base else []
    records = tuple(flow.records_of(form))
    origin = Origin(
        name=recipe.name,
        recipe=recipe.id,
        base=flow.base_name,
        base_digest=flow.base_digest,
        licence=recipe.package.licence,
        opening=flow.data().opening(),
        licence_files=tuple(licences),
        records=records,
        ledger=grouped(travelling(total(record.ledger for record in records))),
        strict=recipe.data.strict,
        is_trained=recipe.learns,
    )
    parts = Parts(
        model=flow.models[form],
        verdict=flow.verdicts[form],
        target=flow.settings.target,
        spec=recipe.package,
        origin=origin,
        packing=FORMATS[form].packing,
        consulted=flow.consulted(flow.verdicts[form]),
        guarded=flow.guarded(),
    )
    return package(parts, flow.out("package"))


def _plan_package(recipe: Recipe, target: Target, form: str) -> str:
    return (
        f"{recipe.name} {recipe.package.version} for {target.id}, "
        f"{recipe.package.context} tokens of context"
    )


def packaged(artifact: Artifact) -> str:
    """Return what a bundle is, in one line."""
    figures = BundleFigures.read(artifact.record.figures)
    return f"release {figures.release[:12]}, {figures.files} files"


STAGES: dict[str, Stage] = {
    "ingest": Stage(
        help="Run a recipe's first stage: read the data, split it, say what was dropped and why.",
        run=_ingest,
        plan=_plan_ingest,
        result=_ingested,
        gives=Dataset,
    ),
    "pretrain": Stage(
        run=_pretrain,
        plan=_plan_pretrain,
        result=_pretrained,
        extra="train",
        needs=(Dataset,),
        gives=Checkpoint,
    ),
    "tune": Stage(
        help="Run a recipe up to its fine-tuned checkpoint (LoRA, merged).",
        run=_tune,
        plan=_plan_tune,
        result=_tuned,
        extra="train",
        needs=(Dataset, Checkpoint),
        gives=Checkpoint,
    ),
    "distill": Stage(
        help="Run a recipe up to its distilled student.",
        run=_distill,
        plan=_plan_distill,
        result=_distilled,
        extra="train",
        needs=(Dataset, Checkpoint),
        gives=Checkpoint,
    ),
    "align": Stage(
        help="Run a recipe up to the checkpoint that learned from preferences.",
        run=_align,
        plan=_plan_align,
        result=_aligned,
        extra="train",
        needs=(Dataset, Checkpoint),
        gives=Checkpoint,
    ),
    "trim": Stage(
        help="Run a recipe up to its checkpoint with the vocabulary of its subject alone.",
        run=_trim,
        plan=_plan_trim,
        result=_trimmed,
        extra="train",
        needs=(Dataset, Checkpoint),
        gives=Checkpoint,
    ),
    "know": Stage(
        help="Run a recipe up to its knowledge: documents cut, found by questions, measured.",
        run=_know,
        plan=_plan_know,
        result=_known,
        gives=Knowledge,
    ),
    "guard": Stage(
        help="Run a recipe up to its guard: what tells unsafe questions, trained and measured.",
        run=_guard,
        plan=_plan_guard,
        result=guard_words,
        needs=(Dataset,),
        gives=GuardFile,
    ),
    "quantize": Stage(
        help="Run a recipe up to its quantized model file.",
        run=_quantize,
        plan=_plan_quantize,
        result=_quantized,
        needs=(Checkpoint,),
        may_need=_needed_to_quantize,
        gives=ModelFile,
        per_format=True,
    ),
    "evaluate": Stage(
        help="Run a recipe up to the gate: measure the model file and say whether it may ship.",
        run=_evaluate,
        plan=_plan_evaluate,
        result=_evaluated,
        extra="train",
        needs=(Dataset, ModelFile),
        may_need=_needed_guard,
        gives=Verdict,
        per_format=True,
    ),
    "package": Stage(
        help="Run a recipe up to the bundle that travels to boards, or make one of a finished "
        "model.",
        run=_package,
        plan=_plan_package,
        result=packaged,
        needs=(Dataset, ModelFile, Verdict),
        may_need=_needed_guard,
        gives=Bundle,
        per_format=True,
    ),
}
