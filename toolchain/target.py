"""Target: what a kind of board is, as data with sources, and whether a model fits in its memory.

One board a file in `targets/`; the stem is its id. A figure that nobody has written down or
measured is absent, never guessed: each fact names its source, and a file with an unsourced one does
not load. `_mb` counts 2**20 bytes, as `free -m` does.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from device.manifest.memory import CUDA_BYTES, largest_context, prefix_cache_bytes
from toolchain import config
from toolchain.config import Frozen
from toolchain.errors import ConfigError
from toolchain.profiles import Profile

MB = 1 << 20
CARD_RESERVE_MB = CUDA_BYTES // MB
OS_RESERVE_MB = 512
"""Memory that is kept for the operating system if the target does not say it."""
# Above that of every headless Raspberry Pi and RK3588 in `targets/`.
VISIBLE_SHARE = 0.88
"""Share of its RAM that Linux shows on a board that nobody has measured."""
# The lowest share of the measured boards with 1 GB or more.
"""llama.cpp reserves its cache in steps of this many tokens (GGML_PAD of n_ctx in
llama-context.cpp)."""


class Cluster(Frozen):
    """Cores of one kind that share a clock."""

    core: str
    count: int
    max_mhz: int | None = None
    part: str = Field(default="", description="the `CPU part` of /proc/cpuinfo, such as `0xd08`")


class Memory(Frozen):
    """RAM, and how fast it is."""

    total_mb: int | None = None
    """As sold; of several sizes under one name the smallest."""
    usable_mb: int | None = None
    """As Linux shows it (MemTotal)."""
    os_reserve_mb: int | None = None
    """What an idle system keeps (MemTotal less MemAvailable)."""
    kind: str = ""
    bandwidth_theoretical_gb_s: float | None = None
    bandwidth_measured_gb_s: float | None = None
    bandwidth_measured_how: str = ""


class Image(Frozen):
    """An operating system that is usual on the board."""

    name: str
    kernel: str = ""
    glibc: str = ""
    python: str = ""
    cuda: str = ""
    page_size_kib: int | None = None


class Accelerator(Frozen):
    """What else computes on the board; the runtime uses the CPU unless the notes say otherwise."""

    kind: Literal["gpu", "npu"]
    name: str
    cuda_sm: str = ""
    """Compute capability, the oldest where a target stands for several cards."""
    dedicated: bool = False
    """Whether it has memory of its own: a model is then judged by that, which the machine says."""


class Threads(Frozen):
    """Threads to begin with; where absent, as many as there are cores of the fastest kind."""

    decode: int
    prefill: int


class Speed(Frozen):
    """Rates at which a board reads and multiplies weights, as measured in runs of llama.cpp."""

    threads: int
    decode_gb_s: float | None = None
    """Bytes of weights that are read in a second of decoding."""
    prefill_gweights_s: dict[str, float] = Field(default_factory=dict)
    """Weights that are multiplied with a token in a second of prefill, in 10**9, by the type that
    most of them have."""


class Target(Frozen):
    """A kind of board."""

    name: str = Field(description="what people call the board")
    vendor: str = ""
    family: str = Field(
        default="", description="boards that share commands and images, such as `raspberry-pi`"
    )
    soc: str = ""
    clusters: tuple[Cluster, ...] = ()
    features: tuple[str, ...] = ()
    """CPU features that every image of the board reports, spelled as /proc/cpuinfo does."""
    machine: Literal["aarch64", "x86_64"] = Field(description="`uname -m` of its 64-bit image")
    profile: Profile = Field(description="the runtime that is built for it")
    memory: Memory = Memory()
    page_size_kib: int | None = None
    os: tuple[Image, ...] = ()
    accelerator: Accelerator | None = None
    threads: Threads | None = None
    speed: tuple[Speed, ...] = ()
    engines: tuple[str, ...] = Field(description="engines that can run there, such as `llama.cpp`")
    storage: tuple[str, ...] = ()
    model_strings: tuple[str, ...] = ()
    """Device-tree models, without their ` Rev 1.4`; empty: any machine of this architecture."""
    notes: tuple[str, ...] = ()
    sources: dict[str, str] = Field(description="the table that says where each fact was read")
    """Dotted name of a fact, or of the table it is in, to where it was read.

    `owner/repo#7` is an issue on GitHub; `sbc-bench` is ThomasKaiser/sbc-bench, whose `results/`
    are logs of real boards.
    """
    _path: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _all_sourced(self) -> "Target":
        facts = {name for name, _ in self.facts()}
        for name in sorted(facts):
            if not any(key in self.sources for key in _with_parents(name)):
                raise ValueError(f"`{name}` has no source in `[sources]`")
        for key in sorted(self.sources):
            if not any(key in _with_parents(name) for name in facts):
                raise ValueError(f"`[sources]` names `{key}`, which is no fact of this file")
        return self

    def facts(self) -> Iterator[tuple[str, Any]]:
        """Yield each fact by its dotted name, such as `memory.total_mb` or `os.0.glibc`."""
        ours = {"name", "notes", "sources"}
        return _leaves(self.model_dump(exclude=ours, exclude_defaults=True), "")

    def source_of(self, name: str) -> str:
        """Return where a fact was read."""
        return next(
            self.sources[key] for key in reversed(_with_parents(name)) if key in self.sources
        )

    @property
    def id(self) -> str:
        """The file's stem."""
        return self._path.stem

    @property
    def has_card(self) -> bool:
        """Whether models lie in the memory of a graphics card."""
        return self.accelerator is not None and self.accelerator.dedicated

    @property
    def memory_mb(self) -> int | None:
        """Memory that Linux shows, at the least; None where the machine itself must say."""
        if self.memory.usable_mb is not None or self.memory.total_mb is None:
            return self.memory.usable_mb
        return int(self.memory.total_mb * VISIBLE_SHARE)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, tuple) and value and isinstance(value[0], dict):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        yield name, value
        return
    for key, item in value.items():
        yield from _leaves(item, f"{name}.{key}" if name else key)


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def folder() -> Path:
    """Return the folder of the target files: in an installed wheel, or in the repository."""
    shipped = Path(__file__).parent / "_shipped" / "targets"
    return shipped if shipped.is_dir() else Path(__file__).parent.parent / "targets"


