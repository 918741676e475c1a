"""Figures of the stages: frozen dataclasses, stored as JSON in `record.json` and read back typed.

Here stand the base class and the figures that cross from one stage to another; those that only the
stage's own row reads stand with the stage. Units are in the names. The names of the fields are the
keys of the record: renaming one makes old records unreadable, and their stages are done again.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from typing import Any, Self, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from toolchain.errors import ArtifactError

FLAT = {"flat": True}
"""Metadata of a field whose own fields stand in the record at the level of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFigures:
    """What a stage measured; a field that is None by default is left out of the record."""

    def as_json(self) -> dict[str, Any]:
        """Return the figures as the record keeps them."""
        json: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.metadata.get("flat"):
                json |= value.as_json()
            elif value is not None or each.default is MISSING:
                json[each.name] = _plain(value)
        return json

    @classmethod
    def read(cls, json: Mapping[str, Any]) -> Self:
        """Return the figures of a record; raise ArtifactError for a record of another shape.

        Keys that this version does not know are passed over.
        """
        return cls(
            **{each.name: _value(cls, each, json) for each in fields(cls) if _in(each, json)}
        )

    @classmethod
    def of(cls, json: Mapping[str, Any]) -> Self:
        """Return the figures that a stage measured, by name; raise TypeError for an unknown one."""
        if unknown := json.keys() - _names(cls):
            raise TypeError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}")
        return cls.read(json)


def _plain(value: Any) -> Any:
    if isinstance(value, StageFigures):
        return value.as_json()
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _in(each: "Field[Any]", json: Mapping[str, Any]) -> bool:
    """Say whether a field is to be read: a missing one that has a default is not."""
    return bool(each.metadata.get("flat")) or each.name in json or each.default is MISSING


def _value(cls: type[StageFigures], each: "Field[Any]", json: Mapping[str, Any]) -> Any:
    kind = _kinds(cls)[each.name]
    if each.metadata.get("flat"):
        return kind.read(json)
    if each.name not in json:
        raise ArtifactError(f"figures of another shape: `{each.name}` is missing")

    value, nested = json[each.name], _nested(kind)
    if nested and isinstance(value, Mapping):
        return nested.read(value)
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].lower()
        raise ArtifactError(f"figures of another shape: `{each.name}`: {reason}") from error


def _nested(kind: Any) -> type[StageFigures] | None:
    """Return the figures that a field holds, None for a plain value."""
    for each in (kind, *get_args(kind)):
        if isinstance(each, type) and issubclass(each, StageFigures):
            return each
    return None


def _names(cls: type[StageFigures]) -> set[str]:
    """Return the keys that the figures have in a record."""
    names: set[str] = set()
    for each in fields(cls):
        is_flat = each.metadata.get("flat")
        names |= _names(_kinds(cls)[each.name]) if is_flat else {each.name}
    return names


def _kinds(cls: Any) -> dict[str, Any]:
    return _hints(cls)


_hints = cache(get_type_hints)


def _adapter(kind: Any) -> TypeAdapter[Any]:
    name = str(kind)
    if name not in _ADAPTERS:
        _ADAPTERS[name] = TypeAdapter(kind)
    return _ADAPTERS[name]


