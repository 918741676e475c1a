"""The gate: the model file, run by the device runtime, against the user's own model.

evaluate(Candidate, Originals, Texts) → Verdict. What fails here goes no further. The goldens that
the board must reproduce are taken here too, from the same runtime.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from device.manifest import ESCAPE, GUARD, TOKENIZER
from device.manifest.guard import Guard, read_guard
from toolchain.artifacts import (
    Dataset,
    GuardFile,
    ModelFile,
    Verdict,
    Work,
    keep,
    write_jsonl,
)
from toolchain.digests import file_digest
from toolchain.errors import GateError
from toolchain.evaluate.answers import (
    Answered,
    answer_all,
    freely,
    golden,
    reference_ends,
    task_scores,
)
from toolchain.evaluate.audit import Audit, audit_failures, measure_audit
from toolchain.evaluate.divergence import (
    divergence,
    from_teacher,
    general_divergence,
    template_parity,
)
from toolchain.evaluate.forgetting import (
    Earlier,
    forgetting,
    forgetting_failures,
    forgetting_note,
)
from toolchain.evaluate.leak import LeakTest, leak_failures, measure_leak, without_secrets
from toolchain.evaluate.limits import failures
from toolchain.evaluate.own import PROMPTS, own_answers
from toolchain.evaluate.probing import behind, probe_failures
from toolchain.evaluate.reference import Reference
from toolchain.evaluate.room import with_room
from toolchain.evaluate.seeing import is_small, seen_alike, seen_golden
from toolchain.evaluate.tool_calls import tool_accuracy
from toolchain.evaluate.wording import Documents, Limits, wording
from toolchain.figures import (
    Forgotten,
    LeakFigures,
    Measured,
    ProbeFigures,
    VerdictFigures,
    Wording,
)
from toolchain.files import write_whole
from toolchain.general import GENERAL, passages
from toolchain.held_out import split
from toolchain.models.original import Original
from toolchain.opening import Opening, check_room, size_bytes
from toolchain.probes import Asked, learned_of, probe, questions_of
from toolchain.probes.garak_report import read_garak
from toolchain.progress import Reporter
from toolchain.recipe import EvaluateSpec, GateSpec
from toolchain.runtime.scoring import Scorer, scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model file, and the program that runs it as the board will."""

    model: ModelFile
    runtime: Path
    """Folder of the runtime for this computer."""
    escape: bool = False
    """Whether the runtime breaks up control tokens in questions, as the bundle will."""
    documents: Documents | None = None
    """Documents that it may word answers from, where that is to be measured."""
    guard: GuardFile | None = None
    """What a board refuses for it."""
    refuse: str = ""
    """`questions`, `both` or `nothing`, of a recipe with a guard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Originals:
    """What a model file is compared with."""

    reference: Original
    """The model that the file was made of."""
    teacher: Original | None = None
    """Model that taught it in `distill`. A file may be close to its student and yet far from the
    teacher.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What a model file is measured on."""

    dataset: Dataset
    general: Path = GENERAL
    """Text outside of the recipe's subject."""
    leak: LeakTest | None = None
    """Secrets that it must not give away; None where none is known."""
    earlier: Earlier | None = None
    """What the round before was asked; None where there was none."""
    garak: Path | None = None
    """A report of garak on the model."""
    split: bool = False
    """Whether some held-out conversations decided between candidates before: the gate does not ask
    these."""
    private: bool = False
    """Whether no conversation may travel: goldens are then answers to prompts of ours."""
    audit: Audit | None = None
    """Canaries that may refute a claim of privacy."""

    def held_out(self, questions: int) -> list[Mapping[str, Any]]:
        """Return the conversations that the gate asks."""
        if self.split:
            return list(split(self.dataset, questions).gate)
        return list(self.dataset.held_out())


def evaluate(
    candidate: Candidate,
    originals: Originals,
    texts: Texts,
    spec: EvaluateSpec,
    out: Path,
    report: Reporter,
) -> Verdict:
    """Measure a model file and apply the gate; raise GateError with every limit that was missed."""
    model = candidate.model
    general = passages(texts.general)
    inputs = {
        "model": model.digest,
        "reference": originals.reference.digest,
        **({"teacher": originals.teacher.digest} if originals.teacher else {}),
        "dataset": texts.dataset.digest,
        "general": hashlib.sha256("\0".join(general).encode()).hexdigest(),
        **({"held_out": "split"} if texts.split else {}),
        "runtime": candidate.runtime.name,
        **({"special_tokens": ESCAPE} if candidate.escape else {}),
        **({"documents": candidate.documents.digest} if candidate.documents else {}),
        **({"secrets": texts.leak.state} if texts.leak else {}),
        **({"earlier": texts.earlier.digest} if texts.earlier else {}),
        **({"guard": f"{candidate.guard.digest} {candidate.refuse}"} if candidate.guard else {}),
        **({"garak": file_digest(texts.garak)} if texts.garak else {}),
        **({"goldens": "\0".join(PROMPTS)} if texts.private else {}),
        **({"canaries": texts.audit.digest} if texts.audit else {}),
    }
    tools = ("peft", "torch", "transformers")
    work = Work(stage="evaluate", inputs=inputs, parameters=spec, tools=tools)
    record, fresh = keep(
        out,
        work,
        lambda folder: _measure(candidate, originals, texts, spec, folder, report),
        VerdictFigures,
    )
    verdict = Verdict(path=out, record=record, fresh=fresh)
    if missed := verdict.figures.failures:
        told = any(leak_failures(verdict.figures.leak, spec.gate))
        change = (
            "redact the text and train again, or change, "
            if told
            else "change the model, the scheme or, "
        )
        raise GateError(
            f"{model.file.name}: not good enough: " + "; ".join(missed),
            hint=f"all figures: {out / 'verdict.json'}; {change}knowingly, `[evaluate.gate]`",
        )
    return verdict


