"""Which type each tensor of a model file gets, and which bytes are made before it is written: by name, by budget, by learning.

A named scheme is decided from names and shapes (`gguf_schemes`), a budget by measurement (`budget`); the codes of either may then
be learned (`in_format`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Figures
from toolchain.errors import ArtifactError, ConfigError
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
"""Schemes whose name is not that of the type that they are mostly of."""
_UNNAMED = {Type.Q4_1: 3, Type.Q5_0: 8, Type.Q5_1: 9}
"""`general.file_type` of types that no scheme here is named after (llama.h, `llama_ftype`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is known when the types are decided."""

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
    """Of the file, for its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What each tensor is stored as."""

    file_type: int
    """`general.file_type`."""
    nominal_bpw: float
    """Bits per weight of the type that most of the file is named after."""
    choices: Mapping[str, Choice]
    ready: "Mapping[str, NDArray[np.uint8]]"
    """Bytes of tensors that are made already."""
    figures: Figures

    @property
    def kinds(self) -> dict[str, Type]:
        """The type of each tensor."""
        return {name: choice.type for name, choice in self.choices.items()}


def check(spec: QuantizeSpec) -> None:
    """Raise ConfigError for a scheme that does not exist and a budget that is none."""
    if parse(spec.scheme) is None:
        find_scheme(spec.scheme)


def named(scheme: str, model: Model, *, weighed: bool) -> dict[str, Choice]:
    """Return what a scheme gives each tensor, nothing for a budget; raise ArtifactError where no tensor fits the scheme."""
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
    """Return the types of the tensors and the bytes that were learned; raise ConfigError for what cannot be had."""
    spec, budget = question.spec, parse(question.spec.scheme)
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
    model, matrix = question.model, question.matrix
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
        choices={name: Choice(type=kind, wanted=kind) for name, kind in allocation.kinds.items()},
        ready={},
        figures={"allocation": allocation.figures},
    )


def _rivals(model: Model, *, weighed: bool) -> dict[str, Kinds]:
    found: dict[str, Kinds] = {}
    for name in SCHEMES:
        try:
            found[name] = {
                tensor: choice.type
                for tensor, choice in named(name, model, weighed=weighed).items()
            }
        except ArtifactError:  # no row of this model is whole blocks of the scheme's type
            continue
    return found


def _bytes(budget: Budget, question: Question, kinds: Kinds) -> int:
    """Return what counts against the budget: tensors where it is in bits per weight, else the file."""
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

    spec, matrix = question.spec.distill, question.matrix
    assert spec
    if not question.lessons:
        raise ConfigError(
            "quantize: distill: there are no conversations to learn on",
            hint="stage `ingest` gives them",
        )
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
    ready, figures = learn(lesson, resume, report)
    return Decision(
        file_type=decided.file_type,
        nominal_bpw=decided.nominal_bpw,
        choices=decided.choices,
        ready=ready,
        figures=decided.figures | {"distillation": figures},
    )
