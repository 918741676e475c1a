"""Asks a model file the development wordings on the board's runtime; counts right answers by kind.

    python -m scripts.board_tools.measure build/board-tools/quantize/MODEL.gguf

With a file behind the model, its conversations (JSONL) or an author's lines (`authors.py`) are
asked instead. Only counts are printed, so held-out wordings stay unread; `--errors FILE` writes
what was called in place of what is right, for wordings that may be read.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain import runtime
from toolchain.artifacts import read_jsonl
from toolchain.evaluate.answers import answer_all
from toolchain.progress import Silent
from toolchain.runtime.scoring import scorer
from toolchain.tool_use import called, is_called

from .authors import read_lines
from .near import Measured
from .rows import RECIPE, conversations, development, questions_of

CONTEXT, ANSWER_TOKENS = 2048, 128
KINDS = ("no call", "one call", "two calls")


def ready(row: Mapping[str, Any], tools: Sequence[Any]) -> dict[str, Any]:
    """Return a conversation with its tools, and arguments as values."""
    messages = [dict(message) for message in row["messages"]]
    for message in messages:
        message["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _read(call)}}
            for call in message.get("tool_calls") or ()
        ]
        if not message["tool_calls"]:
            del message["tool_calls"]
    return {"messages": messages, "tools": list(tools)}


def _read(call: Mapping[str, Any]) -> Any:
    arguments = call["function"]["arguments"]
    return json.loads(arguments) if isinstance(arguments, str) else arguments


def by_kind(
    expected: Sequence[Mapping[str, Any]], calls: Sequence[Sequence[Mapping[str, Any]]]
) -> dict[str, tuple[int, int]]:
    """Return right answers and questions of each kind and of each tool that is called alone.

    `expected` are the right messages, `calls` what was called in place of each.
    """
    counts: dict[str, tuple[int, int]] = {}
    for message, answered in zip(expected, calls, strict=True):
        due = called(message)
        names = [due[0][0]] if len(due) == 1 else []
        for kind in ("all", KINDS[min(2, len(due))], *names):
            right, asked = counts.get(kind, (0, 0))
            counts[kind] = right + is_called(answered, message), asked + 1
    return counts


def rows_of(file: Path) -> list[dict[str, Any]]:
    """Return the conversations of a file: JSONL, or an author's lines."""
    if file.suffix == ".txt":
        return conversations(read_lines(file))
    return list(read_jsonl(file))


def wrong(
    asked: Sequence[Mapping[str, Any]], calls: Sequence[Sequence[Mapping[str, Any]]]
) -> Iterator[str]:
    """Yield a line for each wrong answer: what was asked, what is right, and what was called."""
    for row, answered in zip(asked, calls, strict=True):
        *_, question, message = row["messages"]
        if not is_called(answered, message):
            texts = [
                f"{call['function']['name']} {call['function']['arguments']}" for call in answered
            ]
            right = "; ".join(f"{name} {json.dumps(given)}" for name, given in called(message))
            yield f"{question['content']} => {right or 'TEXT'} | {'; '.join(texts) or 'TEXT'}"


def far_from_learned(wordings: Iterable[str]) -> list[int]:
    """Return the positions of the wordings that are near no learned one."""
    learned = Measured(
        each
        for name in ("tuning", "drawn", "authors")
        for each in questions_of(RECIPE / f"{name}.jsonl")
    )
    return [at for at, each in enumerate(wordings) if not learned.is_near(each)]


def main() -> None:
    """Print the counts of a model file."""
    parser = argparse.ArgumentParser(description="count a model's right answers by kind")
    parser.add_argument("model", type=Path)
    parser.add_argument("file", type=Path, nargs="?", help="default: development.txt")
    parser.add_argument("--errors", type=Path, help="where wrong answers are written")
    given = parser.parse_args()

    rows = rows_of(given.file) if given.file else development()
    tools = json.loads((RECIPE / "tools.json").read_text(encoding="utf-8"))
    asked = [ready(row, tools) for row in rows]
    with scorer(runtime.for_this_computer(), given.model, context=CONTEXT) as child:
        answers = answer_all(child, asked, ANSWER_TOKENS, Silent(), held=True)
    expected, calls = [row["messages"][-1] for row in asked], [each.calls for each in answers]
    for kind, (right, count) in by_kind(expected, calls).items():
        print(f"{kind}: {right} of {count}")
    far = far_from_learned(row["messages"][-2]["content"] for row in rows)
    right = sum(is_called(calls[at], expected[at]) for at in far)
    print(f"near no learned wording: {right} of {len(far)}")
    if given.errors:
        given.errors.write_text("".join(f"{each}\n" for each in wrong(asked, calls)), "utf-8")


if __name__ == "__main__":
    main()
