"""A checkpoint with the vocabulary of its subject alone. The scores of all tokens are a large part
of what is read for each token of an answer.

trim(Checkpoint, Dataset) → Checkpoint. The tokens that the recipe's text and the model's own
answers need are kept, and are proved to come out as before. Held-out questions, whose text is not
looked at, must be answered as before. The cost for other text is measured and said.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Checkpoint, Dataset, Work, digest, keep, size_bytes
from toolchain.errors import ArtifactError, GateError
from toolchain.figures import StageFigures
from toolchain.general import GENERAL, passages
from toolchain.models.names import TOKENIZER
from toolchain.models.tokenizer import load_tokenizer
from toolchain.models.vocabulary import Tokens
from toolchain.progress import Reporter
from toolchain.recipe import TrimSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOOLS = ("safetensors", "tokenizers", "torch", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabularies(StageFigures):
    """Tokens before and after, and those that the recipe's text needs."""

    before: int
    after: int
    needed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(StageFigures):
    """One figure before and after."""

    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimFigures(StageFigures):
    """What was saved, and what other text pays."""

    tokens: Vocabularies
    tokens_compared: int
    """Tokens of the recipe's text that are the same ones under their new ids."""
    bytes: Change
    questions: int
    identical: float | None
    """Share of held-out questions that are answered as before; None where nothing is held out."""
    general_tokens_per_character: Change
    general_nats_per_byte: Change


def trim(
    checkpoint: Checkpoint,
    dataset: Dataset,
    spec: TrimSpec,
    out: Path,
    report: Reporter,
    *,
    general: Path = GENERAL,
) -> Checkpoint:
    """Write `checkpoint` with fewer tokens to `out`.

    Raise GateError if fewer held-out questions are answered as before than the recipe asks.

    Figures: tokens, bytes, `identical` answers, and tokens per character and loss per byte on
    `general` text, before and after.
    """
    if not general.is_file():
        raise ArtifactError(f"trim: general: no such file `{general.name}`")
    inputs = {
        "checkpoint": checkpoint.digest,
        "dataset": dataset.digest,
        "general": digest(general),
    }
    work = Work(stage="trim", inputs=inputs, parameters=spec, tools=TOOLS)
    record, fresh = keep(
        out,
        work,
        lambda folder: _build(checkpoint.path, dataset, spec, general, folder, report),
        TrimFigures,
    )
    share = TrimFigures.read(record.figures).identical
    if share is not None and share < spec.min_identical:
        problem = (
            f"trim: {share:.1%} of the held-out answers are as before, "
            f"the recipe asks {spec.min_identical:.1%}"
        )
        raise GateError(problem, hint=f"raise `vocabulary`, which is {spec.vocabulary}")
    return Checkpoint(path=out, record=record, fresh=fresh)


def _build(
    folder: Path, dataset: Dataset, spec: TrimSpec, general: Path, out: Path, report: Reporter
) -> TrimFigures:
    tokens = Tokens(folder)
    before = _Side(folder, dataset, spec, general, report)
    texts = before.texts()
    old = load_tokenizer(folder)
    used = {number for row in _encoded(old, texts) for number in row}
    needed, kept = tokens.needed(used), tokens.filled(used, min(spec.vocabulary, len(tokens)))
    tokens.write(kept, out)
    compared = prove(
        old,
        load_tokenizer(out),
        sorted(kept),
        texts,
        general.read_text(encoding="utf-8"),
    )
    after = _Side(out, dataset, spec, general, report)
    pairs = list(zip(before.answers(), after.answers(), strict=True))
    figures = TrimFigures(
        tokens=Vocabularies(before=len(tokens), after=len(kept), needed=len(needed)),
        tokens_compared=compared,
        bytes=Change(before=size_bytes(folder), after=size_bytes(out)),
        questions=len(pairs),
        identical=round(sum(a == b for a, b in pairs) / len(pairs), 4) if pairs else None,
        general_tokens_per_character=Change(
            before=before.tokens_per_character(), after=after.tokens_per_character()
        ),
        general_nats_per_byte=Change(before=before.nats_per_byte(), after=after.nats_per_byte()),
    )
    report.note(_summary(figures))
    return figures


