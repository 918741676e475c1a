"""Prompts of ours, which every model answers in its own words: goldens that are nobody's text."""

from toolchain.evaluate.answers import Answered
from toolchain.opening import Opening
from toolchain.progress import Reporter
from toolchain.runtime.scoring import Scorer

PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "How much is 17 plus 25? Answer with the number.",
    'Translate to German: "Good morning, how are you?"',
)
"""Questions for every such model. The board must give the same answers, right or wrong."""
OWN_TOKENS = 48
# Long enough to tell two models apart, short enough for a slow board.
"""Longest answer to one of PROMPTS, in tokens."""


def own_answers(child: Scorer, opening: Opening, report: Reporter) -> list[Answered]:
    """Return the model's answers to PROMPTS."""
    answers = []
    for number, prompt in enumerate(PROMPTS, 1):
        messages = asked(opening, prompt)
        said = child.answer(messages[:-1], OWN_TOKENS)
        messages[-1]["content"] = said.text
        answers.append(Answered(messages, said.prompt, said.tokens, said.text, said.stopped))
        report.step("answer prompts of ours", number, len(PROMPTS), "answers")

    return answers


def asked(opening: Opening, question: str) -> list[dict[str, str]]:
    """Return a conversation with room for its answer."""
    ask = {"role": "user", "content": question}
    return [*(dict(message) for message in opening), ask, {"role": "assistant", "content": ""}]
