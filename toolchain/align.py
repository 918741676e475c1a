"""Learning from preferences: DPO from pairs of answers, KTO from answers that were rated.

align(Checkpoint, Dataset, Preferences) → Checkpoint, via ReferenceScores, an artifact of its own.
The control is plain tuning on the wanted answers, in as many steps. Both are measured on
preferences that nobody learned from and on the recipe's own held-out questions. An aligned model
ships only if it measures better than the model that came in.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.manifest.opening import bare, opened
from toolchain.artifacts import (
    RECORD,
    RESUME,
    STARTED,
    Checkpoint,
    Dataset,
    ReferenceScores,
    Work,
    write_jsonl,
)
from toolchain.config import Frozen
from toolchain.errors import ArtifactError
from toolchain.figures import FLAT, Forgotten, StageFigures, TrainFigures
from toolchain.files import link_or_copy
from toolchain.general import GENERAL, passages
from toolchain.preferences import (
    Change,
    Pair,
    Preference,
    Preferences,
    change,
    divided,
    interval,
    least_shown,
    subject_of,
)
from toolchain.processes import is_main, keep_together, speaking
from toolchain.progress import Reporter
from toolchain.recipe import AlignSpec
from toolchain.training.exam import Exam, ExamFigures
from toolchain.training.merging import merge_folders
from toolchain.training.probe import Question, forgotten, lost_words, spread

if TYPE_CHECKING:
    from toolchain.training.preferences import Judgement

TOOLS = ("accelerate", "peft", "safetensors", "torch", "transformers")
SCORES = "reference-scores"
"""Stage name of the cached log-probabilities, and their folder beside the model's."""
ADAPTER = "adapter"
ANSWERS = "preferences.jsonl"
BEFORE, ALIGNED, CONTROL = "before", "aligned", "control"
ALIKE_F1 = 0.5
"""Token F1 from which on an answer counts as the one that was rated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresFigures(StageFigures):
    """What the cached log-probabilities are of."""

    preferences: int
    too_long: int
    """Preferences that were left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark(StageFigures):
    """What one model scored on held-out preferences and on the recipe's held-out questions."""

    exam: ExamFigures = field(metadata=FLAT)
    preferences: int
    """Held-out preferences."""
    followed: float | None
    """Share of them that the model's own answer follows; None where none is held out."""
    followed_low: float
    """Lower end of the 95 % interval."""
    followed_high: float
    ranked: float | None = None
    """Share of held-out pairs whose wanted answer is likelier by token."""
    wanted_log_prob: float | None = None
    """Mean log-probability of a token of the wanted answers, in nats."""
    forgotten: Forgotten | None = None
    """Right answers to general questions, of the model that came in and of this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedMark(StageFigures):
    """What a trained model scored, and what its training took."""

    mark: Mark = field(metadata=FLAT)
    training: TrainFigures = field(metadata=FLAT)
    """Its loss is a mean over preferences, for the control over tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignFigures(StageFigures):
    """What was learned from preferences, and which of three models ships."""

    shipped: str
    """`aligned`, `control`, or `before`: the model that came in."""
    verdict: str
    """Which one ships, and why, in words."""
    loss: str
    pairs: int
    thumbs: int
    """Rated answers without another to compare with."""
    learned: int
    dropped: dict[str, int]
    """Reason → number of preferences that were left out."""
    before: Mark
    aligned: TrainedMark | None = None
    control: TrainedMark | None = None
    trained_tokens: int | None = None