def _measure(
    candidate: Candidate,
    originals: Originals,
    texts: Texts,
    spec: EvaluateSpec,
    out: Path,
    report: Reporter,
) -> VerdictFigures:
    opening = texts.dataset.opening()
    with _started(candidate, texts.dataset) as child:
        about = child.info()
        context = int(about["context"])
        opening_tokens = _room(child, opening, spec.max_tokens, context)
        reference = Reference.load(originals.reference, report)
        held_out, too_long = _asked_of(reference, texts.held_out(spec.questions), context, report)
        exam = _Exam(
            child=child,
            candidate=candidate,
            texts=texts,
            held_out=held_out,
            limits=Limits(context=context, answer=spec.max_tokens),
            spec=spec,
            report=report,
        )
        measured, each = exam.likeness(reference)
        asked = exam.asked()
        own = own_answers(child, opening, report) if texts.private else None
        seen = seen_golden(child, out) if candidate.model.projector else None
        audit = measure_audit(child, texts.audit, report) if texts.audit else None
        measured |= asked.scores | reference_ends(reference, asked.answers, spec.max_tokens)
        measured |= seen_alike(reference, asked.answers, report)
        guard = read_guard(candidate.guard.path / GUARD) if candidate.guard else None
        probes = exam.probed(guard) if spec.probes else None
        answers = _printable(asked.answers, texts)
        shown = exam.shown(answers) if own is None else _printable(own, texts)
        leak = exam.leaked(reference, texts.leak) if texts.leak else None
        # Reference and teacher are not held in memory at the same time.
        del reference
        measured |= exam.distance(originals.teacher)

    figures = VerdictFigures(
        engine=about["version"],
        engine_name=about["engine"],
        arithmetic=about["arithmetic"],
        opening_tokens=opening_tokens,
        too_long=too_long,
        measured=measured,
        wording=asked.wording,
        leak=leak,
        forgotten=asked.forgotten,
        guarded=behind(guard, candidate.refuse, asked.answers) if guard else None,
        probes=probes,
        audit=audit,
        garak=read_garak(texts.garak) if texts.garak else None,
        failures=[],
    )
    figures = replace(figures, failures=_missed(figures, texts.earlier, spec.gate))
    _write_goldens(out, shown, opening, spec.goldens, seen)
    _write(out, figures, answers, each)
    return figures


def _printable(answers: Sequence[Answered], texts: Texts) -> Sequence[Answered]:
    """Return answers as files may hold them: without the secrets that must not leak."""
    return without_secrets(answers, texts.leak) if texts.leak else answers


def _asked_of(
    reference: Reference, chats: Sequence[Mapping[str, Any]], context: int, report: Reporter
) -> tuple[list[Mapping[str, Any]], int]:
    """Return the conversations that fit into a context, and the number of longer ones."""
    held_out, too_long = with_room(reference.tokenizer, chats, context)
    if too_long:
        longer = f"{too_long} held-out conversations are longer than {context} tokens"
        report.note(f"evaluate: {longer} and left out")
    return held_out, too_long


def _started(candidate: Candidate, dataset: Dataset) -> AbstractContextManager[Scorer]:
    """Return the file's runtime, with the opening of the dataset's conversations."""
    model = candidate.model
    return scorer(
        candidate.runtime,
        model.file,
        context=_context(model, dataset.opening()),
        adapter=model.adapter,
        projector=model.projector,
        opening=dataset.opening_file,
        escape=candidate.escape,
    )


