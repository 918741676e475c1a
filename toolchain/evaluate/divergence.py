"""How far a model file's predictions are from its reference's: template parity, KL divergence, top-1 agreement."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Figures
from toolchain.chat import encode, fixed_clock
from toolchain.evaluate.reference import Reference
from toolchain.progress import Reporter
from toolchain.runtime.scoring import Scorer

if TYPE_CHECKING:
    import numpy as np

Conversation = Mapping[str, Any]


def template_parity(child: Scorer, reference: Reference, chats: Sequence[Conversation]) -> Figures:
    """Return how many conversations the model file renders otherwise than the user's own tokenizer and template."""
    mismatches = 0
    for chat in chats:
        prompt = chat["messages"][:-1]
        with fixed_clock():
            same = reference.is_prompt(child.render(prompt), prompt)
        mismatches += not same
    return {"template_chats": len(chats), "template_mismatches": mismatches}


def divergence(
    child: Scorer,
    reference: Reference,
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


def from_teacher(figures: Figures) -> Figures:
    """Return a divergence under the names that it has where the reference is the teacher of a distillation."""
    return {
        "teacher_kl": figures["mean_kl"],
        "teacher_kl_error": figures["kl_error"],
        "teacher_agreement": figures["agreement"],
    }


def _log_softmax(logits: "np.ndarray") -> "np.ndarray":
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
