"""write(questions and documents, teacher) → Written: conversations whose answers a teacher wrote.

The rule to keep: nothing is written that a held-out question asks, and nothing is kept that a
filter doubts. What is dropped is counted with its reason.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from toolchain.artifacts import Dataset, Work, Written, value_digest, write_jsonl
from toolchain.config import Frozen
from toolchain.figures import StageFigures
from toolchain.knowledge.passages import Passage
from toolchain.knowledge.teacher import PROMPT as QUESTIONS_PROMPT
from toolchain.knowledge.teacher import headed, questions_in
from toolchain.processes import is_main, keep_together, speaking
from toolchain.progress import Reporter
from toolchain.recipe import WriteSpec
from toolchain.teaching.asking import Asker
from toolchain.teaching.filters import NOTHING, agree, is_nothing, is_supported
from toolchain.teaching.sources import read_passages, read_questions
from toolchain.teaching.writers import How, Messages, Said, Writer

WRITTEN = "written"
"""Stage name of the written text, and its folder beside the student's."""
ANSWERS = "teacher-answers.jsonl"
"""File of all that the teacher answered, beside that folder."""
TOOLS = ("torch", "transformers")
ANSWER_PROMPT = f"""Answer the question from the text below, in one or two sentences, in the
language of the question. Use the words of the text. If it does not answer the question, write
{NOTHING}.

{{text}}

Question: {{question}}"""
QUESTION_TOKENS = 40
"""Tokens of a written question, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFigures(StageFigures):
    """What was written, and what was dropped."""

    teacher: str
    passages: int
    questions: int
    """Number of questions that were answered, written ones among them."""
    conversations: int
    """Number of answers that were kept."""
    dropped: dict[str, int]
    """Reason → number of questions or answers."""
    tokens: int
    """Tokens that the teacher read and wrote; 0 for an endpoint that does not count."""
    parameters: int | None = None
    """Of the teacher; None for one behind an endpoint."""


class _Writing(Frozen):
    """What decides the written text, beside its inputs."""

    spec: WriteSpec
    questions_prompt: str = QUESTIONS_PROMPT
    answer_prompt: str = ANSWER_PROMPT


class Refusals(Protocol):
    """Rules of `ingest`: what must not be learned."""

    @property
    def digest(self) -> str:
        """Digest of the rules."""

    def of(self, question: str, answer: str) -> str:
        """Return why a question with its answer must not be learned; empty if it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What is written from, by whom, and what must not be learned."""

    spec: WriteSpec
    near: Path
    """Folder that the spec's paths are relative to."""
    writer: Writer
    refusals: Refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A question and the passage that it was written for, if any."""

    text: str
    passage: Passage | None = None


def write(
    dataset: Dataset, assignment: Assignment, out: Path, report: Reporter, *, seed: int
) -> Written:
    """Let the teacher write conversations into `out`, as many as pass the filters."""
    spec = assignment.spec.model_copy(update={"teacher_licence": ""})
    questions, passages = (
        read_questions(spec, assignment.near),
        read_passages(spec, assignment.near),
    )
    inputs = {
        "teacher": assignment.writer.digest,
        "dataset": dataset.digest,
        "rules": assignment.refusals.digest,
        "questions": value_digest(questions),
        "documents": value_digest(passages),
    }
    work = Work(
        stage=WRITTEN, inputs=inputs, parameters=_Writing(spec=spec), seed=seed, tools=TOOLS
    )

    def build(folder: Path) -> WrittenFigures | None:
        """Write the conversations; only the main process of a training does."""
        if not is_main():
            return None
        asker = Asker(assignment.writer, out.with_name(ANSWERS), speaking(report))
        author = _Author(spec, asker, assignment.refusals, dataset.opening(), seed)
        rows = author.conversations(questions, passages)
        write_jsonl(folder / "written.jsonl", rows)
        figures = author.figures(len(passages), len(rows))
        assignment.writer.release()
        report.note(f"distill: {summary(figures)}")
        return figures

    record, fresh = keep_together(out, work, build, WrittenFigures)
    return Written(path=out, record=record, fresh=fresh)


def summary(figures: WrittenFigures) -> str:
    """Return what was written, in words."""
    text = (
        f"{figures.teacher} answered {figures.questions:,} questions, "
        f"{figures.conversations:,} answers are kept"
    )
    if not figures.dropped:
        return text
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in figures.dropped.items())
    return f"{text}; dropped: {reasons}"


class _Author:
    """Writes the conversations of one run, and counts."""

    def __init__(
        self,
        spec: WriteSpec,
        asker: Asker,
        refusals: Refusals,
        opening: Messages,
        seed: int,
    ) -> None:
        self._spec = spec
        self._asker = asker
        self._refusals = refusals
        self._opening = opening
        self._seed = seed
        self._dropped: Counter[str] = Counter()
        self._asked = 0
        self._tokens = 0

    def conversations(
        self, questions: Sequence[str], passages: Sequence[Passage]
    ) -> list[Mapping[str, Any]]:
        """Return the conversations that pass the filters, in the order of their sources."""
        given = [_Question(text=each) for each in questions]
        asked = self._unrefused([*given, *self._for_passages(passages)])
        self._asked = len(asked)
        prompts = [self._prompt(each) for each in asked]
        first = self._say(prompts, 0.0, "write answers")
        second = (
            self._say(prompts, self._spec.temperature, "write second answers")
            if self._spec.keep == "agreed"
            else first
        )
        rows = []
        for question, one, other in zip(asked, first, second, strict=True):
            if reason := self._fault(question, one, other):
                self._dropped[reason] += 1
            else:
                rows.append(self._row(question.text, one.text))
        return rows

    def figures(self, passages: int, conversations: int) -> WrittenFigures:
        """Return what was written and dropped."""
        writer = self._asker.writer
        return WrittenFigures(
            teacher=writer.name,
            passages=passages,
            questions=self._asked,
            conversations=conversations,
            dropped=dict(sorted(self._dropped.items())),
            tokens=self._tokens,
            parameters=writer.parameters,
        )

    def _for_passages(self, passages: Sequence[Passage]) -> list[_Question]:
        """Return questions for each passage: its own, or written ones if it has none."""
        bare = [passage for passage in passages if not passage.questions]
        count = self._spec.each
        prompts = [
            [{"role": "user", "content": QUESTIONS_PROMPT.format(count=count, text=headed(each))}]
            for each in bare
        ]
        how = How(max_tokens=QUESTION_TOKENS * count)
        lists = self._asker.say(prompts, how, "write questions")
        self._count(lists)
        written = {id(each): said for each, said in zip(bare, lists, strict=True)}
        found = []
        for passage in passages:
            said = written.get(id(passage))
            texts = questions_in(said.text, count) if said else passage.questions
            if not texts:
                self._dropped["passages without a question"] += 1
            found += [_Question(text=text, passage=passage) for text in texts]
        return found

    def _unrefused(self, questions: Sequence[_Question]) -> list[_Question]:
        """Return the questions that may be learned: the first of equal ones, none held out."""
        asked: dict[str, _Question] = {}
        for each in questions:
            key = " ".join(each.text.casefold().split())
            if key in asked:
                self._dropped["asked twice"] += 1
            elif reason := self._refusals.of(each.text, ""):
                self._dropped[reason] += 1
            else:
                asked[key] = each
        return list(asked.values())

    def _prompt(self, question: _Question) -> Messages:
        """Return the conversation that the teacher continues with its answer."""
        if question.passage is None or not self._spec.in_view:
            return [*self._opening, {"role": "user", "content": question.text}]
        content = ANSWER_PROMPT.format(text=headed(question.passage), question=question.text)
        return [{"role": "user", "content": content}]

    def _say(self, prompts: Sequence[Messages], temperature: float, name: str) -> list[Said]:
        how = How(max_tokens=self._spec.max_tokens, temperature=temperature, seed=self._seed)
        said = self._asker.say(prompts, how, name)
        self._count(said)
        return said

    def _count(self, said: Sequence[Said]) -> None:
        self._tokens += sum(each.read + each.written for each in said)

    def _fault(self, question: _Question, first: Said, second: Said) -> str:
        """Return why an answer is not kept; empty if it is."""
        spec = self._spec
        checks: tuple[tuple[str, Callable[[], bool]], ...] = (
            ("not ended", lambda: not first.whole),
            ("not answered", lambda: is_nothing(first.text)),
            ("not agreed", lambda: not agree(first.text, second.text, spec.agreement)),
            ("not in the passage", lambda: not self._stands_in(question.passage, first.text)),
        )
        found = next((reason for reason, is_wrong in checks if is_wrong()), "")
        return found or self._refusals.of(question.text, first.text)

    def _stands_in(self, passage: Passage | None, answer: str) -> bool:
        return passage is None or is_supported(answer, headed(passage), self._spec.support)

    def _row(self, question: str, answer: str) -> Mapping[str, Any]:
        messages = [
            *self._opening,
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
        opening = {"opening": len(self._opening)} if self._opening else {}
        return {"messages": messages, **opening}