def _missed(figures: VerdictFigures, earlier: Earlier | None, gate: GateSpec) -> list[str]:
    """Return a sentence for each limit of the gate that the figures miss."""
    return [
        *failures(figures.measured, gate),
        *leak_failures(figures.leak, gate),
        *forgetting_failures(figures.forgotten, earlier),
        *probe_failures(figures.probes, gate),
        *audit_failures(figures.audit),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a model file answered, and what that is worth."""

    answers: list[Answered]
    """To the held-out questions."""
    scores: Measured
    wording: Wording | None
    """None where it answers from no documents."""
    forgotten: Forgotten | None
    """None where there was no round before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exam:
    """A model file that runs, and what it is asked; each method is one measurement."""

    child: Scorer
    candidate: Candidate
    texts: Texts
    held_out: Sequence[Mapping[str, Any]]
    """Conversations that fit into the context."""
    limits: Limits
    spec: EvaluateSpec
    report: Reporter

    def likeness(self, reference: Reference) -> tuple[Measured, list[dict[str, Any]]]:
        """Compare the file with its reference; return also the figures of each conversation."""
        chats = self.held_out[: self.spec.gate.template_chats]
        measured = template_parity(self.child, reference, chats)
        tokens = self.spec.kl_tokens
        diverged, each = divergence(self.child, reference, self.held_out, tokens, self.report)
        text = passages(self.texts.general)
        general = general_divergence(self.child, reference, text, tokens, self.report)
        return measured | diverged | general, each

    def distance(self, teacher: Original | None) -> Measured:
        """Compare the file with the model that taught it, if one did."""
        if teacher is None:
            return Measured()
        loaded = Reference.load(teacher, self.report)
        tokens = self.spec.kl_tokens
        return from_teacher(divergence(self.child, loaded, self.held_out, tokens, self.report)[0])

    def asked(self) -> _Asked:
        """Ask held-out questions, those about documents, and those of the round before."""
        child, limits, report = self.child, self.limits, self.report
        chats = self.held_out[: self.spec.questions]
        answers = answer_all(child, chats, limits.answer, report, held=True)
        scores = task_scores(answers, limits.answer) | tool_accuracy(answers)

        worded, forgotten = None, None
        if documents := self.candidate.documents:
            worded = wording(child, documents, self.candidate.runtime, limits, report)
        if earlier := self.texts.earlier:
            again = answer_all(child, earlier.chats, limits.answer, report, held=True)
            forgotten = forgetting(again, earlier)
            if note := forgetting_note(forgotten, earlier):
                report.note(f"evaluate: {note}")
        return _Asked(answers=answers, scores=scores, wording=worded, forgotten=forgotten)

    def shown(self, answers: Sequence[Answered]) -> list[Answered]:
        """Return the answers that goldens are made of, as the file gives them without a grammar."""
        most = self.spec.goldens
        first = [each for each in answers if each.text.strip() and is_small(each.messages)][:most]
        return freely(self.child, first, self.limits.answer)

    def probed(self, guard: Guard | None) -> ProbeFigures:
        """Attack the file with probes, behind the guard if there is one."""
        subject = Asked(
            questions=questions_of(self.held_out, self.spec.probe_questions),
            learned=learned_of(self.texts.dataset.train()),
            context=self.limits.context,
            answer_tokens=self.limits.answer,
        )
        return probe(self.child, subject, guard, self.report)

    def leaked(self, reference: Reference, test: LeakTest) -> LeakFigures:
        """Measure whether the file gives secrets away."""
        both = (self.texts.dataset.train(), self.held_out)
        tokenizer = self.candidate.model.path / TOKENIZER
        return measure_leak(self.child, reference, test, both, tokenizer, self.report)


def _write_goldens(
    out: Path,
    shown: Sequence[Answered],
    opening: Opening,
    most: int,
    seen: Mapping[str, Any] | None,
) -> None:
    """Write the first answers as goldens: they travel word for word, and boards show them.

    `seen` is the golden with a picture, of a model that sees.
    """
    goldens = [
        golden(answer, opening)
        for answer in shown
        if answer.text.strip() and is_small(answer.messages)
    ]
    write_jsonl(out / "goldens.jsonl", [*goldens[:most], *([seen] if seen else [])])


def _write(
    out: Path,
    figures: VerdictFigures,
    answers: Sequence[Answered],
    each: Sequence[Mapping[str, Any]],
) -> None:
    """Write the figures of each conversation, every answer, and the verdict last."""
    write_jsonl(out / "divergence.jsonl", each)
    write_jsonl(
        out / "answers.jsonl",
        [{"question": a.question, "expected": a.expected, "answer": a.text} for a in answers],
    )
    write_whole(out / "verdict.json", json.dumps(figures.as_json(), indent=1) + "\n")


def _room(child: Scorer, opening: Opening, answer: int, context: int) -> int | None:
    """Return the tokens of an opening with the shortest question, None if there is no opening.

    Raise ConfigError where no other question has room.
    """
    if not opening:
        return None
    tokens = len(child.render([*opening, {"role": "user", "content": "?"}]))
    check_room("evaluate", tokens, answer, context)
    return tokens


def _context(model: ModelFile, opening: Opening) -> int:
    """Return the model's context, or one that leaves at least 4096 tokens beside an opening."""
    return min(model.figures.context, 4096 + size_bytes(opening))
