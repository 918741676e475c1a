"""Distance of a model file from its reference: template parity, KL divergence, top-1 agreement.

Measured twice: on held-out answers, which are what the model was trained for, and on general text,
which shows what was lost outside of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolchain.chat import encode_row, fixed_clock
from toolchain.evaluate.reference import Reference
from toolchain.figures import Measured
from toolchain.general import pieces
from toolchain.means import mean_and_error
from toolchain.progress import Reporter
from toolchain.runtime.scoring import Scorer
from toolchain.tool_use import said

if TYPE_CHECKING:
    import numpy as np

Conversation = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Compared:
    """Two models on one text."""

    kl: "np.ndarray"
    """KL(reference ‖ file) in nats at each position."""
    agree: "np.ndarray"
    """Whether both name the same next token there."""


def template_parity(child: Scorer, reference: Reference, chats: Sequence[Conversation]) -> Measured:
    """Return how many prompts differ from those of the user's own tokenizer and template."""
    mismatches = 0
    for chat in chats:
        prompt, tools = chat["messages"][:-1], chat.get("tools", ())
        with fixed_clock():
            same = reference.is_prompt(child.render(prompt, tools), prompt, tools)
        mismatches += not same
    return Measured(template_chats=len(chats), template_mismatches=mismatches)


def divergence(
    child: Scorer,
    reference: Reference,
    chats: Sequence[Conversation],
    limit: int,
    report: Reporter,
) -> tuple[Measured, list[dict[str, Any]]]:
    """Return mean KL(reference ‖ file) in nats and top-1 agreement over the answers' positions.

    The divergence is Kullback and Leibler's (1951). The second value has the sums of each
    conversation. The standard error of the mean takes conversations as drawn at random.
    """
    import numpy as np

    compared: list[_Compared] = []
    count, context = 0, int(child.info()["context"])
    for chat in chats:
        ids, labels = encode_row(reference.tokenizer, chat, context)
        rows = np.array([i for i in range(len(ids) - 1) if labels[i + 1] != -100])
        compared.append(_compare(child, reference, ids, rows))
        count += len(rows)
        report.step("compare with the reference", min(count, limit), limit, "tokens")
        if count >= limit:
            break
    report.step("compare with the reference", limit, limit, "tokens")

    each = [
        {
            "question": said(chat["messages"][-2]),
            "tokens": len(part.kl),
            "kl": float(part.kl.sum()),
        }
        for chat, part in zip(chats, compared, strict=False)
    ]
    return _summary(compared), each


def general_divergence(
    child: Scorer, reference: Reference, passages: Sequence[str], limit: int, report: Reporter
) -> Measured:
    """Return KL and agreement over the tokens of general text, at most about `limit` of them."""
    import numpy as np

    room = int(child.info()["context"])
    tokenizer = reference.tokenizer
    parts = [part for text in passages for part in pieces(tokenizer, text, room)]
    compared: list[_Compared] = []
    count, total = 0, min(limit, sum(len(part) - 1 for part in parts))
    for part in parts:
        compared.append(_compare(child, reference, part, np.arange(len(part) - 1)))
        count += len(part) - 1
        report.step("compare on general text", min(count, total), total, "tokens")
        if count >= limit:
            break
    return on_general_text(_summary(compared)) if compared else Measured()


def on_general_text(measured: Measured) -> Measured:
    """Return a divergence under the names that it has where the text is general."""
    return Measured(
        general_tokens=measured.kl_tokens,
        general_kl=measured.mean_kl,
        general_kl_error=measured.kl_error,
        general_agreement=measured.agreement,
    )


def from_teacher(measured: Measured) -> Measured:
    """Return a divergence under the names that it has where the reference is the teacher."""
    return Measured(
        teacher_kl=measured.mean_kl,
        teacher_kl_error=measured.kl_error,
        teacher_agreement=measured.agreement,
    )


def _compare(
    child: Scorer, reference: Reference, ids: Sequence[int], rows: "np.ndarray"
) -> _Compared:
    """Return how two models differ in what they expect behind each of the rows."""
    import numpy as np

    theirs, ours = reference.log_probabilities(ids)[rows], _log_softmax(child.logits(ids)[rows])
    width = min(theirs.shape[1], ours.shape[1])
    theirs, ours = theirs[:, :width], ours[:, :width]
    kl = (np.exp(theirs) * (theirs - ours)).sum(-1)
    return _Compared(kl, theirs.argmax(-1) == ours.argmax(-1))


def _summary(compared: Sequence[_Compared]) -> Measured:
    import numpy as np

    total = np.concatenate([part.kl for part in compared])
    mean, error = mean_and_error(
        [float(part.kl.sum()) for part in compared], [len(part.kl) for part in compared]
    )
    return Measured(
        kl_tokens=len(total),
        mean_kl=mean,
        kl_error=error,
        p99_kl=float(np.quantile(total, 0.99)),
        agreement=float(np.concatenate([part.agree for part in compared]).mean()),
    )


def _log_softmax(logits: "np.ndarray") -> "np.ndarray":
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    log_probabilities: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return log_probabilities
