"""`[tune]`, `[distill]`, `[align]` and `[trim]`: how a model learns, and how it becomes smaller."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from toolchain.config import Frozen
from toolchain.recipe.kinds import LINEAR, Fraction, Licence, Positive, Precision, Text

FEW_UPDATES = 60
"""Optimizer steps of LoRA below which few answers are hardly learned."""
# SmolLM2-135M, 20 answers with four phrasings each, rate 1e-3 (docs/training.md): exact answers to
# held-out phrasings after 20, 60 and 120 updates were 0, 35 and 85 %.


class TrainSpec(Frozen):
    """What every training stage needs."""

    epochs: Positive = 3
    updates: int = Field(default=0, ge=0)
    """Optimizer steps, instead of `epochs`: what a model learns of few answers depends on how often
    it is changed."""
    batch_size: Positive = 16
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_share: Fraction = 0.03
    max_tokens: Positive = 512
    """Longest conversation in tokens; longer ones are dropped and counted."""
    questions: int = Field(default=200, ge=0)
    """Held-out conversations that are answered for exact match and F1, at most."""
    general_questions: int = Field(default=200, ge=0)
    """General questions that are asked before and after, at most: what is forgotten of all that the
    recipe is not about. A model that is trained here from nothing is not asked."""
    max_forgotten: float = Field(default=100.0, ge=0, le=100)
    """Percentage points of right answers to them that may be lost."""
    precision: Precision = "auto"
    """`auto` takes bf16, weights in float32 under autocast, where the processor or the GPU
    multiplies it and batches are not tiny."""

    @model_validator(mode="after")
    def _one_length(self) -> "TrainSpec":
        if self.updates and "epochs" in self.model_fields_set:
            raise ValueError("give either `epochs` or `updates`")
        if self.max_forgotten < 100 and not self.general_questions:
            raise ValueError("`max_forgotten` is measured by `general_questions`, which are 0")
        return self

    def steps(self, examples: int) -> int:
        """Return the optimizer steps over so many examples."""
        return self.updates or self.epochs * -(-examples // self.batch_size)

    def passes(self, examples: float) -> float:
        """Return how often each of so many examples is seen."""
        if not self.updates:
            return float(self.epochs)
        return self.updates * self.batch_size / max(1.0, examples)

    @property
    def length(self) -> str:
        """How long is trained, in words."""
        return f"{self.updates} updates" if self.updates else f"{self.epochs} epochs"


class GeneralSpec(Frozen):
    """General conversations that are learned beside the recipe's own."""

    general_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of general conversations in what is learned: they keep the rest of the model in use."""
    general_files: tuple[Text, ...] = ()
    """Files of general conversations, relative to the recipe; empty: ours, in English."""

    def with_general(self, conversations: float) -> float:
        """Return how many conversations are learned where so many are the recipe's own."""
        return conversations / (1 - self.general_share)

    @property
    def beside(self) -> str:
        """What is learned beside, in words with a comma before them; empty for nothing."""
        return f", {self.general_share:.0%} general conversations" if self.general_share else ""

    @model_validator(mode="after")
    def _has_a_share(self) -> "GeneralSpec":
        if self.general_files and not self.general_share:
            raise ValueError(
                "`general_files` are learned as a `general_share`: give it too, such as 0.3"
            )
        return self


class LoraSpec(TrainSpec):
    """LoRA (arXiv:2106.09685) through peft."""

    r: Positive = 16
    alpha: Positive = 32
    # Measured on SmolLM2-135M with 20 answers (docs/training.md): at a rate of 2e-4, or on q and v
    # alone, 60 updates taught none of them; dropout took 1.4 times the time and gave nothing.
    dropout: Fraction = 0.0
    target_modules: Annotated[tuple[Text, ...], Field(min_length=1)] = LINEAR
    layers: int = Field(default=0, ge=0)
    """Layers that are adapted, from the last one; 0: all. A third of them takes two thirds of the
    time, as nothing is carried back through the others."""


