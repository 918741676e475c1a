"""Answers of a model file to held-out questions: task scores, and goldens for the board."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from device.manifest.moment import RENDERED_AT
from device.manifest.opening import bare
from toolchain.chat import fixed_clock
from toolchain.evaluate.reference import Reference
from toolchain.figures import Measured
from toolchain.opening import Opening
from toolchain.progress import Reporter
from toolchain.runtime.scoring import Scorer
from toolchain.tool_use import said
from toolchain.training.answers import exact_match, token_f1

Conversation = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Answered:
    """A held-out conversation with the model file's own answer."""

    messages: Sequence[Mapping[str, Any]]
    """The conversation, the expected answer last."""
    prompt: list[int]
    """Token ids of the prompt."""
    tokens: list[int]
    """Token ids of the answer."""
    text: str
    stopped: bool
    """Whether the answer ended by itself."""
    tools: Tools = ()
    """Tools that it might call."""
    calls: Sequence[Mapping[str, Any]] = ()
    """Calls of them that were read in the answer; arguments are texts of JSON."""
    held: bool = False
    """Whether the grammar of its tools held it."""

    @property
    def question(self) -> str:
        """The last question."""
        return said(self.messages[-2])

    @property
    def expected(self) -> str:
        """The expected answer."""
        return said(self.messages[-1])


def answer_all(
    child: Scorer,
    chats: Sequence[Conversation],
    max_tokens: int,
    report: Reporter,
    *,
    held: bool = False,
) -> list[Answered]:
    """Return the model file's answers of at most `max_tokens` to some conversations.

    With `held` the grammar of its tools holds an answer, as the service does.
    """
    answered = []
    for number, chat in enumerate(chats, 1):
        answered.append(_answered(child, chat["messages"], chat.get("tools", ()), max_tokens, held))
        report.step("answer held-out questions", number, len(chats), "answers")
    return answered


def freely(child: Scorer, answers: Sequence[Answered], max_tokens: int) -> list[Answered]:
    """Return the answers, those that a grammar held asked for again without it.

    A board gives a golden again without a grammar.
    """
    return [
        _answered(child, each.messages, each.tools, max_tokens, False) if each.held else each
        for each in answers
    ]


def _answered(
    child: Scorer, messages: Sequence[Mapping[str, Any]], tools: Tools, max_tokens: int, held: bool
) -> Answered:
    held = held and bool(tools)
    answer = child.answer(messages[:-1], max_tokens, tools, held=held)
    return Answered(
        messages,
        answer.prompt,
        answer.tokens,
        answer.text,
        answer.stopped,
        tools,
        calls=answer.calls,
        held=held,
    )


def task_scores(answers: Sequence[Answered], max_tokens: int) -> Measured:
    """Return how good answers of at most `max_tokens` are, and how many ended by themselves."""
    count = max(1, len(answers))
    return Measured(
        questions=len(answers),
        answer_tokens=max_tokens,
        exact_match=sum(exact_match(a.text, a.expected) for a in answers) / count,
        f1=sum(token_f1(a.text, a.expected) for a in answers) / count,
        eos_rate=sum(a.stopped for a in answers) / count,
    )


def reference_ends(reference: Reference, answers: Sequence[Answered], max_tokens: int) -> Measured:
    """Return the share of the reference's own answers that end, if not all of the file's did.

    A reference that never ends leaves nothing to ask of the file, and where all of the file's
    answers ended none can be lost.
    """
    if all(answer.stopped for answer in answers):
        return Measured()
    prompts = [(answer.messages[:-1], answer.tools) for answer in answers]
    with fixed_clock():
        ended = reference.ends(prompts, max_tokens)
    gained = sum(own.stopped and not end for own, end in zip(answers, ended, strict=True))
    return Measured(reference_eos_rate=sum(ended) / len(ended), ends_gained=gained)


def golden(answer: Answered, opening: Opening) -> dict[str, Any]:
    """Return what a client sends and what must come of it; the board adds the opening."""
    end = {"finish_reason": "stop"} if answer.stopped else {}
    return {
        "messages": list(bare(answer.messages[:-1], opening)),
        "prompt_tokens": answer.prompt,
        "tokens": answer.tokens,
        "now": RENDERED_AT,
        **({"tools": list(answer.tools)} if answer.tools else {}),
        **end,
    }
