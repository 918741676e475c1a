"""The gate: the model file, run by the device runtime itself, against its teacher on held-out data.

evaluate(ModelFile, teacher, Dataset) → Verdict. What fails here goes no further. The goldens that the board must
reproduce are taken here too, from the same runtime.
"""

from pathlib import Path

from toolchain.artifacts import (
    Checkpoint,
    Dataset,
    Figures,
    ModelFile,
    Verdict,
    Work,
    keep,
    write_jsonl,
    write_whole,
)
from toolchain.errors import GateError
from toolchain.evaluate.answers import answer_all, golden, task_scores
from toolchain.evaluate.divergence import divergence, template_parity
from toolchain.evaluate.limits import failures
from toolchain.evaluate.reference import Reference
from toolchain.evaluate.room import with_room
from toolchain.opening import Opening, check_room, size_bytes
from toolchain.progress import Reporter
from toolchain.recipe import EvaluateSpec
from toolchain.runtime.scoring import Scorer, scorer


def evaluate(
    model: ModelFile,
    teacher: Checkpoint,
    dataset: Dataset,
    spec: EvaluateSpec,
    runtime: Path,
    out: Path,
    report: Reporter,
) -> Verdict:
    """Measure a model file and apply the gate; raise GateError with every limit that was missed."""
    inputs = {
        "model": model.digest,
        "teacher": teacher.digest,
        "dataset": dataset.digest,
        "runtime": runtime.name,
    }
    work = Work(stage="evaluate", inputs=inputs, parameters=spec, tools=("torch", "transformers"))
    record, fresh = keep(
        out, work, lambda folder: _measure(model, teacher, dataset, spec, runtime, folder, report)
    )
    verdict = Verdict(path=out, record=record, fresh=fresh)
    if verdict.figures["failures"]:
        hint = f"all figures: {out / 'verdict.json'}; change the model, the scheme or, knowingly, `[evaluate.gate]`"
        raise GateError(
            f"{model.file.name}: not good enough: " + "; ".join(verdict.figures["failures"]),
            hint=hint,
        )
    return verdict


def _measure(
    model: ModelFile,
    teacher: Checkpoint,
    dataset: Dataset,
    spec: EvaluateSpec,
    runtime: Path,
    out: Path,
    report: Reporter,
) -> Figures:
    import json

    held_out = dataset.held_out()
    opening = dataset.opening()
    with scorer(
        runtime,
        model.file,
        context=_context(model, opening),
        adapter=model.adapter,
        opening=dataset.opening_file,
    ) as child:
        about = child.info()
        figures: Figures = {
            "engine": about["version"],
            "engine_name": about["engine"],
            "arithmetic": about["arithmetic"],
        }
        figures |= _room(child, opening, spec.max_tokens, int(about["context"]))
        reference = Reference.load(teacher)
        held_out, figures["too_long"] = with_room(
            reference.tokenizer, held_out, int(about["context"])
        )
        if figures["too_long"]:
            report.note(
                f"evaluate: {figures['too_long']} held-out conversations are longer than {about['context']} tokens and left out"
            )
        figures |= template_parity(child, reference, held_out[: spec.gate.template_chats])
        diverged, each = divergence(child, reference, held_out, spec.kl_tokens, report)
        answers = answer_all(child, held_out[: spec.questions], spec.max_tokens, report)
    figures |= diverged | task_scores(answers)
    write_jsonl(out / "divergence.jsonl", each)
    figures["failures"] = failures(figures, spec.gate)
    write_jsonl(
        out / "goldens.jsonl",
        [golden(answer, opening) for answer in answers if answer.text.strip()][: spec.goldens],
    )
    write_jsonl(
        out / "answers.jsonl",
        [{"question": a.question, "expected": a.expected, "answer": a.text} for a in answers],
    )
    write_whole(out / "verdict.json", json.dumps(figures, indent=1) + "\n")
    return figures


def _room(child: Scorer, opening: Opening, answer: int, context: int) -> Figures:
    """Return the tokens of an opening with the shortest question; raise ConfigError where no other has room."""
    if not opening:
        return {}
    tokens = len(child.render([*opening, {"role": "user", "content": "?"}]))
    check_room("evaluate", tokens, answer, context)
    return {"opening_tokens": tokens}


def _context(model: ModelFile, opening: Opening) -> int:
    """Return the model's context, or one that leaves at least 4096 tokens beside an opening."""
    return min(int(model.figures["context"]), 4096 + size_bytes(opening))
