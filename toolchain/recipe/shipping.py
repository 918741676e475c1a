"""`[quantize]`, `[evaluate]`, `[package]`, `[round]`: what ships, and what judges it."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from device.manifest import MAX_FEEDBACK_MB, MAX_SLOTS
from toolchain.config import Frozen
from toolchain.recipe.kinds import Fraction, Positive, Text


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
    same questions, as far as chance does not explain it."""
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