class _ScoresSpec(Frozen):
    """What of an AlignSpec decides the cached log-probabilities."""

    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lesson:
    """What all three models have in common."""

    checkpoint: Path
    exam: Exam
    spec: AlignSpec
    seed: int
    learned: Preferences
    held_out: Preferences
    dropped: Mapping[str, int]
    scores: Path

    @property
    def opening(self) -> tuple[Mapping[str, Any], ...]:
        """The messages that conversations begin with."""
        return self.exam.dataset.opening()

    @property
    def asked(self) -> tuple[Preference, ...]:
        """The held-out preferences that are measured."""
        return (*self.held_out.pairs, *self.held_out.thumbs)

    @property
    def is_enough(self) -> bool:
        """Whether any outcome could be told from chance."""
        return len(self.asked) >= least_shown() and bool(len(self.learned))


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
    lesson = _Lesson(
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


def _build(lesson: _Lesson, out: Path, report: Reporter) -> AlignFigures | None:
    from toolchain.models.checkpoints import load_model, load_tokenizer
    from toolchain.training.preferences import answer_examples, judgements

    tokenizer = load_tokenizer(lesson.checkpoint)
    judged, too_long = judgements(tokenizer, lesson.learned, lesson.opening, lesson.spec.max_tokens)
    look = _Look(lesson=lesson, tokenizer=tokenizer, report=report)
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
    lesson: _Lesson,
    outcome: tuple[str, str],
    look: "_Look",
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
    lesson: _Lesson, name: str, judged: "Sequence[Judgement]", out: Path, report: Reporter
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
        save_adapter(adapted, folder / ADAPTER, base=lesson.checkpoint.name)
        merge_folders(lesson.checkpoint, folder / ADAPTER, folder, report)
    return TrainFigures.of(training)


def _merged(out: Path, name: str) -> Path:
    """Return the folder of a trained model until it is known which one ships."""
    return out / RESUME / "merged" / name


def _ship(lesson: _Lesson, shipped: str, out: Path) -> None:
    """Put the files of the model that ships into the stage's folder."""
    if shipped != BEFORE:
        for entry in _merged(out, shipped).iterdir():
            shutil.move(entry, out / entry.name)
        return
    for file in lesson.checkpoint.iterdir():
        if file.is_file() and file.name not in (RECORD, STARTED, ANSWERS, "answers.jsonl"):
            link_or_copy(file, out / file.name)


@dataclass(slots=True, kw_only=True)
class _Look:
    """Scores and answers of each model, on what nobody learned."""

    lesson: _Lesson
    tokenizer: Any
    report: Reporter
    marks: dict[str, Mark] = field(default_factory=dict)
    followed: dict[str, list[bool]] = field(default_factory=dict)
    known: dict[str, list[bool]] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=dict)

    def at(self, name: str, model: Any) -> None:
        """Measure a model."""
        from toolchain.training.preferences import judgements, preferred

        lesson = self.lesson
        seen = lesson.exam.look(model, self.tokenizer, self.report, f"the model {name}")
        self.known[name] = seen.known
        answers = self._ask(name, model)
        followed = [follows(*pair) for pair in zip(lesson.asked, answers, strict=True)]
        judged, _ = judgements(
            self.tokenizer, lesson.held_out, lesson.opening, lesson.spec.max_tokens
        )
        ranked, wanted = preferred(model, judged) if judged else ([], 0.0)
        low, high = interval(sum(followed), len(followed))
        self.answers[name], self.followed[name] = answers, followed
        self.marks[name] = Mark(
            exam=seen.figures,
            preferences=len(followed),
            followed=round(sum(followed) / len(followed), 4) if followed else None,
            followed_low=round(low, 4),
            followed_high=round(high, 4),
            ranked=_share(ranked) if lesson.held_out.pairs else None,
            wanted_log_prob=round(wanted, 4) if any(each.good for each in judged) else None,
            forgotten=forgotten(self.known[BEFORE], seen.known) if seen.known else None,
        )

    def write(self, file: Path) -> None:
        """Write what each model answers to the held-out preferences."""
        rows = [
            {
                "question": str(preference.messages[-1]["content"]),
                **_opinion(preference),
                **{name: answers[at] for name, answers in self.answers.items()},
            }
            for at, preference in enumerate(self.lesson.asked)
        ]
        write_jsonl(file, rows)

    def _ask(self, name: str, model: Any) -> list[str]:
        from toolchain.training.answers import ask

        conversations = [
            {
                "messages": [
                    *opened(each.messages, self.lesson.opening),
                    {"role": "assistant", "content": _longest(each)},
                ]
            }
            for each in self.lesson.asked
        ]
        return ask(model, self.tokenizer, conversations, self.report, name=f"preferences, {name}")


