"""Asks a model file the development wordings on the board's runtime; counts right answers by kind.

    python -m scripts.board_tools.measure build/board-tools/quantize/MODEL.gguf

With a file of conversations behind the model, these are asked instead. Only counts are printed, so
held-out wordings stay unread.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain import runtime
from toolchain.artifacts import read_jsonl
from toolchain.evaluate.answers import answer_all
from toolchain.progress import Silent
from toolchain.runtime.scoring import scorer
from toolchain.tool_use import called, is_called

from .rows import RECIPE, development

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


def main() -> None:
    """Print the counts of a model file."""
    model = Path(sys.argv[1])
    rows = list(read_jsonl(Path(sys.argv[2]))) if len(sys.argv) > 2 else development()
    tools = json.loads((RECIPE / "tools.json").read_text(encoding="utf-8"))
    asked = [ready(row, tools) for row in rows]
    with scorer(runtime.for_this_computer(), model, context=CONTEXT) as child:
        answers = answer_all(child, asked, ANSWER_TOKENS, Silent(), held=True)
    expected = [row["messages"][-1] for row in asked]
    for kind, (right, count) in by_kind(expected, [each.calls for each in answers]).items():
        print(f"{kind}: {right} of {count}")


if __name__ == "__main__":
    main()
