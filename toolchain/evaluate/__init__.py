"""The gate: the model file, run by the device runtime, against the user's own model.

evaluate(Candidate, Originals, Texts) → Verdict. What fails here goes no further. The goldens that
the board must reproduce are taken here too, from the same runtime.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device.manifest import ESCAPE, GUARD, TOKENIZER
from device.manifest.guard import read_guard
from toolchain.artifacts import (
    Dataset,
    GuardFile,
    ModelFile,
    Verdict,
    Work,
    file_digest,
    keep,
    write_jsonl,
)
from toolchain.errors import GateError
from toolchain.evaluate.answers import Answered, answer_all, golden, reference_ends, task_scores
from toolchain.evaluate.audit import Audit, audit_failures, measure_audit
from toolchain.evaluate.divergence import (
    divergence,
    from_teacher,
    general_divergence,
    template_parity,
)
from toolchain.evaluate.forgetting import Earlier, forgetting, forgetting_failures
from toolchain.evaluate.leak import LeakTest, leak_failures, measure_leak, without_secrets
from toolchain.evaluate.limits import failures
from toolchain.evaluate.own import PROMPTS, own_answers
from toolchain.evaluate.probing import behind, probe_failures
from toolchain.evaluate.reference import Reference
from toolchain.evaluate.room import with_room
from toolchain.evaluate.tool_calls import tool_accuracy
from toolchain.evaluate.wording import Documents, Limits, wording
from toolchain.figures import Forgotten, Measured, VerdictFigures, Wording
from toolchain.files import write_whole
from toolchain.general import GENERAL, passages
from toolchain.held_out import split
from toolchain.models.original import Original
from toolchain.opening import Opening, check_room, size_bytes
from toolchain.probes import Asked, learned_of, probe, questions_of
from toolchain.probes.garak_report import read_garak
from toolchain.progress import Reporter
from toolchain.recipe import EvaluateSpec
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
    model = candidate.model
    held_out = texts.held_out(spec.questions)
    opening = texts.dataset.opening()
    with scorer(
        candidate.runtime,
        model.file,
        context=_context(model, opening),
        adapter=model.adapter,
        opening=texts.dataset.opening_file,
        escape=candidate.escape,
    ) as child:
        about = child.info()
        context = int(about["context"])
        opening_tokens = _room(child, opening, spec.max_tokens, context)
        reference = Reference.load(originals.reference, report)
        held_out, too_long = with_room(reference.tokenizer, held_out, context)
        if too_long:
            longer = f"{too_long} held-out conversations are longer than {context} tokens"
            report.note(f"evaluate: {longer} and left out")

        measured = template_parity(child, reference, held_out[: spec.gate.template_chats])
        diverged, each = divergence(child, reference, held_out, spec.kl_tokens, report)
        text = passages(texts.general)
        measured |= diverged | general_divergence(child, reference, text, spec.kl_tokens, report)

        limits = Limits(context=context, answer=spec.max_tokens)
        asked = _asked(child, candidate, texts.earlier, held_out[: spec.questions], limits, report)
        answers = asked.answers
        own = own_answers(child, opening, report) if texts.private else None
        audit = measure_audit(child, texts.audit, report) if texts.audit else None
        measured |= asked.scores | reference_ends(reference, answers, spec.max_tokens)
        guard = read_guard(candidate.guard.path / GUARD) if candidate.guard else None
        probes = None
        if spec.probes:
            subject = Asked(
                questions=questions_of(held_out, spec.probe_questions),
                learned=learned_of(texts.dataset.train()),
                context=context,
                answer_tokens=spec.max_tokens,
            )
            probes = probe(child, subject, guard, report)
        leak = None
        if texts.leak:
            both = (texts.dataset.train(), held_out)
            leak = measure_leak(child, reference, texts.leak, both, model.path / TOKENIZER, report)
        # Reference and teacher are not held in memory at the same time.
        del reference
        if originals.teacher:
            teacher = Reference.load(originals.teacher, report)
            distance, _ = divergence(child, teacher, held_out, spec.kl_tokens, report)
            measured |= from_teacher(distance)
            del teacher

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
        guarded=behind(guard, candidate.refuse, answers) if guard else None,
        probes=probes,
        audit=audit,
        garak=read_garak(texts.garak) if texts.garak else None,
        failures=[
            *failures(measured, spec.gate),
            *leak_failures(leak, spec.gate),
            *forgetting_failures(asked.forgotten, texts.earlier),
            *probe_failures(probes, spec.gate),
            *audit_failures(audit),
        ],
    )
    if texts.leak:
        answers = without_secrets(answers, texts.leak)
        own = own and without_secrets(own, texts.leak)
    write_jsonl(out / "divergence.jsonl", each)
    # Goldens travel word for word, and boards show them.
    shown = answers if own is None else own
    goldens = [golden(answer, opening) for answer in shown if answer.text.strip()]
    write_jsonl(out / "goldens.jsonl", goldens[: spec.goldens])
    _write(out, figures, answers)
    return figures


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


def _asked(
    child: Scorer,
    candidate: Candidate,
    earlier: Earlier | None,
    chats: Sequence[Mapping[str, Any]],
    limits: Limits,
    report: Reporter,
) -> _Asked:
    """Ask held-out questions, those about documents, and those of the round before."""
    answers = answer_all(child, chats, limits.answer, report)
    scores = task_scores(answers, limits.answer)
    scores |= tool_accuracy(child, chats, limits.answer, report)
    documents, worded, forgotten = candidate.documents, None, None
    if documents:
        worded = wording(child, documents, candidate.runtime, limits, report)
    if earlier:
        again = answer_all(child, earlier.chats, limits.answer, report)
        forgotten = forgetting(again, earlier)
    return _Asked(answers=answers, scores=scores, wording=worded, forgotten=forgotten)


def _write(out: Path, figures: VerdictFigures, answers: Sequence[Answered]) -> None:
    """Write every answer, and the verdict last."""
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
