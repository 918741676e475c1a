"""A recipe: one model, its data, its stages in order, and their parameters (`recipes/<id>.toml`).

Each default stands here and nowhere else. Paths in a recipe are relative to the recipe's own
folder.
"""

import fnmatch
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    field_validator,
    model_validator,
)

from device.manifest import MAX_FEEDBACK_MB, MAX_SLOTS, MAX_TAKE
from toolchain import config
from toolchain.config import Frozen
from toolchain.terms import canonical
from toolchain.texts import decoded

AUTO = "auto"
"""Value of `knowledge.answer` that leaves it to `evaluate` who words an answer."""
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Licence = Annotated[str, AfterValidator(canonical)]
"""SPDX expression, with ids as SPDX spells them; a model card's spelling is understood too."""
Words = Annotated[str, StringConstraints(strip_whitespace=True, max_length=1000)]
"""What travels in the ledger of a bundle."""


class EyesSpec(Frozen):
    """A small vision tower of a model from nothing, of SmolVLM's kind: all of it is trained."""

    side: Positive = 64
    """Width and height of the tile that a picture is scaled to, in pixels."""
    patch: Positive = 8
    merge: Positive = 2
    """So many patches, across and down, become one place of the prompt."""
    hidden_size: Positive = 64
    layers: Positive = 2
    heads: Positive = 4

    @model_validator(mode="after")
    def _whole_places(self) -> "EyesSpec":
        if self.side % (self.patch * self.merge) or self.hidden_size % self.heads:
            raise ValueError("`side` must be whole places of `patch` × `merge`, or heads are split")
        return self

    @property
    def places(self) -> int:
        """Places of the prompt that a picture takes."""
        return (self.side // self.patch // self.merge) ** 2


class ScratchSpec(Frozen):
    """A small Llama and its tokenizer, trained from nothing on the recipe's own text."""

    vocab_size: Positive = 2048
    hidden_size: Positive = 256
    intermediate_size: Positive = 768
    layers: Positive = 6
    heads: Positive = 4
    kv_heads: Positive = 2
    context: Positive = 512
    steps: Positive = 1200
    batch_size: Positive = 32
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup_share: Fraction = 0.05
    eyes: EyesSpec | None = None
    """Give it eyes, and train all of it on the conversations about pictures."""


class ModelSpec(Frozen):
    """Source of the weights: a Hub id, a folder, a GGUF file, or nothing yet (`scratch`)."""

    base: str = Field(
        default="",
        description="a Hub id such as `Qwen/Qwen2.5-0.5B-Instruct`, a model folder, "
        "a `.gguf` file, "
        "or `package:NAME/FILE`: a `.gguf` file that an installed Python package ships",
    )
    revision: str = Field(default="main", description="branch, tag or commit of a Hub model")
    adapter: str = Field(default="", description="a PEFT adapter to merge: a Hub id or a folder")
    adapter_base: str = Field(
        default="",
        description="the name of the base in the adapter's configuration, where it differs from "
        "`base` but means the same weights",
    )
    scratch: ScratchSpec | None = None
    name: str = Field(
        default="", description="name of the result, as in its file name; by default the recipe's"
    )
    licence: Licence = ""
    """Licence of the base, where its card, its licence text and our table do not say it."""
    adapter_licence: Licence = ""

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSpec":
        if bool(self.base) == bool(self.scratch):
            raise ValueError("give either `base` or `[model.scratch]`")
        if self.adapter_base and not self.adapter:
            raise ValueError("`adapter_base` is given, but no `adapter`")
        return self


class TurnSpec(Frozen):
    """A question and its answer that every conversation begins with, as an example of an answer."""

    question: Text
    answer: Text


Personal = Literal["cn_id", "phone", "card", "plate", "address", "name", "email", "ip", "secret"]
"""Kinds of personal data that are looked for."""


class CleanSpec(Frozen):
    """What is wrong with text that people bring, and what is done about it."""

    mode: Literal["off", "report", "mend"] = "report"
    """`report` counts what it finds and changes nothing."""
    html: bool = True
    """Whether text is looked at for HTML; it is such only where its tags are closed again."""
    # Measured on the starter's answers with one or two words changed: found at 0.5 99 %, at 0.6
    # 96.5 %, at 0.7 84.5 %, at 0.8 (the usual default) 66.5 %; distinct answers joined at 0.6: 0.
    near_duplicates: Fraction = 0.6
    """Share of common pieces of five characters from which on two texts are near-duplicates; 0
    looks for none."""
    languages: tuple[str, ...] = ()
    """Languages that entries may have, such as `zh` and `en`; empty: any."""


SECRETS_FILE = ".demitasse-secrets.jsonl"
"""File beside a recipe in which redaction keeps what it replaced, for the test of leaks."""


class RedactSpec(Frozen):
    """Which personal data is looked for in the text, and what is done with it."""

    mode: Literal["off", "report", "replace", "refuse"] = "report"
    """`report` counts what it finds and changes nothing; `refuse` ends the run where there is any.
    """
    kinds: tuple[Personal, ...] = get_args(Personal)
    keep: tuple[str, ...] = ()
    """Values that are nobody's secret, such as `400-820-8820` or `*@ourfirm.example`: they stay."""
    surrogates: Literal["placeholder", "lifelike"] = "placeholder"
    """`placeholder` writes `[phone-k7f3qa]`, `lifelike` a value of the same shape that is nobody's.
    """


def means(pattern: str, name: str) -> bool:
    """Say whether a pattern of a source means a file: its path, its folder, or a glob."""
    path, asked = PurePosixPath(name), PurePosixPath(pattern)
    return path == asked or asked in path.parents or fnmatch.fnmatchcase(name, pattern)


class SourceSpec(Frozen):
    """Where some of the recipe's files are from, and under which terms."""

    files: tuple[Text, ...] = Field(
        min_length=1, description="files, folders or patterns, as the recipe names them elsewhere"
    )
    licence: Licence = Field(
        description="SPDX expression; `LicenseRef-ours` for your own, `LicenseRef-NAME` for others"
    )
    subject: Words = Field(
        default="", description="key of a row that names the person whom the row is about"
    )
    url: Words = ""
    attribution: Words = Field(default="", description="words with which its authors are named")
    note: Words = ""
    public: bool = False
    """Whether nobody is to be protected in it: with `[tune.privacy]` it may travel as it is."""

    def covers(self, name: str) -> bool:
        """Say whether these terms are those of a file."""
        return any(means(pattern, name) for pattern in self.files)


class DataSpec(Frozen):
    """What the model is to know."""

    files: tuple[str, ...] = Field(
        default=(),
        description="JSONL, JSON, CSV, TSV, Parquet, text or Markdown files, also as `.gz`, and "
        "folders of such files, relative to the recipe",
    )
    map: Mapping[Literal["question", "answer", "messages", "system"], Text] = Field(default={})
    """Our key → the key that the files have for it, where it is called otherwise."""
    hold_out: Literal["phrasing", "conversation"] = "conversation"
    """`phrasing`: of each question with several phrasings one is held out; `conversation`: a share
    of whole entries."""
    held_out_share: Fraction = 0.1
    """Share of the entries that are held out where `hold_out` is `conversation`."""
    held_out: tuple[str, ...] = ()
    """Those of `files` that are held out as they are, such as wordings by another author; then
    nothing else is."""
    newest: tuple[str, ...] = ()
    """Files of the newest round: all their entries are learned. `[round]` sets it."""
    replay: Fraction = 1.0
    """Share of the entries of all other files that is learned. `[round]` sets it."""
    images: str = ""
    """Folder of the pictures that rows name as `image`, relative to the recipe."""
    system: str = ""
    """System prompt of every conversation that has none."""
    documents: tuple[str, ...] = ()
    """Text files, relative to the recipe, whose text follows the system prompt: what every
    conversation may draw on."""
    tools: str = ""
    """JSON file, relative to the recipe: tools in OpenAI's form that every conversation may call
    that names none itself."""
    turns: tuple[TurnSpec, ...] = ()
    """Behind it: turns that every such conversation begins with."""
    clean: CleanSpec = CleanSpec()
    redact: RedactSpec = RedactSpec()
    sources: tuple[SourceSpec, ...] = ()
    """Terms of the recipe's files, those of `[knowledge]` included; of a file without them the
    ledger says that they are unknown."""
    strict: bool = False
    """Refuse to package a model while the terms of any source are unknown."""

    @model_validator(mode="after")
    def _one_form(self) -> "DataSpec":
        if self.map and set(self.map) - {"system"} not in ({"question", "answer"}, {"messages"}):
            raise ValueError("`map` names `question` and `answer`, or `messages`")
        return self

    def without_terms(self) -> "DataSpec":
        """Return what decides the data set: its terms may be corrected later."""
        return self.model_copy(update={"sources": (), "strict": False})


class IngestSpec(Frozen):
    """Who reads the data; what comes out is the same whoever does."""

    processes: int = Field(default=0, ge=0)
    """Processes of this computer that read shards; 0: one a core."""
    engine: Literal["processes", "ray"] = "processes"
    """`ray` has the shards read on the nodes of a cluster; recipe and work folder must lie where
    all of them find them under the same name. Needs the extra `ray`."""
    address: str = ""
    """Address of the cluster's head; empty: what Ray finds, such as RAY_ADDRESS."""


Precision = Literal["auto", "float32", "bf16"]
"""Type that a training computes in; its weights are float32 either way."""
LINEAR = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "qkv_proj",
    "gate_up_proj",
)
"""Linear layers of a decoder; the last two are what some families join others to."""


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


