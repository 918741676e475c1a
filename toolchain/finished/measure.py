"""measure(ModelFile) → Verdict of a finished model: goldens, and all else that can be measured.

Goldens are its own answers. Without the weights that a file was made from, nothing says how far it
is from them; without questions and answers, nothing says how good it is. The verdict says both
plainly. With a reference, or with data, the figures and the limits are those of the gate.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device.manifest.guard import GUARD, read_guard
from toolchain.artifacts import (
    Checkpoint,
    Dataset,
    GuardFile,
    ModelFile,
    Verdict,
    Work,
    digest,
    keep,
    write_jsonl,
)
from toolchain.errors import ArtifactError, GateError
from toolchain.evaluate.answers import Answered, answer_all, golden, reference_ends, task_scores
from toolchain.evaluate.divergence import divergence, general_divergence, template_parity
from toolchain.evaluate.limits import failures
from toolchain.evaluate.own import PROMPTS, asked, own_answers
from toolchain.evaluate.probing import behind
from toolchain.evaluate.reference import Reference
from toolchain.figures import Measured, VerdictFigures
from toolchain.files import write_whole
from toolchain.general import GENERAL, passages
from toolchain.models.original import Original
from toolchain.opening import Opening
from toolchain.progress import Reporter
from toolchain.recipe import EvaluateSpec
from toolchain.runtime.scoring import Scorer, scorer

NO_REFERENCE = (
    "how far this file is from the weights it was made of (KL divergence, agreement), "
    "and whether its template and tokenizer are theirs: --reference FOLDER measures it"
)
NO_DATA = (
    "how well it answers your questions (exact match, F1, answers that end): "
    "--data FILE measures it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """What a finished model is measured against; every part may be missing."""

    opening: Opening = ()
    """Messages that every conversation begins with."""
    dataset: Dataset | None = None
    """Questions with their answers; all of them are held out."""
    reference: Checkpoint | None = None
    """Model that the file was made from."""
    guard: GuardFile | None = None
    """Filter that the bundle gets."""
    refuse: str = ""
    """What the bundle refuses with it."""

    def questions(self) -> list[dict[str, Any]]:
        """Return the conversations of the data."""
        return self.dataset.held_out() if self.dataset else []

    @property
    def not_measured(self) -> list[str]:
        """Return what the verdict cannot say, a sentence each."""
        return [
            *([] if self.reference else [NO_REFERENCE]),
            *([] if self.dataset else [NO_DATA]),
        ]


def measure(
    model: ModelFile,
    against: Against,
    spec: EvaluateSpec,
    runtime: Path,
    out: Path,
    report: Reporter,
) -> Verdict:
    """Write the goldens of a finished model and measure what can be measured.

    Raises GateError with every limit that was missed.
    """
    inputs = {"model": model.digest, "runtime": runtime.name}
    inputs |= {
        name: artifact.digest
        for name, artifact in (
            ("dataset", against.dataset),
            ("reference", against.reference),
            ("guard", against.guard),
        )
        if artifact
    }
    inputs |= {"refuse": against.refuse} if against.guard else {}
    opening = json.dumps([dict(message) for message in against.opening])
    work = Work(
        stage="evaluate",
        inputs={
            **inputs,
            "opening": opening,
            "prompts": "\0".join(PROMPTS),
            **({"general": digest(GENERAL)} if against.reference else {}),
        },
        parameters=spec,
        tools=("torch", "transformers") if against.reference else (),
    )
    record, fresh = keep(
        out,
        work,
        lambda folder: _measure(model, against, spec, runtime, folder, report),
        VerdictFigures,
    )
    verdict = Verdict(path=out, record=record, fresh=fresh)
    if missed := verdict.figures.failures:
        raise GateError(
            f"{model.file.name}: not good enough: " + "; ".join(missed),
            hint=f"all figures: {out / 'verdict.json'}",
        )

    for sentence in against.not_measured:
        report.note(f"not measured: {sentence}")

    return verdict


def _measure(
    model: ModelFile,
    against: Against,
    spec: EvaluateSpec,
    runtime: Path,
    out: Path,
    report: Reporter,
) -> VerdictFigures:
    opening = against.opening
    if opening:
        write_jsonl(out / "opening.jsonl", opening)

    with scorer(
        runtime,
        model.file,
        context=min(model.figures.context, 4096),
        adapter=model.adapter,
        opening=out / "opening.jsonl" if opening else None,
        stop_ids=model.figures.stop_ids,
    ) as child:
        about = child.info()
        opening_tokens = len(child.render(asked(opening, "?")[:-1])) if opening else None
        _refuse_nan(child, opening, model.file.name)
        own = own_answers(child, opening, report)
        answers = answer_all(child, against.questions()[: spec.questions], spec.max_tokens, report)
        found = task_scores(answers, spec.max_tokens) if answers else Measured()
        if against.reference:
            chats = against.questions() or [dict(_as_chat(answer)) for answer in own]
            reference = Reference.load(Original(base=against.reference.path), report)
            found |= _against_reference(child, reference, chats, spec, report)
            if answers:
                found |= reference_ends(reference, answers, spec.max_tokens)

    guard = read_guard(against.guard.path / GUARD) if against.guard else None
    figures = VerdictFigures(
        engine=about["version"],
        engine_name=about["engine"],
        arithmetic=about["arithmetic"],
        opening_tokens=opening_tokens,
        own_prompts=len(PROMPTS),
        own_ended=sum(answer.stopped for answer in own),
        measured=found,
        not_measured=against.not_measured,
        guarded=behind(guard, against.refuse, answers) if guard and answers else None,
        failures=[*_silence(own), *failures(found, spec.gate)],
    )
    _write(out, [*own, *answers], opening, spec)
    write_whole(out / "verdict.json", json.dumps(figures.as_json(), indent=1) + "\n")
    return figures


def _as_chat(answer: Answered) -> dict[str, Any]:
    """Return a model's own answer as a conversation that two models can be compared on."""
    return {"messages": list(answer.messages), "opening": len(answer.messages) - 2}


