"""Chooses the type of each tensor under a budget: `auto:400MB`, `auto:4.5bpw`.

The cost of a type for a tensor is predicted as its squared rounding error, with columns weighed by
importance, times the tensor's sensitivity. The sensitivity is the KL to the teacher per unit of
that error, measured once with that tensor alone rounded to PROBE (as in arXiv:2411.17525, where the
loss of a quantized model is a sum of layers' relative errors, each times a constant of the layer).
The sum over tensors is minimised. The result and the named schemes that fit are measured, and the
ships.

A deep model has too many tensors to probe one by one (211 in 30 layers). Then equal tensors of
neighbouring layers form a group: they are rounded together and share one sensitivity.
`quantize.probes` bounds the number of groups, and so the time. It is not a time limit, so that the
same recipe gives the same file on every computer.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Figures
from toolchain.config import closest
from toolchain.errors import ConfigError
from toolchain.models.architecture import Model, Source
from toolchain.models.lora import Lora
from toolchain.opening import size_bytes
from toolchain.progress import Reporter
from toolchain.quantize.learned import knapsack, network
from toolchain.quantize.learned.knapsack import Front
from toolchain.quantize.learned.network import Judge
from toolchain.tools import ggml
from toolchain.tools.ggml import Type

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PREFIX = "auto:"
CANDIDATES = (
    Type.Q2_K,
    Type.Q3_K,
    Type.IQ4_XS,
    Type.IQ4_NL,
    Type.Q4_0,
    Type.Q4_K,
    Type.Q5_0,
    Type.Q5_K,
    Type.Q6_K,
    Type.Q8_0,
)
PROBE = Type.Q4_0
RIVALS = 3
"""Number of named schemes that are measured too: the largest that fit."""
SHOWN = 16
"""Largest number of reported points of the front."""
MAX_TOKENS = 512
"""Longest conversation that models are compared on, without its opening."""
_BYTES = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_BITS = "bpw"
Kinds = Mapping[str, Type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Largest size of a file, in bytes or in bits per weight."""

    text: str
    amount: float
    unit: str

    @property
    def counts_file(self) -> bool:
        """Whether the whole file counts, with its header, and not its tensors alone."""
        return self.unit != _BITS

    def limit(self, parameters: int) -> int:
        """Return the largest bytes of the file; of its tensors for bits per weight."""
        if self.unit == _BITS:
            return int(self.amount * parameters / 8)
        return int(self.amount * _BYTES[self.unit])

    def describe(self, size_bytes: int, parameters: int) -> str:
        """Return a size in the budget's own unit."""
        if self.unit == _BITS:
            return f"{size_bytes * 8 / parameters:.2f}bpw"
        return f"{size_bytes / _BYTES[self.unit]:.2f}{self.unit}"