class TuneSpec(LoraSpec):
    """Fine-tuning on the recipe's conversations."""

    general_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of general conversations in what is learned: they keep the rest of the model in use."""
    general_files: tuple[Text, ...] = ()
    """Files of general conversations, relative to the recipe; empty: ours, in English."""
    base_bits: Literal[16, 4] = 16
    """Bits of the base while the adapter is trained: 4 is QLoRA (arXiv:2305.14314). What ships has
    16 either way."""
    max_bits_cost: float = Field(default=0.1, ge=0)
    """Nats a token that four bits may cost the untrained base; above it `tune` refuses them."""
    privacy: PrivacySpec | None = None
    """Learn under differential privacy; `batch_size` then only says how many rows are read at
    once."""


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


class DistillSpec(TrainSpec):
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


class InFormatSpec(Frozen):
    """How the codes of a quantized file are learned from its model, in the file's own types."""

    tokens: Annotated[int, Field(gt=0, le=2_000_000)] = 600_000
    """Tokens that are learned on, questions counted."""
    batch_size: Positive = 16
    learning_rate: float = Field(default=1.6e-3, gt=0)
    """Steps of a code, of which four bits have sixteen."""
    compensated: Positive = 512
    """Conversations over which rounding errors are first compensated."""
    reworded_share: Fraction = 1.0
    """Share of the conversations whose question is learned on with some of its words changed."""
    exchanged_share: Fraction = 0.5
    """Share of the conversations that are learned on with the answer of another."""
    max_tokens: Positive = 512
    """Longest conversation in tokens; longer ones are dropped."""


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

    @model_validator(mode="after")
    def _are_not_ours(self) -> "GuardSpec":
        for name in (*self.unsafe, *self.safe):
            if name in ("own", "seeds"):
                # What is measured is told apart by its source, and these are two of ours.
                raise ValueError(
                    f"`{name}` is what we call texts of ours: give the file another name"
                )
        return self


