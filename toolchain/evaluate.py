"""The gate: the model file, run by the device runtime itself, against its teacher on held-out data.

evaluate(ModelFile, teacher, Dataset) → Verdict. What fails here goes no further. The goldens that the board must
reproduce are taken here too, from the same runtime.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.manifest.opening import bare
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
from toolchain.chat import encode
from toolchain.errors import GateError
from toolchain.opening import Opening, check_room, size_bytes
from toolchain.progress import Reporter
from toolchain.recipe import EvaluateSpec, GateSpec
from toolchain.runtime.scoring import Scorer, scorer
from toolchain.training.answers import exact_match, token_f1

if TYPE_CHECKING:
    import numpy as np

Conversation = Mapping[str, Any]


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
        reference = _Reference.load(teacher)
        figures |= _template_parity(child, reference, held_out[: spec.gate.template_chats])
        diverged, each = _divergence(child, reference, held_out, spec.kl_tokens, report)
        answers = _answers(child, held_out[: spec.questions], spec.max_tokens, report)
    figures |= diverged | _task_scores(answers)
    write_jsonl(out / "divergence.jsonl", each)
    figures["failures"] = failures(figures, spec.gate)
    write_jsonl(
        out / "goldens.jsonl",
        [_golden(answer, opening) for answer in answers if answer.text.strip()][: spec.goldens],
    )
    write_jsonl(
        out / "answers.jsonl",
        [{"question": a.question, "expected": a.expected, "answer": a.text} for a in answers],
    )
    write_whole(out / "verdict.json", json.dumps(figures, indent=1) + "\n")
    return figures


def failures(figures: Figures, gate: GateSpec) -> list[str]:
    """Return one sentence for each limit of the gate that was missed."""
    limits = [
        ("mean_kl", "<=", gate.max_kl),
        ("agreement", ">=", gate.min_agreement),
        ("exact_match", ">=", gate.min_exact_match),
        ("f1", ">=", gate.min_f1),
        ("eos_rate", ">=", gate.min_eos_rate),
        ("template_mismatches", "<=", 0),
    ]
    missed = [
        (name, sign, limit)
        for name, sign, limit in limits
        if not _holds(figures[name], sign, limit)
    ]
    return [
        f"{name} is {figures[name]:.4g}, the gate asks {sign} {limit:g}"
        for name, sign, limit in missed
    ]


def _holds(value: float, sign: str, limit: float) -> bool:
    return value <= limit if sign == "<=" else value >= limit


@dataclass(frozen=True, slots=True)
class _Reference:
    """The teacher through transformers: the reference that the model file is compared with."""

    tokenizer: Any
    model: Any

    @classmethod
    def load(cls, teacher: Checkpoint) -> "_Reference":
        """Load a checkpoint, its adapter merged in memory."""
        from toolchain.lora import read_lora
        from toolchain.training.adapters import add_to, dressed
        from toolchain.training.checkpoints import load_model, load_tokenizer

        with dressed(teacher) as folder:
            tokenizer, model = load_tokenizer(folder), load_model(folder).eval()
        if teacher.adapter:
            add_to(model, read_lora(teacher.adapter))
        return cls(tokenizer, model)

    def log_probabilities(self, ids: Sequence[int]) -> "np.ndarray":
        """Return float64 [len(ids), vocabulary]."""
        import torch

        with torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([list(ids)])).logits[0]
        return logits.double().log_softmax(-1).numpy()


def _room(child: Scorer, opening: Opening, answer: int, context: int) -> Figures:
    """Return the tokens of an opening with the shortest question; raise ConfigError where no other has room."""
    if not opening:
        return {}
    tokens = len(child.render([*opening, {"role": "user", "content": "?"}]))
    check_room("evaluate", tokens, answer, context)
    return {"opening_tokens": tokens}


def _template_parity(
    child: Scorer, reference: _Reference, chats: Sequence[Conversation]
) -> Figures:
    mismatches = 0
    for chat in chats:
        prompt = chat["messages"][:-1]
        expected = reference.tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        mismatches += list(expected) != child.render(prompt)
    return {"template_chats": len(chats), "template_mismatches": mismatches}


def _divergence(
    child: Scorer,
    reference: _Reference,
    chats: Sequence[Conversation],
    limit: int,
    report: Reporter,
) -> tuple[Figures, list[Figures]]:
    """Return mean KL(teacher ‖ file) in nats and top-1 agreement over the answers' positions (Kullback and Leibler 1951).

    Behind it the sums of each conversation; the standard error of the mean is that of drawing the conversations anew.
    """
    import numpy as np

    kl: list[np.ndarray] = []
    agree: list[np.ndarray] = []
    count, context = 0, int(child.info()["context"])
    for chat in chats:
        ids, labels = encode(reference.tokenizer, chat["messages"], context, chat.get("opening", 0))
        rows = np.array([i for i in range(len(ids) - 1) if labels[i + 1] != -100])
        theirs, ours = reference.log_probabilities(ids)[rows], _log_softmax(child.logits(ids)[rows])
        width = min(theirs.shape[1], ours.shape[1])
        theirs, ours = theirs[:, :width], ours[:, :width]
        kl.append((np.exp(theirs) * (theirs - ours)).sum(-1))
        agree.append(theirs.argmax(-1) == ours.argmax(-1))
        count += len(rows)
        report.step("compare with the teacher", min(count, limit), limit, "tokens")
        if count >= limit:
            break
    report.step("compare with the teacher", limit, limit, "tokens")
    total = np.concatenate(kl)
    mean = float(total.mean())
    error = float(np.sqrt(sum((part.sum() - mean * len(part)) ** 2 for part in kl)) / len(total))
    each = [
        {"question": chat["messages"][-2]["content"], "tokens": len(part), "kl": float(part.sum())}
        for chat, part in zip(chats, kl, strict=False)
    ]
    return {
        "kl_tokens": len(total),
        "mean_kl": mean,
        "kl_error": error,
        "p99_kl": float(np.quantile(total, 0.99)),
        "agreement": float(np.concatenate(agree).mean()),
    }, each


def _log_softmax(logits: "np.ndarray") -> "np.ndarray":
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@dataclass(frozen=True, slots=True)
class _Answered:
    messages: Sequence[Mapping[str, str]]
    prompt: list[int]
    tokens: list[int]
    text: str
    stopped: bool

    @property
    def question(self) -> str:
        return self.messages[-2]["content"]

    @property
    def expected(self) -> str:
        return self.messages[-1]["content"]


def _answers(
    child: Scorer, chats: Sequence[Conversation], max_tokens: int, report: Reporter
) -> list[_Answered]:
    answered = []
    for number, chat in enumerate(chats, 1):
        answer = child.answer(chat["messages"][:-1], max_tokens)
        answered.append(
            _Answered(chat["messages"], answer.prompt, answer.tokens, answer.text, answer.stopped)
        )
        report.step("answer held-out questions", number, len(chats), "answers")
    return answered


def _task_scores(answers: Sequence[_Answered]) -> Figures:
    count = max(1, len(answers))
    return {
        "questions": len(answers),
        "exact_match": sum(exact_match(a.text, a.expected) for a in answers) / count,
        "f1": sum(token_f1(a.text, a.expected) for a in answers) / count,
        "eos_rate": sum(a.stopped for a in answers) / count,
    }


def _golden(answer: _Answered, opening: Opening) -> Figures:
    """Return what a client sends, and what must come of it: the board itself puts the opening before it."""
    end = {"finish_reason": "stop"} if answer.stopped else {}
    return {
        "messages": list(bare(answer.messages[:-1], opening)),
        "prompt_tokens": answer.prompt,
        "tokens": answer.tokens,
        **end,
    }


def _context(model: ModelFile, opening: Opening) -> int:
    """Return the model's context, or one that leaves at least 4096 tokens beside an opening."""
    return min(int(model.figures["context"]), 4096 + size_bytes(opening))