def parse(scheme: str) -> Budget | None:
    """Return the budget of a scheme, None for a named one; raise ConfigError for a bad amount."""
    if not scheme.startswith(PREFIX):
        return None

    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", scheme.removeprefix(PREFIX))
    units = [*_BYTES, _BITS]
    if not match:
        raise ConfigError(
            f"quantize: scheme `{scheme}`: not an amount",
            hint="such as `auto:400MB` or `auto:4.5bpw`",
        )
    if match[2] not in units:
        raise ConfigError(
            f"quantize: scheme `{scheme}`: unknown unit `{match[2]}`", hint=closest(match[2], units)
        )
    if not float(match[1]):
        raise ConfigError(
            f"quantize: scheme `{scheme}`: a budget of nothing",
            hint="such as `auto:400MB` or `auto:4.5bpw`",
        )

    return Budget(text=scheme, amount=float(match[1]), unit=match[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model whose types are to be chosen."""

    folder: Path
    model: Model
    lora: Lora | None
    importance: "Mapping[str, NDArray[np.float32]]"
    trials: Sequence[Mapping[str, Any]]
    """Conversations to compare on."""
    rivals: Mapping[str, Kinds]
    """Named schemes and the types that they give."""
    size_bytes: Callable[[Kinds], int]
    """Returns the bytes that count against the budget: of the file, or of its tensors."""
    probes: int
    """Largest number of measured groups; there is at least one for each kind of tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The types that ship, and the figures of their choice."""

    kinds: dict[str, Type]
    shipped: str
    """`auto`, or the named scheme that was better."""
    figures: Figures


def allocate(case: Case, budget: Budget, report: Reporter) -> Allocation:
    """Return the types with the least damage within the budget.

    Raises ConfigError for a budget that is too small for any types.
    """
    limit = budget.limit(case.model.parameters)
    matrices = [source for source in case.model.tensors if source.origin and len(source.shape) > 1]
    options = {source.name: _options(source) for source in matrices}
    _check_room(case, budget, limit, options)

    openings = [size_bytes(row["messages"][: row.get("opening", 0)]) for row in case.trials]
    trials = network.encoded(case.folder, case.trials, MAX_TOKENS + max(openings, default=0))
    teacher = network.load(case.folder, case.lora)
    judge = Judge(teacher, trials)
    damage = _damage(case, matrices, options, teacher, judge, report)

    sizes = [[_tensor_bytes(source, kind) for kind in options[source.name]] for source in matrices]
    front = knapsack.solve(sizes, [damage[source.name] for source in matrices])
    fixed = case.size_bytes(_smallest(case, options)) - int(front.sizes[0])
    candidates: dict[str, Kinds] = {"auto": _kinds(case, matrices, options, front, limit - fixed)}
    fitting = sorted(
        (name for name in case.rivals if case.size_bytes(case.rivals[name]) <= limit),
        key=lambda n: _size(case, n),
    )
    candidates |= {name: case.rivals[name] for name in fitting[-RIVALS:]}

    measured = {
        name: asdict(judge.compare(_with(case, matrices, kinds)))
        for name, kinds in candidates.items()
    }
    shipped = min(measured, key=lambda name: float(measured[name]["mean_kl"]))
    predicted = float(front.damages[front.within(limit - fixed)])
    compared = [
        {"scheme": name, "size_bytes": case.size_bytes(candidates[name]), **measured[name]}
        for name in candidates
    ]
    report.note(_describe(budget, shipped, compared))
    figures = {
        "shipped": shipped,
        "limit_bytes": limit,
        "predicted_kl": predicted,
        "compared": compared,
        "front": list(_shown(front, fixed)),
    }

    return Allocation(kinds=dict(candidates[shipped]), shipped=shipped, figures=figures)


def _size(case: Case, name: str) -> int:
    return case.size_bytes(case.rivals[name])


def _options(source: Source) -> list[Type]:
    """Return the types that a tensor's rows are whole blocks of."""
    fitting = [kind for kind in CANDIDATES if source.shape[-1] % ggml.block_size(kind) == 0]
    return fitting or [Type.F16]


def _tensor_bytes(source: Source, kind: Type) -> int:
    return source.weights // source.shape[-1] * ggml.row_bytes(kind, source.shape[-1])


def _vectors(case: Case, options: Mapping[str, Sequence[Type]]) -> dict[str, Type]:
    return {source.name: Type.F32 for source in case.model.tensors if source.name not in options}


def _smallest(case: Case, options: Mapping[str, Sequence[Type]]) -> dict[str, Type]:
    return _vectors(case, options) | {
        name: min(kinds, key=lambda kind: ggml.row_bytes(kind, 256))
        for name, kinds in options.items()
    }


def _check_room(
    case: Case, budget: Budget, limit: int, options: Mapping[str, Sequence[Type]]
) -> None:
    least = case.size_bytes(_smallest(case, options))
    if least > limit:
        smallest = budget.describe(least, case.model.parameters)
        problem = f"quantize: scheme `{budget.text}`: too small, the smallest types take {smallest}"
        raise ConfigError(problem, hint=f"`{PREFIX}{smallest}` is the least")


def group(names: Sequence[str], most: int) -> list[list[str]]:
    """Return tensors in groups that are probed together: one kind of tensor in neighbouring layers.

    There are at most `most` groups, but no fewer than kinds of tensors. If all names fit, each is a
    group of its own.
    """
    if len(names) <= most:
        return [[name] for name in names]

    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(re.sub(r"\d+", "*", name, count=1), []).append(name)

    repeated = [kind for kind in layers.values() if len(kind) > 1]
    single = len(layers) - len(repeated)
    bands = max(1, (most - single) // len(repeated)) if repeated else 1

    groups = []
    for kind in layers.values():
        count = min(bands, len(kind))
        edges = [round(len(kind) * band / count) for band in range(count + 1)]
        groups += [kind[begin:end] for begin, end in pairwise(edges)]

    return groups


def _damage(
    case: Case,
    matrices: Sequence[Source],
    options: Mapping[str, Sequence[Type]],
    teacher: Any,
    judge: Judge,
    report: Reporter,
) -> dict[str, list[float]]:
    """Return the predicted KL of each type for each tensor."""
    import copy

    # Measuring each tensor under each type takes as many times longer as there are types, and says
    # little more. For the eight matrices of the starter's student and Q2_K, Q3_K, Q4_K and Q6_K,
    # predicted ÷ measured was 0.56 to 1.33, half of them 0.86 to 1.13, over KLs of 5e-6 to 0.05.

    sources = {source.name: source for source in matrices}
    groups = group(list(sources), case.probes)
    if len(groups) < len(sources):
        report.note(f"measure damage: {len(sources)} tensors in {len(groups)} groups")

    damage = {}
    probed = copy.deepcopy(teacher)
    for number, names in enumerate(groups, 1):
        errors = {}
        probe_error = 0.0
        for name in names:
            rows = network.rows_of(teacher, sources[name].origin)
            weigh = case.importance.get(name)
            errors[name] = {kind: _error(rows, kind, weigh) for kind in options[name]}
            probe = PROBE if PROBE in options[name] else options[name][0]
            network.put(probed, sources[name].origin, probe, ggml.pack(probe, rows, weigh))
            probe_error += errors[name][probe]

        kl = judge.compare(probed).mean_kl
        sensitivity = kl / probe_error if probe_error else 0.0

        for name in names:
            rows = network.rows_of(teacher, sources[name].origin)
            network.put(probed, sources[name].origin, Type.F32, _bytes(rows))
            damage[name] = [sensitivity * error for error in errors[name].values()]

        report.step("measure damage", number, len(groups), "groups")

    return damage


def _bytes(rows: "NDArray[np.float32]") -> "NDArray[np.uint8]":
    import numpy as np

    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8)


def _error(rows: "NDArray[np.float32]", kind: Type, weigh: "NDArray[np.float32] | None") -> float:
    import numpy as np

    difference = ggml.dequantize_rows(kind, ggml.pack(kind, rows, weigh), rows.shape[1]) - rows
    squares = np.square(difference, dtype=np.float64)
    return float((squares * weigh).sum() if weigh is not None else squares.sum())


def _kinds(
    case: Case,
    matrices: Sequence[Source],
    options: Mapping[str, Sequence[Type]],
    front: Front,
    room: int,
) -> dict[str, Type]:
    picks = front.picks[front.within(room)]
    chosen = {
        source.name: options[source.name][pick]
        for source, pick in zip(matrices, picks, strict=True)
    }
    return _vectors(case, options) | chosen


def _with(case: Case, matrices: Sequence[Source], kinds: Kinds) -> Any:
    student = network.load(case.folder, case.lora)
    for source in matrices:
        packed = ggml.pack(
            kinds[source.name],
            network.rows_of(student, source.origin),
            case.importance.get(source.name),
        )
        network.put(student, source.origin, kinds[source.name], packed)
    return student


def _shown(front: Front, fixed: int) -> Iterator[Figures]:
    count = len(front.sizes)
    for point in sorted({round(step * (count - 1) / max(SHOWN - 1, 1)) for step in range(SHOWN)}):
        yield {
            "size_bytes": fixed + int(front.sizes[point]),
            "predicted_kl": float(front.damages[point]),
        }


def _describe(budget: Budget, shipped: str, compared: Sequence[Figures]) -> str:
    each = ", ".join(
        f"{one['scheme']} {one['mean_kl']:.5f} at {one['size_bytes'] / 1e6:.2f} MB"
        for one in compared
    )
    return f"{budget.text}: KL {each}; {shipped} ships"