def _refuse_nan(child: Scorer, opening: Opening, name: str) -> None:
    """Raise ArtifactError if scores are NaN: such a file answers, but with anything."""
    import numpy as np

    tokens = child.render(asked(opening, PROMPTS[0])[:-1])
    if not np.isfinite(child.logits(tokens[:4])).all():
        raise ArtifactError(
            f"{name}: computes NaN: its weights are damaged, or overflow in their type",
            hint="convert or download it again",
        )


def _against_reference(
    child: Scorer,
    reference: Reference,
    chats: Sequence[Mapping[str, Any]],
    spec: EvaluateSpec,
    report: Reporter,
) -> Measured:
    """Return the distance of the file from the model that it was made from, as the gate does."""
    found = template_parity(child, reference, chats[: spec.gate.template_chats])
    found |= divergence(child, reference, chats, spec.kl_tokens, report)[0]
    text = passages(GENERAL)
    return found | general_divergence(child, reference, text, spec.kl_tokens, report)


def _silence(own: Sequence[Answered]) -> Iterator[str]:
    if not any(answer.text.strip() for answer in own):
        yield f"it answers nothing to {len(own)} of {len(own)} prompts"


def _write(out: Path, answers: Sequence[Answered], opening: Opening, spec: EvaluateSpec) -> None:
    """Write the goldens, ours first, and all answers."""
    kept = [answer for answer in answers if answer.text.strip()]
    own, others = kept[: len(PROMPTS)], kept[len(PROMPTS) :]
    chosen = [*own, *others[: max(0, spec.goldens - len(own))]]
    write_jsonl(out / "goldens.jsonl", [golden(answer, opening) for answer in chosen])
    write_jsonl(
        out / "answers.jsonl",
        [{"question": answer.question, "answer": answer.text} for answer in answers],
    )
