"""`[knowledge]` and `[guard]`: what is answered from documents, and what is refused."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from device.manifest import MAX_TAKE
from toolchain.config import Frozen
from toolchain.recipe.kinds import Fraction, Licence, Positive, Text


class ContrastSpec(Frozen):
    """How an embedder is tuned on questions that were written for the documents."""

    layers: Positive = 1
    """Layers that are trained, from the last one; six are all of MiniLM-L6."""
    epochs: Positive = 1
    batch_size: Positive = 128
    """Questions in a batch."""
    together: int = Field(default=4, ge=2)
    """Questions of a passage that stand together in a batch."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Of one layer; all six learn best at 3e-4."""
    temperature: float = Field(default=0.05, gt=0)
    passage_share: Fraction = 0.3
    """Share of the groups in which the passage stands for one of its questions."""
    unanswered: int = Field(default=32, ge=0)
    """Questions without an answer that are wrong partners in a batch."""
    max_tokens: Positive = 32
    """Tokens of a text that are read while it is tuned."""


class KnowledgeGateSpec(Frozen):
    """What the search must reach on the questions in `knowledge.fresh`."""

    min_first: Fraction = 0.0
    """Share of answerable questions whose right passage is the first."""
    min_among_three: Fraction = 0.0
    """Share of answerable questions whose right passage is among the first three."""
    min_right: Fraction = 0.0
    """Share of answerable questions that are answered, and rightly."""
    max_wrong: Fraction = 1.0
    """Share of answerable questions that are answered with a passage that does not answer them."""
    max_false: Fraction = 1.0
    """Share of questions without an answer that are answered all the same."""


class KnowledgeSpec(Frozen):
    """Documents that questions are answered from, and how they are found."""

    files: tuple[str, ...] = Field(
        description="files, folders or patterns relative to the recipe: Markdown, text, HTML, PDF, "
        "DOCX, and CSV or JSONL of questions and answers"
    )
    passage_words: Positive = 120
    """Words of a passage, about."""
    questions: tuple[str, ...] = ()
    """JSONL files of questions that were written for passages: what passages are also found by."""
    teacher: str = ""
    """Address of an endpoint with OpenAI's API whose model writes questions for passages that came
    with none, such as `http://127.0.0.1:8080/v1`."""
    teacher_model: str = "default"
    """Name of the model in requests to `teacher`."""
    written: Positive = 8
    """Questions that `teacher` writes for a passage."""
    unanswered: tuple[str, ...] = ()
    """JSONL files of questions that the documents do not answer: where their knowledge ends."""
    tuning: tuple[str, ...] = ()
    """JSONL files of questions that the search is fitted with: its weights and its threshold."""
    fresh: tuple[str, ...] = ()
    """JSONL files of questions that the search is measured with, and never fitted on."""
    embedder: str = Field(
        description="a folder of sentence-transformers of the BERT family, a Hub id, or "
        "`package:NAME/FILE`: a zip archive of such a folder that an installed package ships"
    )
    embedder_licence: Licence = ""
    scheme: Literal["F16", "Q8_0"] = "Q8_0"
    tune: ContrastSpec | None = None
    """Tune the embedder on `questions`; `true` for the defaults."""
    take: int = Field(default=3, ge=1, le=MAX_TAKE)
    """Passages that are looked up for a question."""
    answer: Literal["quote", "model", "auto"] = "quote"
    """`quote` answers with the best passage as it stands, `model` lets the model read and word
    them, `auto` takes what `evaluate` finds better on questions of `tuning`."""
    answer_questions: Positive = 24
    """Questions that `auto` asks."""
    gate: KnowledgeGateSpec = KnowledgeGateSpec()

    def without_terms(self) -> "KnowledgeSpec":
        """Return what decides the knowledge."""
        return self.model_copy(update={"embedder_licence": ""})

    @field_validator("tune", mode="before")
    @classmethod
    def _defaults(cls, value: object) -> object:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value


class GuardSpec(Frozen):
    """What a board refuses, and what the filter that tells it is trained on."""

    refuse: Literal["questions", "both", "nothing"] = "questions"
    """`questions` alone, answers too (`both`), or `nothing`: then `/v1/moderations` alone uses
    it."""
    unsafe: tuple[Text, ...] = ()
    """Files of texts that it should flag: one a line, or JSON lines of `text` and `category`."""
    safe: tuple[Text, ...] = ()
    """Files of texts that it should not flag, in the same form."""
    false_alarms: Fraction = 0.01
    """Share of the recipe's held-out questions that may be flagged."""
    model: str = ""
    """A guard model as a GGUF file, to compare the filter with: a path, or `package:NAME/FILE`. It
    judges on this computer and does not travel."""

    @model_validator(mode="after")
    def _are_not_ours(self) -> "GuardSpec":
        for name in (*self.unsafe, *self.safe):
            if name in ("own", "seeds"):
                # What is measured is told apart by its source, and these are two of ours.
                raise ValueError(
                    f"`{name}` is what we call texts of ours: give the file another name"
                )
        return self