def load(path: Path) -> Target:
    """Read one target file; raise ConfigError with the key that is wrong."""
    target = config.load(path, Target)
    target._path = path
    return target


def all_targets() -> list[Target]:
    """Return every target, by id."""
    return [load(path) for path in sorted(folder().glob("*.toml"))]


def find(target_id: str) -> Target:
    """Return the target of this id; raise ConfigError that names the nearest one.

    An id that leaves the memory out, such as `rpi-4b`, is the smallest of them.
    """
    paths = {path.stem: path for path in folder().glob("*.toml")}
    if sizes := [
        load(path)
        for stem, path in paths.items()
        if re.fullmatch(rf"{re.escape(target_id)}-\d+gb", stem)
    ]:
        return min(sizes, key=lambda target: target.memory.total_mb or 0)
    if target_id not in paths:
        raise ConfigError(
            f"unknown target `{target_id}`", hint=config.closest(target_id, list(paths))
        )
    return load(paths[target_id])


def recognise(model_string: str, machine: str, memory_mb: int) -> Target | None:
    """Return the target that a board is, from its device-tree model, `uname -m` and MemTotal in MB.

    Of boards that differ in RAM alone it is the smallest that has so much, or else the largest
    there is.
    """
    model = model_string.strip("\0 \n").partition(" Rev ")[0]
    # A card is used by a runtime that was built for it: nothing is packaged for it unasked.
    same_machine = [
        target for target in all_targets() if target.machine == machine and not target.has_card
    ]
    candidates = [target for target in same_machine if model in target.model_strings]
    candidates = candidates or [target for target in same_machine if not target.model_strings]
    by_size = sorted(candidates, key=lambda target: target.memory.total_mb or 0)
    large_enough = [target for target in by_size if (target.memory.total_mb or 0) >= memory_mb]
    return next(iter(large_enough or by_size[::-1]), None)


def id_of(model_string: str, machine: str, memory_mb: int | None) -> str:
    """Return the id of the target that a board is, by the same facts; empty if it is none."""
    board = recognise(model_string, machine, memory_mb or 0)
    return board.id if board else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Memory that a model takes while it answers, with this much context."""

    context: int
    """Tokens."""
    weights_bytes: int
    kv_bytes: int
    """Cache of keys and values for the whole context, and what else grows with it."""
    compute_bytes: int
    """Activations and scores of one batch."""
    runtime_bytes: int
    """The interpreter, the libraries and the server."""
    knowledge_bytes: int = 0
    """The embedder, and what stays in memory of the documents' index."""
    vision_bytes: int = 0
    """What reads pictures: its weights, a tile's buffers, and the child that decodes."""

    @property
    def total_bytes(self) -> int:
        """All of it."""
        model = self.weights_bytes + self.kv_bytes + self.compute_bytes
        return model + self.runtime_bytes + self.knowledge_bytes + self.vision_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether a model fits in a board's memory, and why not."""

    ok: bool
    parts_mb: dict[str, int]
    """What takes memory, by name, rounded up."""
    available_mb: int
    """What is left beside the operating system, or on the card beside CUDA."""
    reasons: tuple[str, ...]
    """Why it does not fit; empty where it does."""
    largest_context: int | None
    """Tokens that would fit with all else as it is, in steps of CONTEXT_STEP, and no more than the
    model was trained for.

    None where the context costs nothing.
    """
    trained_context: int = 0
    """Tokens that the model was trained for; 0 where it does not say."""
    beside: str = "beside the operating system"
    """What `available_mb` is left beside."""

    @property
    def needed_mb(self) -> int:
        """All parts together."""
        return sum(self.parts_mb.values())

    @property
    def hint(self) -> str:
        """What would help, as an error's hint."""
        if self.ok:
            return ""
        return (
            f"a context of {self.largest_context} tokens fits"
            if self.largest_context
            else "use a smaller model or scheme"
        )