def follows(preference: Preference, answer: str) -> bool:
    """Say whether a model's own answer follows a preference.

    It is nearer to the wanted answer than to the rejected one; or it is what was liked, or is not
    what was disliked. The measure is token F1.
    """
    from toolchain.training.answers import token_f1

    if isinstance(preference, Pair):
        return token_f1(answer, preference.chosen) > token_f1(answer, preference.rejected)
    return (token_f1(answer, preference.answer) >= ALIKE_F1) == preference.good


def _longest(preference: Preference) -> str:
    if isinstance(preference, Pair):
        return max(preference.chosen, preference.rejected, key=len)
    return preference.answer


def _opinion(preference: Preference) -> dict[str, Any]:
    if isinstance(preference, Pair):
        return {"chosen": preference.chosen, "rejected": preference.rejected}
    return {"answer": preference.answer, "good": preference.good}


def _share(values: Sequence[bool]) -> float:
    return round(sum(values) / max(1, len(values)), 4)


def decide(
    spec: AlignSpec,
    marks: Mapping[str, Mark],
    followed: Mapping[str, Sequence[bool]],
    learned: int,
) -> tuple[str, str]:
    """Return which model ships, and why.

    The better one of aligned model and control, if it follows more than the model that came in and
    has not lost more than `max_lost` points of exact match.
    """
    before = marks[BEFORE]
    if not (trained := {name: mark for name, mark in marks.items() if name != BEFORE}):
        return BEFORE, f"too few: {_too_few(before, learned)}; the model stays as it is"

    scores = "; ".join(f"{name} {_words(mark)}" for name, mark in marks.items())
    kept = {
        name: mark
        for name, mark in trained.items()
        if mark.forgotten is None or mark.forgotten.points <= spec.max_forgotten
    }
    if not kept:
        return BEFORE, (
            f"{spec.loss} from {learned} preferences forgets more than `max_forgotten`: "
            f"{spec.max_forgotten:g} points; {scores}; the model stays as it is"
        )
    fit = {name: mark for name, mark in kept.items() if _lost(before, mark) <= spec.max_lost}
    if not fit:
        least = min(_lost(before, mark) for mark in kept.values())
        return BEFORE, (
            f"{spec.loss} from {learned} preferences loses {least:.1f} points of exact match, "
            f"more than `max_lost`: {spec.max_lost:g}; {scores}; the model stays as it is"
        )

    best = max(fit, key=lambda name: (fit[name].followed or 0.0, name == CONTROL))
    gain = change(followed[BEFORE], followed[best])
    if not gain.is_gain:
        return BEFORE, (
            f"too few, or nothing learned: {_gain(gain, best)}; {scores}; the model stays as it is"
        )
    return best, (
        f"{spec.loss} from {learned} preferences: {_gain(gain, best)}; {scores}; "
        f"the {_NAMES[best]} ships"
    )


_NAMES = {ALIGNED: "aligned model", CONTROL: "control, tuned on the wanted answers alone,"}


def _too_few(before: Mark, learned: int) -> str:
    low, high = interval(before.preferences, before.preferences)
    if not before.preferences:
        return f"{learned} preferences to learn from, and none held out"
    return (
        f"{learned} preferences to learn from and {before.preferences} held out, "
        f"of which the model follows {_words(before)}; "
        f"even {before.preferences} of {before.preferences} would say "
        f"no more than {low:.0%} to {high:.0%}, and {least_shown()} new ones are the least "
        "that is more than chance"
    )


def _gain(gain: Change, name: str) -> str:
    return (
        f"{name} follows {100 * gain.mean:+.1f} points of held-out preferences "
        f"(95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    )


def _lost(before: Mark, after: Mark) -> float:
    """Return the percentage points of exact match that were lost."""
    first, last = before.exam.exact_match, after.exam.exact_match
    return 0.0 if first is None or last is None else round(100 * (first - last), 6)


def _words(mark: Mark) -> str:
    if mark.followed is None:
        return "not asked"
    text = (
        f"{mark.followed:.1%} of {mark.preferences} "
        f"(95 % interval {mark.followed_low:.0%} to {mark.followed_high:.0%})"
    )
    if mark.exam.exact_match is not None:
        text += f", exact match {mark.exam.exact_match:.1%} of {mark.exam.questions}"
    return f"{text}, {lost_words(mark.forgotten)}" if mark.forgotten else text
