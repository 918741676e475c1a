"""Tool calls of a model file: which tool it calls for held-out questions, and with which arguments.

The device runtime answered under the grammar of the board, so every call parses; what is measured
is whether it is the right one.
"""

from collections.abc import Sequence

from toolchain.evaluate.answers import Answered
from toolchain.figures import Measured
from toolchain.tool_use import called, is_called


def tool_accuracy(answers: Sequence[Answered]) -> Measured:
    """Return the share of answers with exactly the expected calls.

    Nothing is returned where none is expected.
    """
    with_tools = [answer for answer in answers if answer.tools]
    if not any(called(answer.messages[-1]) for answer in with_tools):
        return Measured()

    right = sum(is_called(answer.calls, answer.messages[-1]) for answer in with_tools)
    return Measured(tool_questions=len(with_tools), tool_accuracy=right / len(with_tools))
