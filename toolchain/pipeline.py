"""Walks a recipe: its stages in order, each into its own folder, each skipped where its record matches.

Knows the stages and how their artifacts flow; knows nothing of boards and terminals.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from device.manifest import ESCAPE
from toolchain import artifacts, recipe, runtime
from toolchain.artifacts import Artifact, Checkpoint, Dataset, ModelFile, Record, Verdict
from toolchain.checks import Ahead, Findings, check
from toolchain.errors import ConfigError, FitError
from toolchain.general import GENERAL
from toolchain.held_out import split
from toolchain.lock import locked
from toolchain.models import hub
from toolchain.models.original import Original
from toolchain.models.template import check_folder
from toolchain.progress import Reporter
from toolchain.recipe import EvaluateSpec, GateSpec, InFormatSpec, QuantizeSpec, Recipe
from toolchain.target import Target
from toolchain.training.processes import is_main

if TYPE_CHECKING:
    from toolchain.evaluate import Originals, Texts
    from toolchain.quantize.gguf import ModelLabel

ENGINES = {"gguf": "llama.cpp", "tflite": "litert"}
"""Format → the engine that runs it."""
_BY_FORMAT = ("quantize", "evaluate", "package")
"""Stages that are done for each format."""
LEARNED = "+learned"
"""Behind the name of a scheme: its codes are learned in the format."""
USUAL = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K_M", "Q2_K")
"""Schemes that are tried where none is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where a walk writes and what it may use."""

    out: Path
    """Each stage gets a folder under it."""
    target: Target
    report: Reporter
    offline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage of a walk, for the plan and for the table at the end."""

    stage: str
    folder: Path
    what: str
    """The parameters that matter, in one line."""
    artifact: Artifact | None = None
    """What came out; None in a plan."""

    @property
    def recorded(self) -> bool:
        """Whether the stage was finished before, with these or other parameters."""
        return artifacts.recorded(self.folder) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What one scheme makes of a model."""

    scheme: str
    model: ModelFile
    verdict: Verdict


@dataclass(slots=True, kw_only=True)
class _Flow:
    """The newest artifact of each kind, as the walk goes on."""

    recipe: Recipe
    settings: Settings
    dataset: Dataset | None = None
    checkpoint: Checkpoint | None = None
    format: str = ""
    """That a stage is done in now."""
    models: dict[str, ModelFile] = field(default_factory=dict)
    """By format."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    records: list[tuple[str, Record]] = field(default_factory=list)
    """With the format, empty where a stage has none."""
    base: Path | None = None
    base_digest: str = ""
    apart: Checkpoint | None = None
    """The base that was tuned, with what it learned still an adapter."""
    original: Original | None = None
    """What the model is now, without our work on it: the gate's reference."""
    teacher: Original | None = None
    """What taught the student, where there was a `distill`."""

    @property
    def base_name(self) -> str:
        """The name of the recipe's base in what travels."""
        return hub.travelling_name(self.recipe.model.base, self.recipe.folder)

    def out(self, stage: str) -> Path:
        return self.settings.out / folder_of(stage, self.format)

    def source(self) -> Checkpoint:
        """The checkpoint of the stage before, or the recipe's base with its adapter still apart."""
        if self.checkpoint is None:
            self.checkpoint = _external(self)
        return self.checkpoint

    def merged(self) -> Checkpoint:
        """The same as one set of weights, for a stage that trains on them."""
        from toolchain.tune import merge

        source = self.source()
        if source.adapter:
            base = replace(source, adapter=None)
            self.checkpoint = source = merge(
                base, source.adapter, self.out("merge"), self.settings.report
            )
        return source

    def data(self) -> Dataset:
        if self.dataset is None:
            raise ConfigError(f"{self.recipe.id}: stages: this order needs `ingest` first")
        return self.dataset


def plan(wanted: Recipe, settings: Settings, *, until: str = "") -> list[Step]:
    """Return what a walk would do, without doing or fetching anything."""
    return [
        Step(
            stage=stage,
            folder=settings.out / folder_of(stage, form),
            what=describe(wanted, stage, settings.target, form),
        )
        for stage, form in _steps(wanted, settings, until)
    ]