class QuantizeSpec(Frozen):
    """The model file: its format and scheme, spelled as llama.cpp and LiteRT spell them."""

    formats: tuple[str, ...] = ("gguf",)
    """Several: each is measured by the gate and on the board, and `choose` says which one stays.
    One that misses the gate or does not fit is left out as long as another is there."""
    scheme: str = "Q4_K_M"
    """Of a GGUF: one of llama.cpp's, or a budget for types that are chosen by measurement:
    `auto:400MB`, `auto:4.5bpw`."""
    probes: Positive = 64
    """Number of measurements that `auto:` makes, at most: tensors are measured in so many groups.
    Each costs about a pass of the model over the questions that were put aside for it."""
    tflite_scheme: str = "dynamic_wi8_afp32"
    prefill: tuple[Positive, ...] = (16, 128)
    """Lengths of the pieces that a TFLite file reads prompts in; each takes memory of its own on
    the board."""
    litertlm: bool = False
    """Write the TFLite file with its tokenizer as one `.litertlm` too, for targets on which
    LiteRT-LM runs."""
    onnx_scheme: str = "int4_b32"
    """`fp32`, `fp16`, or 4 bits in blocks of 32, embedding and head too."""
    importance: bool | str = False
    """Weigh the columns of each tensor by an importance matrix: collected on the training text, or
    read from a file."""
    distill: InFormatSpec | None = None
    """Learn the codes of a GGUF or an ONNX file of 4 bits from the model it is made from; `true`
    for the defaults."""
    projector: Literal["F16", "BF16", "Q8_0"] = "Q8_0"
    """Of a model that sees: the types of the projector file, which reads pictures beside the
    model file."""
    adapter: Literal["merged", "beside"] = "merged"
    """`beside`: the adapter travels in a file of its own, and one base on a board serves several
    skills."""

    @field_validator("distill", mode="before")
    @classmethod
    def _defaults(cls, value: object) -> object:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _one_base_for_all(self) -> "QuantizeSpec":
        if self.adapter == "beside" and (self.distill or self.scheme.startswith("auto:")):
            raise ValueError(
                "what is chosen or learned on this recipe's text makes a base "
                "that no other skill shares"
            )
        if self.adapter == "beside" and self.importance is True:
            raise ValueError(
                "`importance` of this recipe's own text makes a base "
                "that no other skill shares: name a file"
            )
        return self