def prove(
    old: "Tokenizer", new: "Tokenizer", kept: Sequence[int], texts: Sequence[str], general: str
) -> int:
    """Return how many tokens of `texts` are the same ones under their new ids.

    Raise ArtifactError for one that is not.

    Any other text may be cut in smaller pieces, but must come back as it was.
    """
    same = 0
    for text, ours, theirs in zip(texts, _encoded(new, texts), _encoded(old, texts), strict=True):
        if [kept[number] for number in ours] != theirs:
            raise ArtifactError(f"trim: {TOKENIZER}: {text[:40]!r} is cut otherwise than before")
        same += len(ours)
    for line in general.splitlines():
        if new.decode(new.encode(line).ids) != old.decode(old.encode(line).ids):
            raise ArtifactError(f"trim: {TOKENIZER}: {line[:40]!r} does not come back as before")
    return same


def _encoded(tokenizer: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    return [found.ids for found in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


class _Side:
    """The model before or after, and what it answers."""

    def __init__(
        self, folder: Path, dataset: Dataset, spec: TrimSpec, general: Path, report: Reporter
    ) -> None:
        from toolchain.models.checkpoints import load_model, load_tokenizer

        self._tokenizer = load_tokenizer(folder)
        self._model = load_model(folder, dtype="float32")
        self._dataset, self._spec, self._report = dataset, spec, report
        self._general = passages(general)

    def texts(self) -> list[str]:
        """Return the text that is not held out, as chats and plain, with the model's answers."""
        from toolchain.chat import rendered as whole

        chats = list(self._dataset.train())
        answers = self._answers(chats[: self._spec.questions], "answer to be trimmed")
        own = [
            {**chat, "messages": [*chat["messages"][:-1], _answered(said)]}
            for chat, said in zip(chats, answers, strict=False)
        ]
        rendered = [
            whole(self._tokenizer, chat["messages"], chat.get("tools", ()))
            for chat in (*chats, *own)
        ]
        return [*rendered, *self._dataset.texts(), *answers, str(self._tokenizer.chat_template)]

    def answers(self) -> list[str]:
        """Return the answers to held-out questions."""
        return self._answers(
            self._dataset.held_out()[: self._spec.questions],
            "answer held-out questions",
        )

    def _answers(self, chats: Sequence[Any], name: str) -> list[str]:
        from toolchain.chat import render_prompt
        from toolchain.training.answers import answer

        prompts = [
            render_prompt(self._tokenizer, chat["messages"][:-1], chat.get("tools", ()))
            for chat in chats
        ]
        return (
            answer(
                self._model,
                self._tokenizer,
                prompts,
                self._spec.max_tokens,
                self._report,
                name=name,
            )
            if prompts
            else []
        )

    def tokens_per_character(self) -> float:
        """Return how finely general text is cut."""
        count = sum(
            len(self._tokenizer.encode(part, add_special_tokens=False)) for part in self._general
        )
        return round(count / sum(map(len, self._general)), 4)

    def nats_per_byte(self) -> float:
        """Return the loss on general text per byte, which does not depend on the tokenizer."""
        from toolchain.training.answers import loss_per_byte

        return loss_per_byte(self._model, self._tokenizer, self._general)


def _summary(figures: TrimFigures) -> str:
    """Return what a trim saved and what it cost, in words."""
    tokens = figures.tokens
    cut, loss = figures.general_tokens_per_character, figures.general_nats_per_byte
    same = (
        "nothing is held out"
        if figures.identical is None
        else f"{figures.identical:.1%} of held-out answers as before"
    )
    return (
        f"{tokens.before} tokens → {tokens.after}, of which the recipe needs {tokens.needed}; "
        f"{same}; on general text {cut.before:.3f} → {cut.after:.3f} tokens per character, "
        f"{loss.before:.3f} → {loss.after:.3f} nats per byte"
    )


def _answered(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