def fit(
    needs: Needs, board: Target | int, memory_mb: int | None = None, *, trained_context: int = 0
) -> Fit:
    """Return whether `needs` fit on a target, or in that many MB.

    `memory_mb` is what the board itself reports (MemTotal); it goes before the target's figure.
    Weights must fit in memory whole: a model that is read from storage again for each token does
    not count as fitting, nor does one with more context than the `trained_context` that it knows.
    Of a target with a graphics card it is the card's memory that all layers must fit in.
    Raises ConfigError for a target whose memory only the machine itself knows.
    """
    visible_mb = _visible_mb(board, memory_mb)
    available_mb = max(0, visible_mb - _reserve_mb(board))
    has_card = isinstance(board, Target) and board.has_card
    parts_mb = {
        "weights": _mb(needs.weights_bytes),
        "KV cache": _mb(needs.kv_bytes),
        "compute buffers": _mb(needs.compute_bytes),
    }
    if not has_card:
        parts_mb |= _beside_the_model(needs, visible_mb)
    # Nobody measured what CUDA's context takes on each card: whoever reads the figure is told so.
    beside = (
        f"on the card beside CUDA ({CARD_RESERVE_MB} MB, assumed)"
        if has_card
        else "beside the operating system"
    )
    reasons = _reasons(parts_mb, available_mb, beside)
    if trained_context and needs.context > trained_context:
        asked = (
            f"the model was made for {trained_context} tokens of context, {needs.context} are asked"
        )
        reasons = (*reasons, asked)
    spare_mb = available_mb - sum(parts_mb.values()) + parts_mb["KV cache"]
    return Fit(
        ok=not reasons,
        parts_mb=parts_mb,
        available_mb=available_mb,
        reasons=reasons,
        largest_context=_largest_context(needs, spare_mb, trained_context),
        trained_context=trained_context,
        beside=beside,
    )


def _beside_the_model(needs: Needs, visible_mb: int) -> dict[str, int]:
    """Return the memory in MB of what is always the processor's."""
    return {
        "runtime": _mb(needs.runtime_bytes),
        "conversations": _mb(prefix_cache_bytes(visible_mb * MB)),
        **({"documents": _mb(needs.knowledge_bytes)} if needs.knowledge_bytes else {}),
        **({"pictures": _mb(needs.vision_bytes)} if needs.vision_bytes else {}),
    }


def _visible_mb(board: Target | int, memory_mb: int | None) -> int:
    if isinstance(board, int):
        return board
    visible = board.memory_mb if memory_mb is None else memory_mb
    if visible is None:
        what = "its card" if board.has_card else "it"
        raise ConfigError(
            f"{board.id}: how much memory {what} has is known to the machine only",
            hint="--memory MB says how much it is to be judged with",
        )
    return visible


def _reserve_mb(board: Target | int) -> int:
    if isinstance(board, Target) and board.has_card:
        return CARD_RESERVE_MB
    reserve = None if isinstance(board, int) else board.memory.os_reserve_mb
    return OS_RESERVE_MB if reserve is None else reserve


def _mb(size_bytes: int) -> int:
    return -(-size_bytes // MB)


def _reasons(parts_mb: dict[str, int], available_mb: int, beside: str) -> tuple[str, ...]:
    weights, needed = parts_mb["weights"], sum(parts_mb.values())
    left = f"{available_mb} MB are left {beside}"
    if weights > available_mb:
        return (f"the weights alone take {weights} MB, {left}",)
    if needed > available_mb:
        listed = ", ".join(f"{name} {size}" for name, size in parts_mb.items())
        return (f"it takes {needed} MB ({listed}), {left}",)
    return ()


def _largest_context(needs: Needs, spare_mb: int, trained: int) -> int | None:
    if not needs.kv_bytes or not needs.context:
        return None
    fitting = largest_context(needs.kv_bytes, needs.context, spare_mb * MB)
    return min(fitting, trained) if trained else fitting
