"""What a question becomes before it waits: its prompts, what the documents say, why it is refused.

All of it happens in one thread beside those that answer. Standard library only.
"""

from dataclasses import dataclass, replace
from typing import Union

from device.engine.base import Sampling, is_picture
from device.engine.escape import Escape
from device.errors import DeviceError
from device.knowledge.consult import Consulted
from device.knowledge.library import Library
from device.model import Model, Prompt
from device.serve.api import Question, Texts
from device.serve.guard import Refusal, Screen
from device.serve.holding import refused_step
from device.serve.job import Job
from device.serve.quoting import quoted


@dataclass(frozen=True)
class Prepared:
    """A question that was read."""

    question: Union[Question, Texts]
    """Held to the calls of its tools."""
    prompts: list[Prompt]
    consulted: "Consulted | None"
    """What the documents say to it; None if it is not about them."""
    refusal: "Refusal | None"
    """Why it is refused; None if it may be answered."""


class Reader:
    """Reads questions for a loaded model, its documents and its guard."""

    def __init__(self, model: Model, library: "Library | None", screen: "Screen | None") -> None:
        self._model = model
        self._library = library
        self._screen = screen
        self._escape = Escape(())
        """Breaks up control tokens in passages that the model reads."""
        if library:
            self._escape = model.escape or Escape(model.engine.control_tokens())

    def read(self, question: Union[Question, Texts]) -> Prepared:
        """Return a question ready to be answered; raise DeviceError if it cannot be."""
        held, prompts, consulted = self._prepared(question)
        return Prepared(held, prompts, consulted, self._refusal(held, prompts))

    def quote(self, job: Job, question: Question, text: str) -> None:
        """Tell a passage as the answers to a question: it needs no slot."""
        prompt_tokens = len(job.prompts[0].tokens)
        job.tell(prompt_tokens)
        sampling = question.sampling
        limit = sampling.max_tokens if question.says_length else None
        for _ in range(question.answers):
            for step in quoted(self._model.engine, text, sampling.stop, limit, prompt_tokens):
                job.tell(step)

    def _refusal(self, question: Union[Question, Texts], prompts: list[Prompt]) -> "Refusal | None":
        """Return why a question is refused; None if it may be answered.

        Raise DeviceError if it is too long to be looked at: longer than the context.
        """
        if self._screen is None or not isinstance(question, Question):
            return None
        engine = self._model.engine
        for prompt in prompts:
            if len(prompt.tokens) > engine.context:
                engine.check(prompt.tokens, question.sampling)
        return self._screen.of_question(question, engine.piece)

    def _with_tools(self, question: Union[Question, Texts]) -> Union[Question, Texts]:
        """Return a question that is held to the calls of its tools, in the template's markup."""
        template = self._model.template
        if not isinstance(question, Question) or question.tools is None or template is None:
            return question
        markup = template.markup
        held = question.tools.held(question.sampling, markup)
        return replace(question, sampling=held, markup=markup)

    def _prepared(
        self, question: Union[Question, Texts]
    ) -> "tuple[Union[Question, Texts], list[Prompt], Consulted | None]":
        """Return a question held to its tools, its prompts, and what the documents say to it.

        Raise DeviceError if one cannot be answered.
        """
        if self._screen and isinstance(question, Question):
            question = self._screen.without_refused(question)
        question = self._with_tools(question)
        consulted = self._consulted(question)
        if consulted and consulted.asked and isinstance(question, Question):
            prompt, consulted = self._with_notes(consulted, question.sampling)
            return question, [prompt], consulted

        prompts = _prompts(self._model, question)
        if consulted:
            return question, prompts, consulted  # a passage that is quoted needs no context
        sampling = question.sampling if isinstance(question, Question) else None
        for prompt in prompts:
            self._model.engine.check(prompt.tokens, sampling)

        return question, prompts, None

    def _consulted(self, question: Union[Question, Texts]) -> "Consulted | None":
        """Return what the documents say to a conversation; None if it is not about them."""
        if self._library is None or not isinstance(question, Question) or not question.chat:
            return None
        if question.tools or question.sees:
            return None  # like a client's own instructions; a picture is in no document
        # A passage as it stands follows no grammar and has no probabilities.
        sampling = question.sampling
        worded = bool(sampling.grammar) or sampling.top_logprobs is not None
        return self._library.consult(question.messages, worded=worded)

    def _with_notes(self, consulted: Consulted, sampling: Sampling) -> "tuple[Prompt, Consulted]":
        """Return the prompt with as many passages as have room beside the answer, and these."""
        engine = self._model.engine
        plain = self._escape.text
        prompt = self._model.prompt(consulted.messages(plain))
        unlimited = sampling.max_tokens >= engine.context
        room = engine.context // 4 if unlimited else sampling.max_tokens
        while len(prompt.tokens) + room > engine.context:
            shorter = consulted.shortened()
            if shorter is None:
                break
            consulted = shorter
            prompt = self._model.prompt(consulted.messages(plain))
        engine.check(prompt.tokens, sampling)
        return prompt, consulted


def refuse(job: Job, question: Question, refusal: Refusal) -> None:
    """Tell the answers to a question that is refused: it needs no slot."""
    prompt_tokens = len(job.prompts[0].tokens)
    job.tell(prompt_tokens)
    for _ in range(question.answers):
        job.tell(refused_step(refusal, question, prompt_tokens))


def _prompts(model: Model, question: Union[Question, Texts]) -> list[Prompt]:
    if isinstance(question, Texts):
        return [Prompt(_tokens(model, text)) for text in question.inputs]
    if question.chat:
        shown = question.tools.shown if question.tools else ()
        return [model.prompt(question.messages, tools=shown)]
    return [Prompt(_tokens(model, question.prompt))]


def _tokens(model: Model, text: "str | tuple[int, ...]") -> list[int]:
    if isinstance(text, str):
        return model.engine.tokenize(text, begin=True)
    if wrong := [token for token in text if is_picture(token)]:
        # An id below 0 would stand for a picture that somebody else has shown.
        raise DeviceError("bad_token", f"token {wrong[0]} is not one of the model's", status=400)
    return list(text)
