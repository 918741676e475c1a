"""Tool calls of a model file: which tool it calls for held-out questions, and with which arguments.

The device runtime answers under the grammar of the board, so every call parses; what is measured is
whether it is the right one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.figures import Measured
from toolchain.progress import Reporter
from toolchain.runtime.scoring import Scorer
from toolchain.tool_use import called, is_called

Conversation = Mapping[str, Any]


def tool_accuracy(
    child: Scorer, chats: Sequence[Conversation], max_tokens: int, report: Reporter
) -> Measured:
    """Return the share of answers with exactly the expected calls.

    Nothing is returned where none is expected.
    """
    asked = [chat for chat in chats if chat.get("tools")]
    if not any(called(chat["messages"][-1]) for chat in asked):
        return Measured()

    right = 0
    for number, chat in enumerate(asked, 1):
        *before, expected = chat["messages"]
        answer = child.answer(before, max_tokens, chat["tools"], held=True)
        right += is_called(answer.calls, expected)
        report.step("call tools", number, len(asked), "questions")
    return Measured(tool_questions=len(asked), tool_accuracy=right / len(asked))
