"""Decides the type of each tensor of a model file, and the bytes that are computed in advance.

Names and shapes decide a named scheme (`schemes`), measurements a budget (`budget`). The codes of
either may then be learned (`in_format`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Figures
from toolchain.errors import ArtifactError
from toolchain.models.architecture import Model
from toolchain.models.gguf_file import Metadata, file_bytes
from toolchain.models.lora import Lora
from toolchain.progress import Reporter
from toolchain.quantize.gguf.schemes import SCHEMES, Choice, Layout, choose_types, find_scheme
from toolchain.quantize.learned.budget import Budget, Case, Kinds, allocate, parse
from toolchain.quantize.learned.importance import Matrix
from toolchain.recipe import QuantizeSpec
from toolchain.tools import ggml
from toolchain.tools.ggml import Type

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Conversations = Sequence[Mapping[str, Any]]
_LABELS = {Type.Q4_K: "Q4_K_M", Type.Q5_K: "Q5_K_M", Type.Q3_K: "Q3_K_M"}
"""Schemes that are not named after the type of most of their weights."""
_UNNAMED = {Type.Q4_1: 3, Type.Q5_0: 8, Type.Q5_1: 9}
"""`general.file_type` of types without a scheme of their name (llama.h, `llama_ftype`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Input of the decision about types."""

    folder: Path
    model: Model
    lora: Lora | None
    matrix: Matrix | None
    spec: QuantizeSpec
    lessons: Conversations
    """Conversations to learn on."""
    trials: Conversations
    """Conversations to compare on."""
    seed: int
    metadata: Metadata
    """Metadata of the file, to know its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Type of each tensor, and bytes that are ready."""

    file_type: int
    """`general.file_type`."""
    nominal_bpw: float
    """Bits per weight of the type that the file is named after."""
    choices: Mapping[str, Choice]
    ready: "Mapping[str, NDArray[np.uint8]]"
    """Bytes of tensors that are already computed."""
    figures: Figures

    @property
    def kinds(self) -> dict[str, Type]:
        """The type of each tensor."""
        return {name: choice.type for name, choice in self.choices.items()}


def check(spec: QuantizeSpec) -> None:
    """Raise ConfigError for an unknown scheme and a malformed budget."""
    if parse(spec.scheme) is None:
        find_scheme(spec.scheme)


def named(scheme: str, model: Model, *, weighed: bool) -> dict[str, Choice]:
    """Return a named scheme's type of each tensor; empty for a budget.

    Raises ArtifactError if no tensor fits the scheme.
    """
    if parse(scheme):
        return {}
    layers, heads, kv_heads = (model.sizes[name] for name in ("layers", "heads", "kv_heads"))
    wide = layers == 80 and (
        model.family.name == "qwen2" or (model.family.name == "llama" and heads != kv_heads)
    )
    layout = Layout(
        layers=layers, tied=model.tied, group=heads // kv_heads, wide_groups=wide, weighed=weighed
    )
    return choose_types(scheme, {source.name: source.shape for source in model.tensors}, layout)


def decide(question: Question, resume: Path, report: Reporter) -> Decision:
    """Return the types of the tensors and the learned bytes; raise ConfigError if impossible."""
    spec = question.spec
    budget = parse(question.spec.scheme)
    if budget:
        decided = _within(budget, question, report)
    else:
        scheme = find_scheme(spec.scheme)
        choices = named(spec.scheme, question.model, weighed=question.matrix is not None)
        decided = Decision(
            file_type=scheme.file_type,
            nominal_bpw=scheme.nominal_bpw,
            choices=choices,
            ready={},
            figures={},
        )

    return _learned(decided, question, resume, report) if spec.distill else decided


def _within(budget: Budget, question: Question, report: Reporter) -> Decision:
    model = question.model
    matrix = question.matrix
    case = Case(
        folder=question.folder,
        model=model,
        lora=question.lora,
        importance=matrix.weights() if matrix else {},
        trials=question.trials,
        rivals=_rivals(model, weighed=matrix is not None),
        size_bytes=lambda kinds: _bytes(budget, question, kinds),
        probes=question.spec.probes,
    )
    allocation = allocate(case, budget, report)
    main = _main_type(allocation.kinds, model)
    label = _LABELS.get(main, main.name)

    return Decision(
        file_type=_UNNAMED[main] if main in _UNNAMED else find_scheme(label).file_type,
        nominal_bpw=ggml.row_bytes(main, 256) * 8 / 256,
        choices={
            name: Choice(type=kind, requested=kind) for name, kind in allocation.kinds.items()
        },
        ready={},
        figures={"allocation": allocation.figures},
    )


def _rivals(model: Model, *, weighed: bool) -> dict[str, Kinds]:
    kinds: dict[str, Kinds] = {}
    for name in SCHEMES:
        try:
            kinds[name] = {
                tensor: choice.type
                for tensor, choice in named(name, model, weighed=weighed).items()
            }
        except ArtifactError:  # no row of this model is whole blocks of the scheme's type
            continue
    return kinds


def _bytes(budget: Budget, question: Question, kinds: Kinds) -> int:
    """Return the bytes that count: of the tensors for a budget in bits per weight, else all."""
    tensors = {source.name: (kinds[source.name], source.shape) for source in question.model.tensors}
    whole = file_bytes(question.metadata, tensors)
    return whole if budget.counts_file else whole - file_bytes(question.metadata, {})


def _main_type(kinds: Kinds, model: Model) -> Type:
    """Return the type that most weights have."""
    sums: dict[Type, int] = {}
    for source in model.tensors:
        if len(source.shape) > 1:
            sums[kinds[source.name]] = sums.get(kinds[source.name], 0) + source.weights
    return max(sums, key=lambda kind: sums[kind])


def _learned(decided: Decision, question: Question, resume: Path, report: Reporter) -> Decision:
    from toolchain.quantize.learned.in_format import Lesson, learn

    spec = question.spec.distill
    matrix = question.matrix
    assert spec
    lesson = Lesson(
        folder=question.folder,
        model=question.model,
        lora=question.lora,
        kinds=decided.kinds,
        importance=matrix.weights() if matrix else {},
        lessons=question.lessons,
        trials=question.trials,
        spec=spec,
        seed=question.seed,
    )
    learned, figures = learn(lesson, resume, report)

    return Decision(
        file_type=decided.file_type,
        nominal_bpw=decided.nominal_bpw,
        choices=decided.choices,
        ready=learned.in_file_order(question.model) if learned else {},
        figures=decided.figures | {"distillation": figures},
    )