def known(
    wanted: Recipe, settings: Settings, *, until: str = "", schemes: Sequence[str] = ()
) -> Findings:
    """Return what is known of a walk before it begins; `schemes` are those to try instead of the recipe's own."""
    stages = _stages(wanted, until)
    if schemes:
        before = wanted.stages[: wanted.stages.index("quantize")]
        stages = (*before, "quantize", "evaluate")
    ahead = Ahead(
        recipe=wanted,
        target=settings.target,
        stages=stages,
        formats=_formats(wanted, settings),
        out=settings.out,
        offline=settings.offline,
        schemes=tuple(schemes),
    )
    return check(ahead)


def _begin(found: Findings, report: Reporter) -> None:
    """Say what is known before a walk; raise what would end it later."""
    for note in found.notes:
        report.note(note)
    found.end_walk()


def walk(wanted: Recipe, settings: Settings, *, until: str = "") -> Iterator[Step]:
    """Run a recipe's stages up to `until` (all of them by default), yielding each as it is done."""
    _begin(known(wanted, settings, until=until), settings.report)
    with work_folder(settings):
        flow = _Flow(recipe=wanted, settings=settings)
        for stage, form in _steps(wanted, settings, until):
            what = describe(wanted, stage, settings.target, form)
            settings.report.note(f"{stage}: {what}")
            flow.format = form
            made = _STAGES[stage](flow)
            flow.records.append((form, made.record))
            yield Step(stage=stage, folder=made.path, what=what, artifact=made)


@contextmanager
def work_folder(settings: Settings) -> Iterator[None]:
    """Hold the folder of a walk against other runs; of the processes that train together one holds it for all."""
    if not is_main():
        yield
        return
    with locked(settings.out, settings.report):
        yield


def folder_of(stage: str, form: str) -> str:
    """Return the name of a stage's folder; what is made of a TFLite file has folders of its own."""
    return f"{stage}-{form}" if form == "tflite" else stage


def _steps(wanted: Recipe, settings: Settings, until: str) -> list[tuple[recipe.Stage, str]]:
    """Return the stages in order; from `quantize` on each format in turn, if the target has an engine for it."""
    formats = _formats(wanted, settings)
    stages = _stages(wanted, until)
    apart = [stage for stage in stages if stage in _BY_FORMAT]
    if apart and not formats:
        known = ", ".join(settings.target.engines)
        raise FitError(
            f"{settings.target.id}: runs no {' and no '.join(wanted.quantize.formats)}",
            hint=f"it runs {known}",
        )
    common: list[tuple[recipe.Stage, str]] = [(stage, "") for stage in stages if stage not in apart]
    return common + [(stage, form) for form in formats for stage in apart]


def _formats(wanted: Recipe, settings: Settings) -> tuple[str, ...]:
    """Return the formats of a recipe that the target has an engine for."""
    engines = settings.target.engines
    return tuple(form for form in wanted.quantize.formats if ENGINES[form] in engines)


def try_schemes(wanted: Recipe, settings: Settings, schemes: Sequence[str]) -> Iterator[Tried]:
    """Yield what each scheme makes of a recipe's model, measured as the gate measures it, without its limits.

    `SCHEME+learned` is a scheme whose codes are learned; LiteRT's names make TFLite files. Files and figures stay under
    `schemes/`, and are not made again.
    """
    from toolchain.evaluate import evaluate
    from toolchain.quantize.tflite.schemes import SCHEMES as TFLITE

    if "quantize" not in wanted.stages:
        raise ConfigError(f"{wanted.id}.toml: stages: without `quantize` there is nothing to try")
    _begin(known(wanted, settings, schemes=schemes), settings.report)
    with work_folder(settings):
        flow = _Flow(recipe=wanted, settings=settings)
        for stage in wanted.stages[: wanted.stages.index("quantize")]:
            _STAGES[stage](flow)
        asked = open_gate(wanted.evaluate)
        chosen = any(_scheme(wanted.quantize, name, "gguf").is_chosen for name in schemes)
        for name in schemes:
            folder = settings.out / "schemes" / name.replace(":", "-")
            form = "tflite" if name in TFLITE else "gguf"
            model = _MAKERS[form](flow, _scheme(wanted.quantize, name, form), folder / "quantize")
            runs = _runtime(form, settings.report)
            verdict = evaluate(
                model,
                _originals(flow),
                _texts(flow, chosen=chosen),
                asked,
                runs,
                folder / "evaluate",
                settings.report,
            )
            yield Tried(scheme=name, model=model, verdict=verdict)


def open_gate(spec: EvaluateSpec) -> EvaluateSpec:
    """Return a spec that measures the same and lets everything pass."""
    return spec.model_copy(
        update={
            "gate": GateSpec(
                max_kl=float("inf"),
                min_agreement=0,
                max_general_kl=float("inf"),
                min_general_agreement=0,
                max_teacher_kl=float("inf"),
                min_teacher_agreement=0,
                max_eos_drop=1,
                template_chats=1,
            )
        }
    )


