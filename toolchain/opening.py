"""Opening of a recipe's conversations: system prompt, text of its documents, few-shot turns.

`ingest` makes it, once; training, gate, goldens and bundle take it from the data set. Where it goes
says device.manifest.opening.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from device.manifest.opening import MAX_OPENING_BYTES, opening_of
from toolchain.errors import ArtifactError, ConfigError
from toolchain.recipe import DataSpec, TurnSpec
from toolchain.texts import text_of

Opening = Sequence[Mapping[str, str]]


def read_opening(
    spec: DataSpec,
    documents: Mapping[str, Path],
    rules: Callable[[str, str], str] = lambda where, text: text,
) -> Opening:
    """Return the messages of an opening.

    Each text goes through `rules` with the name of its place. Raise ArtifactError for a document
    without text, or for more text than a board takes.
    """
    texts = [
        rules("data.system", spec.system) if spec.system else "",
        *(rules(name, _document(name, path)) for name, path in documents.items()),
    ]
    opening = opening_of(
        "\n\n".join(filter(None, texts)),
        [message for turn in spec.turns for message in _ruled(turn, rules)],
    )
    if (size := size_bytes(opening)) > MAX_OPENING_BYTES:
        raise ArtifactError(
            f"data: the opening has {size:,} bytes, at most {MAX_OPENING_BYTES:,} are allowed"
        )
    return opening


def _ruled(turn: TurnSpec, rules: Callable[[str, str], str]) -> tuple[Mapping[str, str], ...]:
    texts = (rules("data.turns", text) for text in (turn.question, turn.answer))
    return dialogue(*texts)


def dialogue(question: str, answer: str) -> tuple[Mapping[str, str], ...]:
    """Return a question and its answer as messages."""
    return {"role": "user", "content": question.strip()}, {
        "role": "assistant",
        "content": answer.strip(),
    }


def size_bytes(opening: Opening) -> int:
    """Return the bytes of an opening's text: it has no more tokens than that."""
    return sum(len(message["content"].encode()) for message in opening)


def check_room(where: str, tokens: int, answer: int, context: int) -> None:
    """Raise ConfigError unless a question has room between an opening and the longest answer."""
    if tokens + answer < context:
        return
    problem = f"the opening takes {tokens:,} tokens and an answer up to {answer:,}"
    raise ConfigError(
        f"{where}: {problem}: {context:,} tokens of context leave no room for a question",
        hint="shorten `system`, `documents` or `turns` of `[data]`, "
        "or let answers be shorter with `max_tokens`",
    )


def _document(name: str, path: Path) -> str:
    text = text_of(name, path).strip()
    if not text:
        raise ArtifactError(
            f"{name}: no text", hint="a document's text is put before every conversation"
        )
    return text
