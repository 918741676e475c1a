"""Learning from preferences: DPO from pairs of answers, KTO from answers that were rated.

align(Checkpoint, Dataset, Preferences) → Checkpoint, via ReferenceScores, an artifact of its own.
The control is plain tuning on the wanted answers, in as many steps. Both are measured on
preferences that nobody learned from and on the recipe's own held-out questions. An aligned model
ships only if it measures better than the model that came in.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from device.manifest.opening import bare
from toolchain.align.figures import (
    ALIGNED,
    BEFORE,
    CONTROL,
    AlignFigures,
    ScoresFigures,
    TrainedMark,
)
from toolchain.align.lesson import Lesson
from toolchain.align.look import Look
from toolchain.align.verdict import decide
from toolchain.artifacts import (
    RECORD,
    RESUME,
    STARTED,
    Checkpoint,
    Dataset,
    ReferenceScores,
    Work,
)
from toolchain.config import Frozen
from toolchain.errors import ArtifactError
from toolchain.figures import TrainFigures
from toolchain.files import link_or_copy
from toolchain.general import GENERAL, passages
from toolchain.preferences import Preferences, divided, subject_of
from toolchain.processes import is_main, keep_together, speaking
from toolchain.progress import Reporter
from toolchain.recipe import AlignSpec
from toolchain.training.exam import Exam
from toolchain.training.merging import merge_folders
from toolchain.training.probe import Question, spread

if TYPE_CHECKING:
    from toolchain.training.preferences import Judgement

TOOLS = ("accelerate", "peft", "safetensors", "torch", "transformers")
SCORES = "reference-scores"
"""Stage name of the cached log-probabilities, and their folder beside the model's."""
ADAPTER = "adapter"
ANSWERS = "preferences.jsonl"


class _ScoresSpec(Frozen):
    """What of an AlignSpec decides the cached log-probabilities."""

    max_tokens: int


def align(
    checkpoint: Checkpoint,
    dataset: Dataset,
    preferences: Preferences,
    spec: AlignSpec,
    out: Path,
    report: Reporter,
    *,
    seed: int,
    general: Path = GENERAL,
    questions: Sequence[Question] = (),
) -> Checkpoint:
    """Learn from preferences; write to `out` the model that follows them best and still answers.

    That may be the model that came in. Figures: share of held-out preferences that are followed,
    with its interval, and the scores of `tune`, of the model before, of the aligned one and of the
    control; `shipped` and `verdict` say which is in `out`, and why.
    """
    spec, used = resolved(spec, preferences)
    kept_out = [
        subject_of(bare(row["messages"], dataset.opening())[:-1]) for row in dataset.held_out()
    ]
    learned, held_out = divided(used, spec.held_out_share, seed, kept_out)
    scores = cache(checkpoint, dataset, learned, spec, out.with_name(SCORES), report)
    asked = spread(questions, spec.general_questions)
    exam = Exam(dataset, spec, tuple(passages(general)), asked)
    lesson = Lesson(
        checkpoint=checkpoint.path,
        exam=exam,
        spec=spec,
        seed=seed,
        learned=learned,
        held_out=_first(held_out, spec.questions),
        dropped=used.dropped,
        scores=scores.path,
    )
    inputs = {
        **preferences.files,
        "checkpoint": checkpoint.digest,
        "dataset": dataset.digest,
        "preferences": preferences.digest,
        "scores": scores.digest,
        **exam.inputs,
    }
    work = Work(stage="align", inputs=inputs, parameters=spec, seed=seed, tools=TOOLS)
    record, fresh = keep_together(
        out, work, lambda folder: _build(lesson, folder, speaking(report)), AlignFigures
    )
    return Checkpoint(path=out, record=record, fresh=fresh)


def resolved(spec: AlignSpec, preferences: Preferences) -> tuple[AlignSpec, Preferences]:
    """Return the spec with its loss named, and the preferences in the form that this loss reads.

    Raise ArtifactError where none has this form.
    """
    loss = spec.loss
    if loss == "auto":
        loss = "kto" if preferences.thumbs else "dpo"
    used = preferences.as_pairs() if loss == "dpo" else preferences.as_thumbs()
    if not len(used):
        raise ArtifactError(
            f"align: loss is `{loss}`, but no preference is a pair",
            hint='loss = "kto" learns from single rated answers',
        )
    return spec.model_copy(update={"loss": loss}), used


def _first(preferences: Preferences, limit: int) -> Preferences:
    """Return the first preferences, at most `limit` of each kind."""
    return replace(preferences, pairs=preferences.pairs[:limit], thumbs=preferences.thumbs[:limit])