def _scheme(spec: QuantizeSpec, name: str, form: str) -> QuantizeSpec:
    if form == "tflite":
        return spec.model_copy(
            update={"tflite_scheme": name, "formats": (form,), "litertlm": False}
        )
    scheme, learned, _ = name.partition(LEARNED)
    changes = {
        "scheme": scheme,
        "distill": (spec.distill or InFormatSpec()) if learned else None,
        "formats": ("gguf",),
    }
    return spec.model_copy(update=changes)


def describe(wanted: Recipe, stage: str, target: Target, form: str) -> str:
    """Return the parameters of a stage that matter, in one line."""
    spec, tune, distill = wanted.model.scratch, wanted.tune, wanted.distill
    source = wanted.model.base or "trained from scratch"
    match stage:
        case "ingest":
            turns = len(wanted.data.turns)
            before = [
                *wanted.data.documents,
                *([f"{turns} turn{'s' * (turns > 1)}"] if turns else []),
            ]
            opened = f", opened by {' and '.join(before)}" if before else ""
            return f"{', '.join(wanted.data.files)}, hold out by {wanted.data.hold_out}{opened}"
        case "pretrain" if spec:
            return f"llama {spec.layers} × {spec.hidden_size}, vocabulary {spec.vocab_size}, {spec.steps} steps"
        case "tune":
            return f"LoRA r={tune.r} alpha={tune.alpha} on {', '.join(tune.target_modules)}, {tune.epochs} epochs, base {source}"
        case "distill" if distill:
            student = distill.student or f"{len(distill.layers)} layers of the teacher"
            return f"{distill.teacher or 'the tuned model'} → {student}, T={distill.temperature:g}, {distill.epochs} epochs"
        case "trim":
            return f"{wanted.trim.vocabulary or 'as few'} tokens, answers the same in ≥ {wanted.trim.min_identical:.1%}"
        case "quantize":
            beside = ", the adapter beside it" if wanted.quantize.adapter == "beside" else ""
            learned = (
                ", codes learned in the format"
                if wanted.quantize.distill and form == "gguf"
                else ""
            )
            return f"{wanted.quantize.tflite_scheme if form == 'tflite' else wanted.quantize.scheme} as {form}{beside}{learned}"
        case "evaluate":
            gate = wanted.evaluate.gate
            return (
                f"gate: KL ≤ {gate.max_kl:g}, agreement ≥ {gate.min_agreement:.0%}, "
                f"on general text {gate.max_general_kl:g} and {gate.min_general_agreement:.0%}, "
                f"exact match ≥ {gate.min_exact_match:.0%}"
            )
        case "package":
            return f"{wanted.name} {wanted.package.version} for {target.id}, {wanted.package.context} tokens of context"
    raise ConfigError(f"{wanted.id}: stages: nothing is known of `{stage}`")


def _stages(wanted: Recipe, until: str) -> tuple[recipe.Stage, ...]:
    if not until:
        return wanted.stages
    if until not in wanted.stages:
        raise ConfigError(
            f"{wanted.id}: stages: this recipe has no `{until}`",
            hint=f"it has {', '.join(wanted.stages)}",
        )
    return wanted.stages[: [str(stage) for stage in wanted.stages].index(until) + 1]


def _external(flow: _Flow) -> Checkpoint:
    from toolchain.models.adapter_config import check_base_name
    from toolchain.models.weights import check_model_folder

    model, settings = flow.recipe.model, flow.settings
    base = _unpacked(flow, model.base, "base")
    if base is None:
        folder = hub.fetch(
            model.base,
            revision=model.revision,
            near=flow.recipe.folder,
            offline=settings.offline,
            report=settings.report,
        )
        check_model_folder(folder)
        check_folder(folder)
        base = artifacts.external(folder)
    flow.base = base.path
    flow.base_digest = base.digest
    flow.original = Original(base=flow.base)
    if not model.adapter:
        return base
    adapter = hub.fetch(model.adapter, near=flow.recipe.folder, offline=settings.offline)
    check_base_name(
        adapter,
        model.base,
        near=flow.recipe.folder,
        revision=model.revision,
        same_as=model.adapter_base,
    )
    check_folder(adapter)
    flow.original = Original(base=flow.base, adapters=(adapter,))
    return replace(base, adapter=adapter)