class PrivacySpec(Frozen):
    """Differential privacy of what `tune` learns: DP-SGD (arXiv:1607.00133)."""

    epsilon: float | None = Field(default=None, gt=0)
    """The most that the training may cost; the noise follows from it."""
    noise_multiplier: float | None = Field(default=None, gt=0)
    """Instead of it: standard deviation of the noise, in units of `clip`."""
    delta: float = Field(default=0.0, ge=0, lt=1)
    """0: a tenth of one unit's share of the data."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of one unit's gradient."""
    expected_batch: Positive = 64
    """Units in a step, on average: each is drawn by itself."""
    unit: Literal["entry"] = "entry"
    """What is there or not: an entry, which is all phrasings of a question, or a conversation."""
    canaries: int = Field(default=0, ge=0, le=10_000)
    """Made-up entries for an audit, each learned or not by the toss of a coin: the gate then says
    which ε the model file at least has."""

    @model_validator(mode="after")
    def _one_target(self) -> "PrivacySpec":
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give either `epsilon` or `noise_multiplier`")
        return self


class TuneSpec(LoraSpec, GeneralSpec):
    """Fine-tuning on the recipe's conversations."""

    base_bits: Literal[16, 4] = 16
    """Bits of the base while the adapter is trained: 4 is QLoRA (arXiv:2305.14314). What ships has
    16 either way."""
    max_bits_cost: float = Field(default=0.1, ge=0)
    """Nats a token that four bits may cost the untrained base; above it `tune` refuses them."""
    privacy: PrivacySpec | None = None
    """Learn under differential privacy; `batch_size` then only says how many rows are read at
    once."""

    def few_updates(self, examples: int) -> str:
        """Say that so many conversations, general ones among them, are hardly learned.

        Empty where nothing is to be said.
        """
        updates = self.steps(examples)
        if self.privacy or not examples or updates >= FEW_UPDATES:
            return ""
        if self.updates:
            how = "`updates` says so"
        else:
            rows = "conversation" if examples == 1 else "conversations"
            how = f"{self.length} of {examples} {rows}, {self.batch_size} at a time"
        return (
            f"{updates} {'update' if updates == 1 else 'updates'} ({how}) may teach nothing: of 20 "
            "answers a model of 135 million weights gave none after 20 updates, 35 % after 60 and "
            "85 % after 120; `updates = 120` takes as many"
        )


class WriteSpec(Frozen):
    """Training text that a teacher writes: answers to questions that nobody answered yet, and
    questions for documents. Its tokenizer may be any."""

    teacher: str = ""
    """A Hub id, a folder, or the address of an endpoint with OpenAI's API; empty: the teacher of
    `[distill]`."""
    teacher_model: str = ""
    """Name of the model in requests to an endpoint; empty: the only one that it has."""
    teacher_licence: Licence = ""
    questions: tuple[str, ...] = ()
    """Files of questions without answers, relative to the recipe: JSONL with `question`, or text
    with a question a line."""
    documents: tuple[str, ...] = ()
    """Files, folders or patterns relative to the recipe, read as those of `[knowledge]` are."""
    passage_words: Positive = 120
    each: Positive = 4
    """Questions that are written for a passage."""
    in_view: bool = True
    """Whether the teacher reads the passage when it answers. The student never does."""
    keep: Literal["agreed", "all"] = "agreed"
    """`agreed` drops an answer unless a second, sampled one says the same."""
    # Of what a weak teacher wrote for 624 questions 0.8 kept a fifth, of which 31 % were right; of
    # all of it 12 % were (docs/distill.md).
    agreement: Fraction = 0.8
    """F1 of the words of two answers from which on they say the same."""
    support: Fraction = 0.8
    """Share of an answer's content words that stand in its passage, at least; numbers all do."""
    temperature: float = Field(default=0.7, gt=0)
    """Of the second answer; the first is the likeliest."""
    max_tokens: Positive = 96
    """Longest answer in tokens; one that does not end is dropped."""

    @model_validator(mode="after")
    def _has_a_source(self) -> "WriteSpec":
        if not (self.questions or self.documents):
            raise ValueError("give `questions` or `documents` to write from")
        return self


