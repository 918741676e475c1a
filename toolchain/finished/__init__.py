"""A finished model as it is, onto a board: look at it, take it, measure it, package it.

Most people who fine-tune bring one file and want it served. It walks as a recipe does: each stage
has a folder and a record, and is skipped the second time. Nothing is trained or quantized, and the
release says "as it came".
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from toolchain import artifacts, extras
from toolchain.artifacts import Bundle, Checkpoint, Dataset, ModelFile, Verdict
from toolchain.errors import ConfigError, FitError, ToolchainError, ToolError
from toolchain.finished.look import Seen, look
from toolchain.finished.measure import Against, measure
from toolchain.finished.source import Source, is_finished, resolve
from toolchain.finished.take import take
from toolchain.forecast import usual_context
from toolchain.guard import guard
from toolchain.ledger import Ledger
from toolchain.ledger import Source as LedgerSource
from toolchain.line.flow import Settings, Step
from toolchain.line.stages.evaluate import likeness, task_scores
from toolchain.line.stages.guard import guard_words
from toolchain.line.stages.package import packaged
from toolchain.models import hub
from toolchain.opening import Opening
from toolchain.package import Guarded, Origin, Parts, package
from toolchain.progress import SILENT
from toolchain.recipe import DataSpec, EvaluateSpec, GuardSpec, PackageSpec, TurnSpec
from toolchain.target import Fit, fit
from toolchain.terms import known_or_none
from toolchain.terms.table import named_in

__all__ = ["Options", "Wanted", "finish", "is_finished", "plan", "prepare"]

QUESTION = "What is the capital of France?"
"""Question that the board is asked when all is done."""
LEAST_CONTEXT = 512
"""Least context of a model that is said to fit, in tokens: room for a question and its answer."""

SMALLEST_CONTEXT = 64
"""Least context that can be asked for, in tokens: a short question in its template takes half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options for a finished model on the command line; all of them may be left out."""

    template: Path | None = None
    """Path to a chat template, for a file that has none or a wrong one."""
    reference: str = ""
    """Folder or Hub id of the model that the file was made from."""
    data: Path | None = None
    """Path to questions and answers."""
    guard: str = ""
    """What a guard refuses: `questions`, `both` or `nothing`; empty: there is none."""
    context: int = 0
    memory_mb: int | None = None
    """Memory that the board itself reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be made from a finished model, as a recipe says it for the same stages."""

    id: str
    title: str
    question: str
    package: PackageSpec
    guard: GuardSpec | None
    """The filter that it gets; None for none."""
    source: Source
    seen: Seen
    fits: Fit | None
    """Whether it fits; None for a target whose memory only the machine itself knows."""
    choose: Literal["fastest"] = "fastest"
    """A finished model is one file: there is nothing to choose from."""


def prepare(name: str, options: Options, settings: Settings) -> Wanted:
    """Return what is to be made from a finished model, after a look at it and at the target.

    Only its header is read. `settings.out` gets a folder for the model, named by `Wanted.id`.
    Raises an error of ours with the reason if the model cannot be served there.
    """
    guard = _guard_spec(options.guard)
    source = resolve(name, offline=settings.offline)
    for sentence in source.dropped:
        settings.report.note(f"not honoured: {sentence}")

    seen = look(source, options.template, settings.out / source.id / "parts")
    if seen.engine not in settings.target.engines:
        raise FitError(
            f"{settings.target.id}: runs no {seen.format}",
            hint=f"it runs {', '.join(settings.target.engines)}",
        )

    for warning in seen.contents.warnings:
        settings.report.note(f"mind: {warning}")

    context, fits = _context(source, seen, options, settings)
    answer = min(source.max_tokens or PackageSpec().max_tokens, context - 1)
    return Wanted(
        id=source.id,
        title=f"{source.said}, as it came",
        question=QUESTION,
        package=PackageSpec(context=context, max_tokens=answer, licence=seen.contents.licence),
        guard=guard,
        source=source,
        seen=seen,
        fits=fits,
    )


def plan(wanted: Wanted, options: Options, settings: Settings) -> list[Step]:
    """Return the stages of a walk without doing them; the file has been looked at already."""
    steps = _steps(wanted, settings)
    looked = replace(settings, report=SILENT, offline=True)
    made = 0
    if artifacts.recorded(steps[0].folder):
        try:
            with artifacts.looking():
                for _ in finish(wanted, options, looked):
                    made += 1
        except (artifacts.UnmadeError, ToolchainError):
            pass
    return [replace(step, recorded=place < made) for place, step in enumerate(steps)]


def _steps(wanted: Wanted, settings: Settings) -> list[Step]:
    return [
        Step(stage=stage, folder=settings.out / wanted.id / stage, what=what)
        for stage, what in _stages(wanted, settings)
    ]


def finish(wanted: Wanted, options: Options, settings: Settings) -> Iterator[Step]:
    """Take a finished model, measure it and package it; yield each stage when it is done."""
    report = settings.report
    out = settings.out / wanted.id
    runtime = wanted.seen.row.runtime(report)
    steps = iter(_steps(wanted, settings))

    step = _noted(next(steps), settings)
    model = take(wanted.source, wanted.seen, runtime, out / "take", report)
    yield _done(step, model, _taken(model))

    against = _against(wanted, options, settings)
    if wanted.guard:
        step = _noted(next(steps), settings)
        made = guard(against.dataset, wanted.guard, Path(), out / "guard", report, seed=0)
        against = replace(against, guard=made, refuse=wanted.guard.refuse)
        yield _done(step, made, guard_words(made))

    step = _noted(next(steps), settings)
    spec = EvaluateSpec()
    verdict = measure(model, against, spec, runtime, out / "evaluate", report)
    yield _done(step, verdict, _measured(verdict))

    step = _noted(next(steps), settings)
    bundle = _packaged(wanted, model, verdict, against, settings)
    yield _done(step, bundle, packaged(bundle))


def _guard_spec(refuse: str) -> GuardSpec | None:
    """Return what a guard is made of; raise ConfigError for a word that is none of its."""
    if not refuse:
        return None
    try:
        return GuardSpec.model_validate({"refuse": refuse})
    except ValidationError as error:
        raise ConfigError(
            f"--guard: `{refuse}` is none of questions, both, nothing",
            hint="`questions` refuses unsafe questions, `both` unsafe answers too",
        ) from error


def _done(step: Step, artifact: artifacts.Artifact, result: str) -> Step:
    return replace(step, folder=artifact.path, artifact=artifact, result=result)


def _taken(model: ModelFile) -> str:
    """Return one line that says what a file is."""
    figures = model.figures
    bits = f"{figures.real_bpw:.2f} bits per weight"
    return f"{figures.architecture} {figures.scheme}: {bits}, as it came"


def _measured(verdict: Verdict) -> str:
    """Return what was measured of a finished model, and a note on what was not."""
    figures = verdict.figures
    ended = f"{figures.own_ended} of {figures.own_prompts} answers of its own ended"
    like = "no reference" if figures.measured.mean_kl is None else likeness(figures.measured)
    return f"{ended}; {like}; {task_scores(figures.measured) or 'no data'}"


def _noted(step: Step, settings: Settings) -> Step:
    settings.report.note(f"{step.stage}: {step.what}")
    return step


def _stages(wanted: Wanted, settings: Settings) -> list[tuple[str, str]]:
    seen, spec = wanted.seen, wanted.package
    contents, target = seen.contents, settings.target
    size = f"{contents.size_bytes / 1e6:.1f} MB"
    expected = seen.weighed.forecast(target, spec.context, 0)
    speed = (
        f", about {expected.decode.tok_s:.3g} tokens/s"
        if expected.decode
        else f", at most {expected.decode_at_most:.3g} tokens/s"
        if expected.decode_at_most
        else ""
    )
    memory = f", {wanted.fits.needed_mb} of {wanted.fits.available_mb} MB" if wanted.fits else ""
    return [
        (
            "take",
            f"{wanted.source.said}: {contents.architecture} {contents.scheme or seen.format}, "
            f"{size}, as it came",
        ),
        *([("guard", f"refuse {wanted.guard.refuse}; learns our seeds")] if wanted.guard else []),
        ("evaluate", "goldens of its own answers"),
        (
            "package",
            f"{wanted.id} for {target.id}, {spec.context} tokens of context{memory}{speed}",
        ),
    ]


def _context(
    source: Source, seen: Seen, options: Options, settings: Settings
) -> tuple[int, Fit | None]:
    """Return the context that a model is served with, and its fit.

    A context that nobody asked for shrinks to what the target holds.
    """
    asked = options.context or (seen.context if seen.row.has_fixed_context else 0)
    if asked > seen.context:
        raise ConfigError(
            f"--context: the model has {seen.context} tokens of context, `{asked}` asked"
        )

    wished = asked or min(source.context or usual_context(seen.context), seen.context)
    if wished < SMALLEST_CONTEXT:
        raise ConfigError(
            f"{source.said}: {wished} tokens of context are too few for a question and its answer",
            hint="--context N with more" if seen.context >= SMALLEST_CONTEXT else "",
        )

    found = _fit(seen, wished, options, settings)
    if found is None or found.ok:
        return wished, found

    smaller = min(found.largest_context or 0, wished)
    if asked or smaller < LEAST_CONTEXT or seen.row.has_fixed_context:
        raise FitError(
            f"{settings.target.id}: {source.said} does not fit in memory: {found.reasons[0]}",
            hint=found.hint,
        )

    settings.report.note(
        f"context: {wished} tokens do not fit on {settings.target.id}, {smaller} do"
    )
    return smaller, _fit(seen, smaller, options, settings)


def _fit(seen: Seen, context: int, options: Options, settings: Settings) -> Fit | None:
    target = settings.target
    if target.memory_mb is None and options.memory_mb is None:
        return None
    needs = seen.weighed.forecast(target, context, 0).needs
    return fit(needs, target, options.memory_mb, trained_context=seen.context)


def _against(wanted: Wanted, options: Options, settings: Settings) -> Against:
    """Return what the model is measured against."""
    source = wanted.source
    dataset = _dataset(source, options.data, settings, wanted.id) if options.data else None
    return Against(
        opening=dataset.opening() if dataset else _opening(source),
        dataset=dataset,
        reference=_reference(options.reference, settings) if options.reference else None,
    )


def _opening(source: Source) -> Opening:
    from device.manifest.opening import opening_of

    return opening_of(source.system, source.turns)


def _dataset(source: Source, data: Path, settings: Settings, name: str) -> Dataset:
    """Return a file of questions and answers as a data set that is held out as a whole."""
    from toolchain.ingest import ingest

    turns = tuple(
        TurnSpec(question=asked["content"], answer=said["content"])
        for asked, said in zip(source.turns[::2], source.turns[1::2], strict=True)
    )
    spec = DataSpec(files=(data.name,), held_out_share=1.0, system=source.system, turns=turns)
    folder = settings.out / name / "ingest"
    dataset = ingest(spec, data.parent, folder, settings.report, seed=0)
    if not dataset.held_out():
        raise ConfigError(
            f"{data.name}: no questions with answers in it",
            hint='a line is {"question": …, "answer": …} or {"messages": […]}',
        )

    return dataset


def _reference(name: str, settings: Settings) -> Checkpoint:
    from toolchain.models.template import check_folder

    if missing := [each for each in ("torch", "transformers") if not find_spec(each)]:
        raise ToolError(
            f"--reference: {' and '.join(missing)} not installed",
            hint=extras.remedy("train"),
        )

    folder = hub.fetch(name, near=Path(), offline=settings.offline)
    check_folder(folder)
    return artifacts.external(folder)


def _ledger(wanted: Wanted, model: ModelFile) -> Ledger:
    """Return the account of a finished model: its file is the one source."""
    contents = wanted.seen.contents
    named = next(filter(None, map(named_in, wanted.source.licences)), "")
    said = known_or_none(contents.licence)
    return Ledger(
        sources=(
            LedgerSource(
                role="base",
                use="weights",
                name=contents.base or contents.name or model.file.name,
                sha256=model.digest,
                licence=said or named,
                said_by="model file" if said else "licence text" if named else "",
            ),
        )
    )


def _packaged(
    wanted: Wanted,
    model: ModelFile,
    verdict: Verdict,
    against: Against,
    settings: Settings,
) -> Bundle:
    contents = wanted.seen.contents
    guarded = against.guard
    records = [each.record for each in (model, guarded, verdict) if each]
    origin = Origin(
        name=wanted.id,
        recipe="",
        base=contents.base or contents.name,
        licence=contents.licence,
        opening=against.opening,
        records=tuple(records),
        licence_texts=wanted.source.licences,
        came=f"as it came: {wanted.source.said}",
        ledger=_ledger(wanted, model),
    )
    parts = Parts(
        model=model,
        verdict=verdict,
        target=settings.target,
        spec=wanted.package,
        origin=origin,
        packing=wanted.seen.row.packing,
        guarded=Guarded(guard=guarded, refuse=against.refuse) if guarded else None,
    )
    return package(parts, settings.out / wanted.id / "package")