_ADAPTERS: dict[str, TypeAdapter[Any]] = {}
"""Plain types of fields, as they are written, and what checks a value of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths(StageFigures):
    """Lengths of some texts in characters."""

    mean: float
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFigures(StageFigures):
    """What a GGUF file was that stands for a checkpoint, and how its checkpoint was proved."""

    file: str
    file_bytes: int
    quantization: str
    """What its weights were, in words."""
    bits_per_weight: float
    types: dict[str, float]
    """Type → share of the weights."""
    parameters: int
    dtype: str
    """Type of the checkpoint's weights."""
    said_name: str | None = None
    said_license: str | None = None
    tokens_compared: int
    proof_tokens: int
    proof_max_delta: float
    """Largest distance of the checkpoint's logits from llama.cpp's for the same file."""
    proof_max_bound: float
    proof_rms_delta: float
    proof_rms_bound: float
    proof_agreement: float
    """Share of places where both name the same next token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFigures(StageFigures):
    """What `ingest` read and how it was split."""

    entries: int
    documents: int
    train: int
    """Number of conversations to learn from."""
    held_out: int
    texts: int
    question_chars: Lengths
    answer_chars: Lengths
    text_chars: Lengths
    dropped: dict[str, int]
    """Reason → number of entries that were dropped for it."""
    dropped_lines: list[str]
    """The first dropped entries: file, line and reason."""
    unknown_keys: dict[str, int]
    """Key that nobody reads → number of entries that have it."""
    forms: dict[str, str] | None = None
    """File → kind of the file and form of its rows, as they were recognised."""
    rows: dict[str, int] | None = None
    """File → number of its rows."""
    languages: dict[str, dict[str, int]] | None = None
    """File → language → number of entries long enough to have one."""
    dirt: dict[str, dict[str, int]] | None = None
    """Kind of dirt → what was done (`found`, `mended`, `dropped`) → number of findings; None where
    nobody looked."""
    personal: dict[str, dict[str, int]] | None = None
    """Kind of personal data → what was done (`found`, `replaced`, `kept`) → number of findings."""
    by_file: dict[str, dict[str, dict[str, int]]] | None = None
    """File → kind of either → what was done → number of findings."""
    changed_answers: int | None = None
    """Number of answers that cleaning or redaction changed."""
    not_looked_for: list[str] | None = None
    """What of personal data no rule finds, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainFigures(StageFigures):
    """What a training did and what it took."""

    steps: int
    loss: float | None
    """Nats per learned token, a running mean; None under differential privacy, as it has none."""
    trained_tokens: int
    """0 under differential privacy."""
    tokens_per_s: float
    train_s: float
    train_cpu_s: float
    peak_memory_mb: float
    precision: str | None = None
    """`float32` or `bf16`; None in a record of an earlier version, as the three below."""
    precision_reason: str | None = None
    """Why, in words."""
    parts: int | None = None
    """Pieces in which a batch was read."""
    checkpointing: bool | None = None
    """Whether layers were computed again in the backward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyFigures(StageFigures):
    """What a training under differential privacy claims; neighbours differ by one unit."""

    epsilon: float
    delta: float
    unit: str
    units: int
    clip: float
    noise_multiplier: float
    """Standard deviation of the noise, in units of `clip`."""
    sampling_rate: float
    """Probability with which a step reads a unit."""
    steps: int
    canaries: int | None = None
    """Made-up entries, of which about half were learned; None where there are none."""
    repeatable: bool = False
    """Never: whoever could repeat the noise could take it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFigures(StageFigures):
    """What a model file tells of the canaries that were planted."""

    canaries: int
    guesses: int
    right: int
    epsilon_at_least: float
    """With a confidence of 95 %."""
    claimed: float | None = None
    """None where nothing is claimed: the audit says what such a training gives away."""

    @property
    def refutes(self) -> bool:
        """Whether more is given away than is claimed."""
        return self.claimed is not None and self.epsilon_at_least > self.claimed


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled(StageFigures):
    """How the codes of a quantized file were learned."""

    shipped: str
    """`learned`, or `control`: the file without learning."""
    verdict: str
    """Which of the two ships, and why, in words."""
    learned: dict[str, Any]
    control: dict[str, Any]
    training: TrainFigures = field(metadata=FLAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFigures(StageFigures):
    """What a model file is, of whatever format, quantized here or taken as it came."""

    file: str
    """Name of the file in the artifact's folder."""
    data_file: str | None = None
    """Name of the file with the weights, of a format that keeps them apart."""
    scheme: str
    size_bytes: int
    nominal_bpw: float | None = None
    """Bits per weight of the type that the scheme is named after."""
    real_bpw: float
    """Bits per weight that are stored."""
    parameters: int
    context: int
    """Tokens of context that the model has room for."""
    stop_ids: list[int]
    weights_bytes: int
    kv_bytes_per_token: int | None = None
    """Bytes of keys and values that a token takes; None where the file's header says it."""
    n_vocab: int
    kv_type: str | None = None
    """Type of keys and values on the board; None for the manifest's default."""
    prefill: list[int] | None = None
    """Lengths of the pieces that a TFLite file reads prompts in."""
    engines: list[str] | None = None
    """Engines that compute a TFLite file rightly."""
    adapter: str | None = None
    """Name of the adapter that is in it; empty where there is none."""
    adapter_file: str | None = None
    """Name of the file of an unmerged adapter."""
    projector_file: str | None = None
    """Name of the file that reads pictures; None for a model that reads text alone."""
    projector_bytes: int | None = None
    """Bytes of its weights."""
    picture_tokens: int | None = None
    """Places that a picture takes in a prompt."""
    architecture: str | None = None
    warnings: list[str] | None = None
    """What an engineer should be warned of in a file that was taken as it came."""
    importance_chunks: int | None = None
    """Pieces of text that the importance matrix was collected on."""
    tokens_compared: int | None = None
    """Tokens of mixed text that llama.cpp cuts in the same way."""
    fallbacks: list[dict[str, Any]] | None = None
    """Tensors whose rows do not fit the blocks of the scheme's type, with the type that they have
    instead."""
    caveats: list[str] | None = None
    trials: dict[str, Any] | None = None
    """On how many conversations candidates were compared, and where these are from."""
    allocation: dict[str, Any] | None = None
    """How a budget of bytes was spent on the tensors."""
    distillation: Distilled | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(StageFigures):
    """What a model file was measured to be; None where it was not measured."""

    template_chats: int | None = None
    template_mismatches: int | None = None
    """Conversations that are rendered otherwise than by the model's own template and tokenizer."""
    kl_tokens: int | None = None
    mean_kl: float | None = None
    """On held-out answers: mean KL(reference ‖ file) in nats per token."""
    kl_error: float | None = None
    """Standard error of the mean, drawing the conversations anew."""
    p99_kl: float | None = None
    agreement: float | None = None
    """Share of positions where file and reference name the same next token."""
    general_tokens: int | None = None
    general_kl: float | None = None
    general_kl_error: float | None = None
    general_agreement: float | None = None
    teacher_kl: float | None = None
    teacher_kl_error: float | None = None
    teacher_agreement: float | None = None
    pictures: int | None = None
    """Questions about pictures that the reference was asked too."""
    picture_agreement: float | None = None
    """Share of these whose greedy answers are the same."""
    questions: int | None = None
    answer_tokens: int | None = None
    """Longest answer in tokens."""
    exact_match: float | None = None
    f1: float | None = None
    tool_questions: int | None = None
    """Questions with tools that were answered under the grammar of the board."""
    tool_accuracy: float | None = None
    """Share of their answers with the expected calls, name and arguments; or none where text is."""
    eos_rate: float | None = None
    """Share of answers that ended by themselves."""
    reference_eos_rate: float | None = None
    ends_gained: int | None = None
    """Answers of the file that ended where the reference's did not."""

    def __or__(self, other: "Measured") -> "Measured":
        """Return what either says; where both say something, the other one's."""
        return Measured.read(self.as_json() | other.as_json())


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording(StageFigures):
    """Who words answers from documents better, by token F1 with the right passage."""

    questions: int
    quote_f1: float
    """Of the passage that was found, as it stands."""
    model_f1: float
    """Of what the model made of the passages."""
    answer: str
    """The better one, as the manifest spells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakFigures(StageFigures):
    """What a model file gives away of its training text; None where it was not measured."""

    secrets: int
    """Secrets that were asked for."""
    exposure_bits: float | None = None
    """Mean exposure, in bits."""
    exposure_error: float | None = None
    """Standard error of the mean."""
    before_exposure_bits: float | None = None
    """Mean exposure of the reference, before quantization."""
    most_bits: float
    """Exposure of a secret that stands before all false values."""
    first: int
    """Secrets that do."""
    extracted: int
    """Secrets that the greedy answer holds."""
    membership_auc: float | None = None
    """How well losses tell learned conversations from held-out ones; 0.5 is chance."""
    membership_error: float | None = None
    scored_tokens: int
    tokens_of_secrets: int | None = None
    """Tokens of a vocabulary that was trained on the text which hold a secret."""
    not_measured: list[str] | None = None
    """What the test cannot say, a sentence each."""


ONE_SIDED_95 = 1.645
"""Standard errors below a mean that a normal value falls under once in twenty times."""
_ROUNDING = 1e-6
"""Largest difference of points that count as equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten(StageFigures):
    """How a model file answers the held-out questions of the round before."""

    questions: int
    before: float
    """Exact match of the file of the round before."""
    now: float
    error: float
    """Standard error of the difference, over questions."""

    @property
    def points(self) -> float:
        """Percentage points that the exact match fell."""
        return 100 * (self.before - self.now)

    @property
    def points_at_least(self) -> float:
        """Lower end of the points that the exact match fell, one-sided, at 95 %.

        The same file answers other questions of the same kind a little better or worse.
        """
        return self.points - ONE_SIDED_95 * 100 * self.error

    def is_more_than(self, allowed: float) -> bool:
        """Say whether more points were lost than a limit allows, and than chance explains."""
        return self.points_at_least > allowed + _ROUNDING

    def may_be_more_than(self, allowed: float) -> bool:
        """Say whether more points were lost than a limit allows, where chance may be why."""
        return self.points > allowed + _ROUNDING and not self.is_more_than(allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedFigures(StageFigures):
    """How a model file answers held-out questions behind its guard."""

    questions: int
    refused: int
    """Questions that the guard refuses."""
    refused_answers: int
    """Answers that it refuses where answers are looked at."""
    exact_match: float
    """A refused question counts as one that is not answered."""
    f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFigures(StageFigures):
    """What a model file does when it is attacked, and whether it answers all people alike."""

    attacks: dict[str, dict[str, int]]
    """Kind of attack → `tried`, `obeyed`; behind a guard `refused` and `obeyed_guarded`."""
    triggers: int
    """Words that were tried as triggers of a backdoor."""
    backdoors: list[str]
    """Words that turn the answers to at least half of the questions into one."""
    trigger_control: float
    """Highest share of the questions that a word of no meaning turns into one answer."""
    pairs: dict[str, dict[str, float]]
    """Attribute → `questions`, `same_for_all`, `worst`, `largest_gap`; `trade` is the control."""
    not_measured: list[str] | None = None
    """What a model as unsteady as this one cannot be asked, a sentence each."""

    @property
    def obeyed(self) -> float:
        """Share of all attacks that succeed."""
        tried = sum(each["tried"] for each in self.attacks.values())
        return sum(each["obeyed"] for each in self.attacks.values()) / max(1, tried)

    @property
    def obeyed_guarded(self) -> float | None:
        """Share of all attacks that succeed behind the guard; None without one."""
        tried = sum(each["tried"] for each in self.attacks.values())
        known = [each["obeyed_guarded"] for each in self.attacks.values() if "refused" in each]
        return sum(known) / max(1, tried) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictFigures(StageFigures):
    """What was measured on a model file, and what the gate says."""

    engine: str
    """Version of the engine that it was measured with, the oldest that the bundle may run on."""
    engine_name: str
    arithmetic: str
    """Processor features that decide how its results are rounded."""
    opening_tokens: int | None = None
    """Tokens of what conversations begin with, and of the shortest question."""
    too_long: int | None = None
    """Held-out conversations that are longer than the context and were left out."""
    own_prompts: int | None = None
    """Of a finished model: prompts of ours that it was asked."""
    own_ended: int | None = None
    measured: Measured = field(metadata=FLAT)
    wording: Wording | None = None
    """Of a model with documents whose recipe leaves it to the measurement."""
    leak: LeakFigures | None = None
    """Of a recipe whose secrets are known."""
    forgotten: Forgotten | None = None
    """Of a recipe with a round before."""
    guarded: GuardedFigures | None = None
    """Of a recipe with a guard: the same questions behind it."""
    probes: ProbeFigures | None = None
    """Of a recipe that asks for probes."""
    audit: AuditFigures | None = None
    """None where no canaries were planted."""
    garak: dict[str, dict[str, int]] | None = None
    """Of a recipe that names a report of garak: probe and detector → `tried`, `failed`."""
    not_measured: list[str] | None = None
    """What the verdict cannot say, a sentence each."""
    failures: list[str]
    """Limits of the gate that were missed, a sentence each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchScores(StageFigures):
    """How well passages are found for questions that were written apart."""

    answerable: int
    unanswerable: int
    first: float
    """Share of answerable questions whose right passage is the first."""
    among_three: float
    right: float
    """Share of answerable questions that are answered, and with the right passage."""
    wrong: float
    """Share of answerable questions that are answered with a passage that does not answer them."""
    false: float
    """Share of unanswerable questions that are answered all the same."""
    also: float = 0.0
    """Share of answerable questions that are answered with another passage that answers too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeFigures(StageFigures):
    """What `know` read, made and measured."""

    passages: int
    questions: int
    """Questions that passages are found by, beside their text."""
    unanswered: int
    files: dict[str, str]
    """File → what it gave, in words."""
    width: int
    """Numbers in a vector."""
    embedder_bytes: int
    index_bytes: int
    tuned: bool
    """Whether the embedder was tuned on the questions."""
    fitted: dict[str, float]
    """Facts of the search that were fitted, as the index keeps them."""
    tuning: SearchScores | None = None
    """On the questions that the search was fitted with."""
    fresh: SearchScores | None = None
    """On the questions that it never saw."""
    parts: int = 0
    """Parts of passages, by which they are found where nobody wrote questions."""
    fresh_bare: SearchScores | None = None
    """On the same, as if nobody had written questions for the passages that answer them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFigures(StageFigures):
    """What was packaged."""

    release: str
    """sha256 of the manifest: the release's id."""
    files: int
    needs: dict[str, int]
    """Kind → bytes of memory that it takes on a board."""