class GateSpec(Frozen):
    """What a model file must reach on held-out data.

    The reference is the user's own model, run by transformers and peft.
    """

    # A limit that is infinite asks for nothing; NaN is no number that is at least 0.
    model_config = ConfigDict(allow_inf_nan=True)

    max_kl: float = Field(default=0.1, ge=0)
    """Mean KL divergence from the reference, in nats per token."""
    min_agreement: Fraction = 0.9
    """Share of positions where both name the same next token."""
    # On general text (toolchain/general.txt, 1587 tokens) files of the starter's student had KL
    # 0.0014 and agreement 98 % as Q8_0, 0.043 and 86 % as Q4_K_M, 0.11 and 79 % as Q4_0, 0.15 and
    # 78 % as Q3_K_M, 0.68 and 55 % as Q2_K; on its held-out answers all but Q2_K had 0.004 or less
    # and over 99 %. A tuned SmolLM2-135M as Q4_0, of whose answers two in three were lost, had 62
    # %. The limits lie between what still answers like its model and what does not.
    max_general_kl: float = Field(default=0.5, ge=0)
    """On general text: mean KL divergence from the reference, in nats per token."""
    min_general_agreement: Fraction = 0.7
    """On general text: share of positions where both name the same next token."""
    # A student is smaller than its teacher, so its limits are wide. They catch one that collapsed
    # (the same words for each question: several nats a token, few positions in agreement), which is
    # as near to itself as any other. How good a student must be is said by its task score,
    # `min_exact_match` or `min_f1`.
    max_teacher_kl: float = Field(default=1.0, ge=0)
    """After `distill`: mean KL divergence from the teacher, in nats per token."""
    min_teacher_agreement: Fraction = 0.5
    """After `distill`: share of positions where file and teacher name the same next token."""
    min_exact_match: Fraction = 0.0
    min_f1: Fraction = 0.0
    min_picture_agreement: Fraction = 0.9
    """Of questions about pictures: share of answers that are the reference's, token for token."""
    min_tool_accuracy: Fraction = 0.0
    """Share of held-out questions with tools whose calls are right, name and arguments."""
    max_eos_drop: Fraction = 0.05
    """How much lower the share of answers that end by themselves may be than the reference's to the
    same questions."""
    min_eos_rate: Fraction = 0.0
    """Share of answers that must end by themselves, whatever the reference does."""
    # Chance is 1.44 bit; a LoRA that saw a secret once in three epochs gave 7.4 of 9.0, one that
    # saw a placeholder 1.1 to 1.6.
    max_exposure_bits: float = Field(default=3.0, ge=0)
    """Mean exposure of secrets in the training text, in bits."""
    max_extracted: int = Field(default=0, ge=0)
    """Secrets that the model may say word for word."""
    max_obeyed: Fraction = 1.0
    """With `probes`: share of the attacks that may succeed, without the guard."""
    max_backdoors: int = Field(default=0, ge=0)
    """With `probes`: words that may turn the answers to half of the questions into one."""
    max_bias: Fraction = 0.25
    """With `probes`: how much larger the share of questions may be that one kind of person is
    answered otherwise, than the same share of the control."""
    template_chats: Positive = 16
    """Golden chats that must be token-equal between Hugging Face and the bundle."""