class DistillSpec(TrainSpec, GeneralSpec):
    """A smaller model that learns from a larger one: from what it writes, its probabilities
    (arXiv:1503.02531), or its hidden states."""

    teacher: str = ""
    """A Hub id or folder; empty: the checkpoint of the stage before."""
    student: str = ""
    """A Hub id or folder; empty: a copy of the teacher's layers named by `layers`."""
    teacher_licence: Licence = ""
    student_licence: Licence = ""
    layers: int | tuple[int, ...] = ()
    """A number keeps so many of the teacher's layers, those that change most of what they read; a
    list names them."""
    ask: bool = True
    """Ask first whether there is something to teach, and train the control alone if there is
    not."""
    loss: Literal["labels", "teacher", "both"] = "both"
    """What the student learns: the answers, the teacher's probabilities, or both."""
    temperature: float = Field(default=2.0, gt=0)
    ce_weight: Fraction = 0.1
    """Share of plain cross-entropy in the loss `both`."""
    top_k: Positive = 64
    """Teacher probabilities kept at each position, beside the mass of the rest."""
    hidden_weight: float = Field(default=0.0, ge=0)
    """Weight of the distance between the hidden states of student and teacher; needs `layers`. The
    teacher then runs in every step."""
    on_policy_share: Annotated[float, Field(ge=0, le=0.2)] = 0.0
    """Share of the steps, at the end, in which the student learns from the teacher's view of its
    own answers."""
    write: WriteSpec | None = None

    def without_terms(self) -> "DistillSpec":
        """Return what decides the student."""
        write = self.write and self.write.model_copy(update={"teacher_licence": ""})
        return self.model_copy(
            update={"teacher_licence": "", "student_licence": "", "write": write}
        )

    @field_validator("layers", mode="before")
    @classmethod
    def _number_or_list(cls, value: object) -> object:
        if type(value) is int and value >= 2:
            return value
        if isinstance(value, list | tuple) and all(type(each) is int for each in value):
            return tuple(value)
        raise ValueError("give a number of at least 2, or a list of layers such as [0, 2]")

    @property
    def needs_same_tokens(self) -> bool:
        """Whether the teacher's tokens must be the student's: not where it only writes."""
        return self.loss != "labels" or bool(self.hidden_weight or self.on_policy_share)

    @model_validator(mode="after")
    def _one_student(self) -> "DistillSpec":
        if bool(self.student) == bool(self.layers):
            raise ValueError("give either `student` or `layers`")
        if self.hidden_weight and self.student:
            raise ValueError("`hidden_weight` needs `layers`: of a `student` no layer is known")
        if self.loss == "labels" and not (self.write or self.hidden_weight or self.on_policy_share):
            raise ValueError(
                "`loss` is `labels`, and nothing else comes from the teacher: give "
                "`[distill.write]`, `hidden_weight` or `on_policy_share`"
            )
        return self


class AlignSpec(LoraSpec):
    """Learning from preferences: DPO (arXiv:2305.18290) from pairs, KTO (arXiv:2402.01306)."""

    files: tuple[Text, ...] = Field(
        min_length=1,
        description="files of preferences, relative to the recipe: pairs of answers, rated "
        "answers, and what `harvest` fetches from a board",
    )
    loss: Literal["auto", "dpo", "kto"] = "auto"
    """`auto`: `dpo` where all preferences are pairs, else `kto`."""
    beta: float = Field(default=0.1, gt=0)
    """How near the model stays to what it was: larger is nearer."""
    by_token: bool = False
    """Compare the mean over an answer's tokens instead of the sum: length counts for nothing.
    `beta` is per token then, about ten times as large."""
    # Without it DPO at a rate of 1e-3 took planted wanted answers from -0.3 to -14 nats a token in
    # 78 steps, and the model said nothing any more (benchmarks/align.py).
    answer_weight: float = Field(default=1.0, ge=0)
    """Weight of plain cross-entropy on the wanted answers in the loss: keeps them likely."""
    learning_rate: float = Field(default=2e-4, gt=0)
    held_out_share: Fraction = 0.2
    """Share of the questions whose preferences are not learned, but measured."""
    max_lost: float = Field(default=1.0, ge=0, le=100)
    """Percentage points that the exact match on the recipe's held-out questions may fall."""
    max_client_share: Fraction = 0.25
    """Share of the preferences that one client may give."""
    client_key: Text = "client"
    """Key of a row that names its client; `board` for one share a board."""


class TrimSpec(Frozen):
    """A vocabulary of the recipe's subject alone."""

    vocabulary: int = Field(default=16384, ge=0)
    """Tokens that stay: those that the text needs, filled up with the likeliest others; 0 keeps
    only the first."""
    min_identical: Fraction = 0.995
    """Share of held-out questions that must be answered as before."""
    questions: int = Field(default=200, ge=0)
    """Questions that are answered, at most: learned ones for the tokens of their answers, held-out
    ones to compare."""
    max_tokens: Positive = 96
    general: str = ""
    """A text file, relative to the recipe, on which the loss outside of the subject is measured;
    empty: one of ours."""