def cache(
    checkpoint: Checkpoint,
    dataset: Dataset,
    learned: Preferences,
    spec: AlignSpec,
    out: Path,
    report: Reporter,
) -> ReferenceScores:
    """Write the log-probabilities of the model that comes in, for each preference that is learned.

    They are the reference of both losses.
    """
    inputs = {
        "checkpoint": checkpoint.digest,
        "dataset": dataset.digest,
        "preferences": learned.digest,
    }
    kept = _ScoresSpec(max_tokens=spec.max_tokens)
    work = Work(stage=SCORES, inputs=inputs, parameters=kept, tools=TOOLS)

    def build(folder: Path) -> ScoresFigures | None:
        """Write the reference's scores; only the main process of a training does."""
        from toolchain.models.checkpoints import load_model, load_tokenizer
        from toolchain.training.preferences import judgements, write_scores

        if not is_main():
            return None
        tokenizer = load_tokenizer(checkpoint.path)
        judged, too_long = judgements(tokenizer, learned, dataset.opening(), spec.max_tokens)
        model = load_model(checkpoint.path, dtype="float32")
        write_scores(model, judged, folder, speaking(report))
        return ScoresFigures(preferences=len(judged), too_long=too_long)

    record, fresh = keep_together(out, work, build, ScoresFigures)
    return ReferenceScores(path=out, record=record, fresh=fresh)


def _build(lesson: Lesson, out: Path, report: Reporter) -> AlignFigures | None:
    from toolchain.models.checkpoints import load_model, load_tokenizer
    from toolchain.training.preferences import answer_examples, judgements

    tokenizer = load_tokenizer(lesson.checkpoint)
    judged, too_long = judgements(tokenizer, lesson.learned, lesson.opening, lesson.spec.max_tokens)
    look = Look(lesson=lesson, tokenizer=tokenizer, report=report)
    if is_main():
        look.at(BEFORE, load_model(lesson.checkpoint, dtype="float32"))

    trained: dict[str, TrainFigures] = {}
    if lesson.is_enough and judged:
        trained[ALIGNED] = _train(lesson, ALIGNED, judged, out, report)
        if answer_examples(judged):
            trained[CONTROL] = _train(lesson, CONTROL, judged, out, report)
    if not is_main():
        return None

    for name in trained:
        look.at(name, load_model(_merged(out, name), dtype="float32"))
    shipped, verdict = decide(lesson.spec, look.marks, look.followed, len(judged))
    report.note(f"align: {verdict}")
    look.write(out / ANSWERS)
    _ship(lesson, shipped, out)
    return _figures(lesson, (shipped, verdict), look, trained, too_long)


def _figures(
    lesson: Lesson,
    outcome: tuple[str, str],
    look: Look,
    trained: Mapping[str, TrainFigures],
    too_long: int,
) -> AlignFigures:
    marks = {
        name: TrainedMark(mark=look.marks[name], training=training)
        for name, training in trained.items()
    }
    tokens = trained[outcome[0]].trained_tokens if outcome[0] in trained else None
    longer = {"longer than `max_tokens`": too_long} if too_long else {}
    pairs = len(lesson.learned.pairs) + len(lesson.held_out.pairs)
    thumbs = len(lesson.learned.thumbs) + len(lesson.held_out.thumbs)
    return AlignFigures(
        shipped=outcome[0],
        verdict=outcome[1],
        loss=lesson.spec.loss,
        pairs=pairs,
        thumbs=thumbs,
        learned=len(lesson.learned) - too_long,
        dropped={**lesson.dropped, **longer},
        before=look.marks[BEFORE],
        aligned=marks.get(ALIGNED),
        control=marks.get(CONTROL),
        trained_tokens=tokens,
    )


def _train(
    lesson: Lesson, name: str, judged: "Sequence[Judgement]", out: Path, report: Reporter
) -> TrainFigures:
    """Train one of the two models and merge it under the stage's folder."""
    from toolchain.models.checkpoints import load_model
    from toolchain.training.adapters import save_adapter
    from toolchain.training.loop import course, train
    from toolchain.training.lora import with_lora
    from toolchain.training.objectives import AnswerLoss
    from toolchain.training.preferences import (
        CachedScores,
        PreferenceLoss,
        answer_examples,
    )

    model = load_model(lesson.checkpoint, dtype="float32")
    adapted = with_lora(model, lesson.spec, lesson.seed, stage="align")
    inner = adapted.get_base_model()
    steps = course(name, lesson.spec, judged, lesson.seed)
    if name == ALIGNED:
        objective = PreferenceLoss(inner, judged, CachedScores(lesson.scores), lesson.spec)
        training = train(objective, judged, steps, out / RESUME, report)
    else:
        answers = answer_examples(judged)
        training = train(AnswerLoss(inner), answers, steps, out / RESUME, report)

    if is_main():
        folder = _merged(out, name)
        folder.mkdir(parents=True, exist_ok=True)
        save_adapter(adapted, folder / ADAPTER, base=lesson.checkpoint)
        merge_folders(lesson.checkpoint, folder / ADAPTER, folder, report)
    return TrainFigures.of(training)


def _merged(out: Path, name: str) -> Path:
    """Return the folder of a trained model until it is known which one ships."""
    return out / RESUME / "merged" / name


def _ship(lesson: Lesson, shipped: str, out: Path) -> None:
    """Put the files of the model that ships into the stage's folder."""
    if shipped != BEFORE:
        for entry in _merged(out, shipped).iterdir():
            shutil.move(entry, out / entry.name)
        return
    for file in lesson.checkpoint.iterdir():
        if file.is_file() and file.name not in (RECORD, STARTED, ANSWERS, "answers.jsonl"):
            link_or_copy(file, out / file.name)