def _unpacked(flow: _Flow, name: str, role: str) -> Checkpoint | None:
    """Return the checkpoint that a GGUF file stands for, None where a name means no file."""
    from toolchain.models import origin

    found = origin.find(name, flow.recipe.folder)
    if found is None:
        return None
    from toolchain.models.from_gguf import unpack

    settings = flow.settings
    runs, out = runtime.for_this_computer(), settings.out / role
    made = unpack(found, runs, out, settings.report, stage=role)
    flow.records.append(("", made.record))
    return made


def _ingest(flow: _Flow) -> Artifact:
    from toolchain.ingest import ingest

    flow.dataset = ingest(
        flow.recipe.data,
        flow.recipe.folder,
        flow.out("ingest"),
        flow.settings.report,
        seed=flow.recipe.seed,
    )
    return flow.dataset


def _pretrain(flow: _Flow) -> Artifact:
    from toolchain.pretrain import pretrain

    assert flow.recipe.model.scratch
    out, report, seed = flow.out("pretrain"), flow.settings.report, flow.recipe.seed
    flow.checkpoint = pretrain(flow.data(), flow.recipe.model.scratch, out, report, seed=seed)
    flow.original = Original(base=flow.checkpoint.path)
    return flow.checkpoint


def _tune(flow: _Flow) -> Artifact:
    from toolchain.tune import ADAPTER, tune

    base, out, seed = flow.merged(), flow.out("tune"), flow.recipe.seed
    wanted, report = flow.recipe, flow.settings.report
    general = _general(wanted, wanted.evaluate.general)
    flow.checkpoint = tune(base, flow.data(), wanted.tune, out, report, seed=seed, general=general)
    flow.apart = replace(base, adapter=out / ADAPTER)
    flow.original = _after_tune(_original(flow), out / ADAPTER)
    return flow.checkpoint


def _distill(flow: _Flow) -> Artifact:
    from toolchain.distill import distill

    spec = flow.recipe.distill
    assert spec
    settings = flow.settings
    teacher = flow.merged() if not spec.teacher else _fetched(flow, spec.teacher, "teacher")
    student = _fetched(flow, spec.student, "student") if spec.student else None
    out, seed = flow.out("distill"), flow.recipe.seed
    flow.checkpoint = distill(
        teacher, flow.data(), spec, out, settings.report, seed=seed, student=student
    )
    flow.teacher = Original(base=teacher.path) if spec.teacher else _original(flow)
    flow.original = Original(base=flow.checkpoint.path, tokenizer=flow.teacher)
    return flow.checkpoint


def _trim(flow: _Flow) -> Artifact:
    from toolchain.trim import trim

    spec = flow.recipe.trim
    general = _general(flow.recipe, spec.general)
    flow.checkpoint = trim(
        flow.merged(), flow.data(), spec, flow.out("trim"), flow.settings.report, general=general
    )
    flow.original = replace(_original(flow), trimmed=flow.checkpoint.path)
    if flow.teacher:
        flow.teacher = replace(flow.teacher, trimmed=flow.checkpoint.path)
    return flow.checkpoint


def _after_tune(original: Original, adapter: Path) -> Original:
    """Return the model that was trained: the one before with an adapter more.

    What is trained after `trim` is the trimmed model, whose embedding an adapter may change: its checkpoint is the base then.
    """
    if original.trimmed:
        return Original(base=original.trimmed, adapters=(adapter,))
    return replace(original, adapters=(*original.adapters, adapter))


def _original(flow: _Flow) -> Original:
    """Return what the model is now as its user and its trainings left it."""
    flow.source()
    assert flow.original
    return flow.original


def _originals(flow: _Flow) -> "Originals":
    from toolchain.evaluate import Originals

    return Originals(reference=_original(flow), teacher=flow.teacher)


def _fetched(flow: _Flow, name: str, role: str) -> Checkpoint:
    if made := _unpacked(flow, name, role):
        return made
    settings = flow.settings
    folder = hub.fetch(
        name, near=flow.recipe.folder, offline=settings.offline, report=settings.report
    )
    check_folder(folder)
    return artifacts.external(folder)


def _quantize(flow: _Flow) -> Artifact:
    flow.models[flow.format] = _MAKERS[flow.format](
        flow, flow.recipe.quantize, flow.out("quantize")
    )
    return flow.models[flow.format]