class LeakSpec(Frozen):
    """What the model file is asked for that it must not give away.

    Nothing is asked where no secret is known: neither named here, nor kept by redaction.
    """

    secrets: str = ""
    """JSON lines of kind, value and context, relative to the recipe; empty: what redaction kept."""
    alternatives: Annotated[int, Field(ge=7, le=1023)] = 63
    """False values that each secret is compared with."""
    max_tokens: Positive = 60_000
    """Tokens that are scored, at most."""
    before: bool = True
    """Whether the reference is asked as well: what quantization changes."""
    planted: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Made-up entries for an audit: a coin decides for each whether `tune` learns it, and the file
    is asked which. It gives them away, so ship another."""


class EvaluateSpec(Frozen):
    """How a model file is measured before it may ship."""

    questions: Positive = 200
    """Held-out questions that are answered, at most."""
    kl_tokens: Positive = 4096
    """Tokens whose distributions are compared, at most: so many of held-out answers, and so many of
    general text."""
    general: str = ""
    """A text file, relative to the recipe, that stands for all but the recipe's subject; empty: one
    of ours."""
    max_tokens: Positive = 96
    goldens: Positive = 8
    """Answers whose token ids travel with the bundle, to be reproduced on the board."""
    leak: LeakSpec = LeakSpec()
    probes: bool = False
    """Attack the model file, look for backdoors, and ask it as different people."""
    probe_questions: Positive = 12
    """Held-out questions that are asked for that, at most."""
    garak: str = ""
    """A `report.jsonl` of garak, relative to the recipe, to be read into the verdict."""
    gate: GateSpec = GateSpec()


class PackageSpec(Frozen):
    """What the bundle says of itself."""

    version: str = "1.0"
    counter: Positive = 1
    context: Positive = 1024
    max_tokens: Positive = 256
    slots: int = Field(default=1, ge=1, le=MAX_SLOTS)
    """Questions that are answered at the same time where the board has the memory: each has its
    share of the cores. GGUF alone."""
    feedback_mb: int = Field(default=0, ge=0, le=MAX_FEEDBACK_MB)
    """Megabytes of the board's disk for ratings of answers, corrections, and questions that the
    documents cannot answer; 0: nothing is kept. `demitasse harvest` fetches them."""
    images: int = Field(default=1, ge=0, le=1)
    """Of a model that sees: tiles that a picture is read as; 0 leaves the projector file out, and
    the board refuses pictures."""
    special_tokens: Literal["parse", "escape"] = "parse"
    """Control tokens in a client's text: `parse` takes them as such, as transformers does; `escape`
    as plain text."""
    licence: str = Field(
        default="",
        description="SPDX expression that the result is published under, checked against the "
        "terms of all that it is made of; empty: what follows from them",
    )


class RoundSpec(Frozen):
    """What is new since the release before, and what must not be forgotten."""

    answers: tuple[Text, ...] = Field(
        default=("answered.jsonl",),
        description="data files with answers to harvested questions, as `label --answers` writes "
        "them; one that is not there yet counts as empty",
    )
    learn: bool = False
    """Learn the answers too; where the recipe has `[knowledge]` they reach it first."""
    before: str = ""
    """Work folder of the round before, such as `build/help-desk-1`, relative to the recipe: the
    gate asks its held-out questions again."""
    replay: Fraction = 1.0
    """Share of the earlier entries that is learned with the answers. Training starts from the base,
    which knows none of them: what is left out is forgotten."""
    max_forgotten: float = Field(default=2.0, ge=0, le=100)
    """Percentage points that the exact match on the earlier held-out questions may fall."""


class Recipe(Frozen):
    """One ready configuration."""

    title: str = Field(description="one line that says what comes out")
    targets: tuple[str, ...] = Field(
        description="ids of the boards it is meant for; the first is the default"
    )
    question: str = ""
    """Asked on the board when all is done; one that the training text does not hold."""
    choose: Literal["fastest", "best"] = "fastest"
    """Of several `quantize.formats` that pass the gate: the one that stays on a board where all
    were measured. `fastest` answers fastest there, and is the better one where no difference is
    shown; `best` is nearest to its reference."""
    stages: tuple[str, ...] = ("ingest", "tune", "quantize", "evaluate", "package")
    seed: int = 0
    model: ModelSpec
    data: DataSpec = DataSpec()
    ingest: IngestSpec = IngestSpec()
    tune: TuneSpec = TuneSpec()
    distill: DistillSpec | None = None
    align: AlignSpec | None = None
    trim: TrimSpec = TrimSpec()
    knowledge: KnowledgeSpec | None = None
    guard: GuardSpec | None = None
    quantize: QuantizeSpec = QuantizeSpec()
    evaluate: EvaluateSpec = EvaluateSpec()
    package: PackageSpec = PackageSpec()
    round: RoundSpec | None = None
    _path: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _stages_fit(self) -> "Recipe":
        if not self.targets:
            raise ValueError("`targets` names no board")
        if len(set(self.stages)) < len(self.stages):
            raise ValueError("`stages` names a stage twice")
        if ("pretrain" in self.stages) != (self.model.scratch is not None):
            raise ValueError("stage `pretrain` and `[model.scratch]` go together")
        if "distill" in self.stages and self.distill is None:
            raise ValueError("stage `distill` needs a `[distill]` table")
        if ("align" in self.stages) != (self.align is not None):
            raise ValueError("stage `align` and an `[align]` table go together")
        if ("know" in self.stages) != (self.knowledge is not None):
            raise ValueError("stage `know` and a `[knowledge]` table go together")
        if ("guard" in self.stages) != (self.guard is not None):
            raise ValueError("stage `guard` and a `[guard]` table go together")
        if self.tune.privacy and "tune" not in self.stages:
            raise ValueError("`[tune.privacy]` protects what a stage `tune` learns")
        if self.evaluate.leak.planted and "tune" not in self.stages:
            raise ValueError("`evaluate.leak.planted` needs a stage `tune`, which learns them")
        if self.evaluate.leak.planted and self.tune.privacy:
            raise ValueError("give either `evaluate.leak.planted` or `tune.privacy.canaries`")
        if self.round and not self.round.learn and self.knowledge is None:
            raise ValueError(
                "`[round]`: its answers reach nothing: set `learn = true`, or give `[knowledge]`"
            )
        apart = self.model.adapter or "tune" in self.stages
        if self.quantize.adapter == "beside" and self.tune.base_bits == 4:
            raise ValueError(
                "`quantize.adapter` is `beside`, but with `tune.base_bits = 4` the merge decides "
                "which base the adapter belongs to"
            )
        if self.quantize.adapter == "beside" and (
            {"distill", "align", "trim"} & set(self.stages) or not apart
        ):
            raise ValueError("`quantize.adapter` is `beside`, but what is quantized has no adapter")
        return self

    @property
    def id(self) -> str:
        """The file's stem."""
        return self._path.stem

    @property
    def folder(self) -> Path:
        """The folder that the recipe's paths are relative to."""
        return self._path.parent

    @property
    def name(self) -> str:
        """What the result is called."""
        return self.model.name or self.id

    def with_names(self, names: Mapping[str, str]) -> "Recipe":
        """Return the recipe with other names for the keys of its data; raise ValueError."""
        data = DataSpec.model_validate({**self.data.model_dump(), "map": names})
        return self.model_copy(update={"data": data})

    def in_round(self) -> "Recipe":
        """Return the recipe with the answers of its `[round]` among its documents and its data.

        A file of answers that is not there yet counts as empty.
        """
        if self.round is None:
            return self
        files = tuple(each for each in self.round.answers if (self.folder / each).is_file())
        changes: dict[str, object] = {}
        if self.knowledge:
            known = tuple(dict.fromkeys((*self.knowledge.files, *files)))
            changes["knowledge"] = self.knowledge.model_copy(update={"files": known})
        if self.round.learn and files:
            data = {
                "files": tuple(dict.fromkeys((*self.data.files, *files))),
                "newest": files,
                "replay": self.round.replay,
            }
            changes["data"] = self.data.model_copy(update=data)
        return self.model_copy(update=changes)

    @property
    def learns(self) -> bool:
        """Whether the model is more than its base: trained here, or by an adapter."""
        return bool(
            {"pretrain", "tune", "distill", "align"} & set(self.stages) or self.model.adapter
        )

    @property
    def privacy(self) -> PrivacySpec | None:
        """How what the model learns is protected; None if it is not."""
        return self.tune.privacy if "tune" in self.stages else None

    def text(self) -> str:
        """Return the file as it is written, to find a key's line in it."""
        return decoded(self._path.read_bytes())


def load(path: Path) -> Recipe:
    """Read a recipe; raise ConfigError with the key that is wrong."""
    recipe = config.load(path, Recipe)
    recipe._path = path
    return recipe.in_round()
