"""Tool calls of a model file: which tool it calls for held-out questions, and with which arguments.

The device runtime answers under the grammar of the board, so every call parses; what is measured is
whether it is the right one.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.figures import Measured
from toolchain.progress import Reporter
from toolchain.runtime.scoring import Scorer
from toolchain.tool_use import called

Conversation = Mapping[str, Any]


def tool_accuracy(
    child: Scorer, chats: Sequence[Conversation], max_tokens: int, report: Reporter
) -> Measured:
    """Return the share of answers with exactly the expected calls; nothing where none is expected.

    Both sides count: an answer that calls where text is expected is as wrong as a text in place of
    a call. Names and arguments are compared as values, not as texts.
    """
    asked = [chat for chat in chats if chat.get("tools")]
    if not any(called(chat["messages"][-1]) for chat in asked):
        return Measured()

    right = 0
    for number, chat in enumerate(asked, 1):
        *before, expected = chat["messages"]
        answer = child.answer(before, max_tokens, chat["tools"], held=True)
        right += [_read(call) for call in answer.calls] == called(expected)
        report.step("call tools", number, len(asked), "questions")
    return Measured(tool_questions=len(asked), tool_accuracy=right / len(asked))


def _read(call: Mapping[str, Any]) -> tuple[str, Any]:
    """Return name and arguments of a call; arguments that were cut off stay a text."""
    function = call["function"]
    try:
        return function["name"], json.loads(function["arguments"])
    except ValueError:
        return function["name"], function["arguments"]