def _tflite(flow: _Flow, spec: QuantizeSpec, out: Path) -> ModelFile:
    from toolchain.quantize.tflite import quantize
    from toolchain.quantize.tflite.litertlm import runs_on

    context, report, bundled = (
        flow.recipe.package.context,
        flow.settings.report,
        spec.litertlm and runs_on(flow.settings.target),
    )
    return quantize(
        flow.source(), spec, _label(flow), out, report, context=context, litertlm=bundled
    )


def _label(flow: _Flow) -> "ModelLabel":
    from toolchain.quantize.gguf import ModelLabel

    wanted = flow.recipe
    return ModelLabel(
        name=wanted.name,
        version=wanted.package.version,
        licence=wanted.package.licence,
        base_model=flow.base_name,
        base_weights=_base_weights(flow),
        description=wanted.title,
    )


def _gguf(flow: _Flow, spec: QuantizeSpec, out: Path) -> ModelFile:
    from toolchain.quantize.gguf import Additions, ModelLabel, quantize

    wanted = flow.recipe
    importance = spec.importance
    parts = split(flow.dataset, wanted.evaluate.questions) if flow.dataset else None
    if parts and spec.is_chosen:
        flow.settings.report.note(
            f"quantize: candidates are compared on {len(parts.trials)} {parts.source}"
        )
    additions = Additions(
        importance=wanted.folder / importance if isinstance(importance, str) else None,
        calibration=tuple(flow.data().texts()) if importance is True else (),
        lessons=parts.lessons if parts else (),
        trials=parts.trials if parts else (),
        trials_from=parts.source if parts else "",
        seed=wanted.seed,
    )
    source = flow.source()
    label = _label(flow)
    if spec.adapter == "beside":
        source = flow.apart or source
        label = ModelLabel(
            name=Path(flow.base_name or "base").name,
            base_model=flow.base_name,
            base_weights=_base_weights(flow),
        )
    return quantize(source, spec, label, out, flow.settings.report, additions)


def _base_weights(flow: _Flow) -> str:
    """Return what the base's weights were, where they came from a quantized file."""
    found = next((record for _, record in flow.records if record.stage == "base"), None)
    return str(found.figures["quantization"]) if found else ""


def _texts(flow: _Flow, *, chosen: bool) -> "Texts":
    """Return what a model file is measured on."""
    from toolchain.evaluate import Texts

    general = _general(flow.recipe, flow.recipe.evaluate.general)
    return Texts(dataset=flow.data(), general=general, split=chosen)


def _general(wanted: Recipe, name: str) -> Path:
    """Return the general text that a recipe names, ours where it names none."""
    return wanted.folder / name if name else GENERAL


def _evaluate(flow: _Flow) -> Artifact:
    from toolchain.evaluate import evaluate

    out, report, model = flow.out("evaluate"), flow.settings.report, flow.models[flow.format]
    folder = _runtime(flow.format, report)
    flow.verdicts[flow.format] = evaluate(
        model,
        _originals(flow),
        _texts(flow, chosen=flow.recipe.quantize.is_chosen),
        flow.recipe.evaluate,
        folder,
        out,
        report,
        escape=flow.recipe.package.special_tokens == ESCAPE,
    )
    return flow.verdicts[flow.format]


def _runtime(form: str, report: Reporter) -> Path:
    return (
        runtime.lite_for_this_computer(report) if form == "tflite" else runtime.for_this_computer()
    )


def _package(flow: _Flow) -> Artifact:
    from toolchain.package import Origin, package

    wanted, form = flow.recipe, flow.format
    licences = tuple(sorted(flow.base.glob("LICENSE*"))) if flow.base else ()
    origin = Origin(
        name=wanted.name,
        recipe=wanted.id,
        base=flow.base_name,
        base_digest=flow.base_digest,
        licence=wanted.package.licence,
        opening=flow.data().opening(),
        licence_files=licences,
        records=tuple(record for other, record in flow.records if other in ("", form)),
    )
    return package(
        flow.models[form],
        flow.verdicts[form],
        flow.settings.target,
        wanted.package,
        origin,
        flow.out("package"),
    )


_MAKERS: dict[str, Callable[[_Flow, QuantizeSpec, Path], ModelFile]] = {
    "gguf": _gguf,
    "tflite": _tflite,
}
_STAGES: dict[str, Callable[[_Flow], Artifact]] = {
    "ingest": _ingest,
    "pretrain": _pretrain,
    "tune": _tune,
    "distill": _distill,
    "trim": _trim,
    "quantize": _quantize,
    "evaluate": _evaluate,
    "package": _package,
}
