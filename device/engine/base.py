"""What every engine does, in the words that the rest of the board side uses. Standard library only."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from device.errors import DeviceError

MAX_STOPS = 8
MAX_STOP_CHARS = 256
MAX_CONTEXT = 1 << 20
MAX_BATCH = 4096
MAX_THREADS = 512
"""ggml's own bound (GGML_MAX_N_THREADS)."""
RANGES: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 2),
    "top_k": (int, 0, 10_000),
    "top_p": (float, 0, 1),
    "min_p": (float, 0, 1),
    "seed": (int, 0, 2**32 - 2),
    "max_tokens": (int, 1, 1 << 20),
    "top_logprobs": (int, 0, 20),
}
"""Kind, least and greatest value of each sampling parameter. `seed` ends where llama.cpp's own mark for "random" begins."""


class FieldError(DeviceError):
    """A request field whose value cannot be used; `field` names it."""

    def __init__(self, field: str, problem: str, *, code: str = "invalid_value") -> None:
        super().__init__(code, f"`{field}`: {problem}", status=400)
        self.field = field


def checked_number(field: str, value: Any) -> Any:
    """Return `value` if it is in the range of the sampling parameter called `field`; raise FieldError."""
    kind, low, high = RANGES[field]
    number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        noun = "a whole number" if kind is int else "a number"
        raise FieldError(field, f"must be {noun} between {low} and {high}, not {value!r}"[:200])
    return value


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and when the answer ends."""

    temperature: float = 0.0
    """0 takes the likeliest token: by default a board gives the answers that were evaluated."""
    top_k: int = 40
    """Tokens that stay in the draw; 0 keeps all."""
    top_p: float = 0.95
    min_p: float = 0.05
    seed: "int | None" = None
    """The same seed draws the same tokens; None draws anew each time."""
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are no part of it."""
    grammar: str = ""
    """The only texts that may be answered, in GBNF; an engine that cannot hold to it refuses with FieldError `response_format`."""
    top_logprobs: "int | None" = None
    """Each token comes with its own log-probability and those of so many of the likeliest; None asks for none."""

    def __post_init__(self) -> None:
        """Refuse what is out of range with FieldError."""
        for field in RANGES:
            if getattr(self, field) is not None:
                checked_number(field, getattr(self, field))
        if len(self.stop) > MAX_STOPS or not all(
            0 < len(text) <= MAX_STOP_CHARS for text in self.stop
        ):
            raise FieldError(
                "stop", f"at most {MAX_STOPS} texts of 1 to {MAX_STOP_CHARS} characters"
            )


@dataclass(frozen=True)
class Timing:
    """What one answer took, without the time that its reader took."""

    prompt_tokens: int
    reused_tokens: int
    """Of these, the ones that were in memory from the request before."""
    prefill_s: float
    answer_tokens: int
    decode_steps: int
    """Tokens of which the one after was wanted: all of the answer's, but for the last where its length ended it."""
    decode_s: float

    def decode_tok_s(self) -> float:
        """Return tokens a second after the first; 0 where there was no other."""
        return self.decode_steps / self.decode_s if self.decode_s else 0.0


@dataclass(frozen=True)
class Candidate:
    """A token that could have come, and how likely the model thought it before anything was cut off or made warmer."""

    piece: bytes
    """Its text; of a character that is spread over several tokens only a part."""
    logprob: float
    """Natural logarithm."""


@dataclass(frozen=True)
class Token:
    """A step of an answer: a token with the text it releases; the last step has no id but the reason of the end."""

    id: "int | None"
    text: str
    finish_reason: "Literal['stop', 'length'] | None" = None
    timing: "Timing | None" = None
    candidates: tuple[Candidate, ...] = ()
    """This token first, then the likeliest, where `Sampling.top_logprobs` asks."""


@dataclass(frozen=True)
class Settings:
    """How a model file is loaded."""

    context: int = 0
    """Tokens; 0 takes what the model was trained for, at most `DEFAULT_CONTEXT`."""
    threads: int = 0
    """Threads that decode; 0 takes what `default_threads` says."""
    threads_batch: int = 0
    """Threads that read prompts; 0 takes as many as decode."""
    cpus: "tuple[int, ...]" = ()
    """Cores that they run on; none takes all."""
    batch: int = 0
    """Tokens that are read at once; 0 takes the engine's own."""
    flash: bool = True
    """Attention in one pass where the engine can."""
    mmap: bool = True
    """Weights are pages of the file, not a copy."""
    kv_type: str = "f16"
    guess: bool = True
    """Verify several tokens at once where the text repeats itself and it pays; the answers are the same."""
    adapter: "Path | None" = None
    """A LoRA adapter that is added to the weights while they are used."""
    slots: int = 1
    """Engines on the same weights that answer at the same time: `threads` are those of all of them, and each has its share."""

    def __post_init__(self) -> None:
        """Refuse what no engine can be loaded with: its library would end the process."""
        bounds = (
            ("context", MAX_CONTEXT),
            ("threads", MAX_THREADS),
            ("threads_batch", MAX_THREADS),
            ("batch", MAX_BATCH),
        )
        for field, most in bounds:
            if not 0 <= getattr(self, field) <= most:
                raise FieldError(field, f"must be between 1 and {most}, not {getattr(self, field)}")

    def share(self, threads: int) -> int:
        """Return the threads of one slot: always the same, so that no answer depends on whether others are under way."""
        return max(1, threads // self.slots)


DEFAULT_CONTEXT = 4096


@dataclass(frozen=True)
class Description:
    """What an engine says of itself and of the file it has loaded."""

    engine: str
    version: str
    model_filename: str
    model_type: str
    model_size: int
    """Bytes of all tensors."""
    model_n_params: int
    context_train: int
    n_batch: int
    n_ubatch: int
    threads: int
    threads_batch: int
    kv_type: str
    flash_attn: int = -1
    """llama.cpp's `llama_flash_attn_type`: -1 where it chooses, 0 where it is off."""
    load_mode: str = "auto"
    """llama.cpp's name of how the file was read: `auto` maps it where it can, `none` copies it."""


def never() -> bool:
    """Say that nobody has cancelled."""
    return False


class Engine(Protocol):
    """A loaded model. One thread uses it at a time.

    What an engine keeps in memory between requests is its own affair, as long as nothing of it shows but the time: the answer to a
    prompt is the same whether its beginning was in memory, was restored from a saved state, or is read anew. Where the way in
    which a prompt is cut into batches changes the last bits of a result, that means to cut every prompt after its `lead`, and to
    take up again only where a reading from the beginning would have cut too.
    """

    @property
    def description(self) -> Description:
        """What is loaded, and how."""

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary: the width of a row of logits."""

    @property
    def chat_template(self) -> str:
        """The template inside the model file; empty where it has none."""

    def special_tokens(self) -> dict[str, str]:
        """Return `bos_token` and `eos_token` as text, where the file names them."""

    def control_tokens(self) -> list[str]:
        """Return the text of every token that steers the model and is no word of anybody's: what ends a turn or begins one."""

    def tokenize(self, text: str, *, begin: bool = False) -> list[int]:
        """Return token ids, special tokens recognised; `begin` adds what the model wants before a text."""

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; a character may be spread over several."""

    def logits(self, tokens: Sequence[int], lead: int = 0) -> Iterator[bytes]:
        """Yield a row of `n_vocab` little-endian float32 for each token but the first `lead`: the scores of what comes after it."""

    def generate(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        stop_ids: Sequence[int] = (),
        cancelled: Callable[[], bool] = never,
        lead: int = 0,
    ) -> Iterator[Token]:
        """Answer a prompt. Closing the iterator, or `cancelled` turning true, ends it within one token.

        The first `lead` tokens are those that other prompts are likely to begin with too. Raises DeviceError at once where the
        prompt cannot be answered: `prompt_too_long`, `empty_prompt`, `bad_token`.
        """

    def check(self, tokens: Sequence[int], sampling: "Sampling | None") -> None:
        """Raise the DeviceError that `generate` would raise at once, or `embed` where there is no sampling.

        Evaluates nothing, so that another thread may ask while the engine is at work.
        """

    def embed(
        self, tokens: Sequence[int], cancelled: Callable[[], bool] = never
    ) -> "list[float] | None":
        """Return the mean of what the last layer makes of these tokens; None where it was cancelled on the way.

        Raises DeviceError `unsupported` where it cannot be had.
        """

    @property
    def state_kind(self) -> str:
        """What a saved state depends on besides the model file and its tokens; empty where this engine saves none."""

    def save(self, lead: Sequence[int]) -> bytes:
        """Return the state after these tokens, which are read first if they are not in memory; nothing where none is saved."""

    def restore(self, lead: Sequence[int], state: bytes) -> bool:
        """Take back what `save` returned, as the beginning of later prompts; say whether as many tokens are really there now.

        The caller has made sure that these are the bytes that were saved: engines do not survive others.
        """

    def forget(self) -> None:
        """Drop what is in memory, restored states too, so that the next request is evaluated as the first one is."""

    def use_threads(self, decode: int, prefill: int, cpus: Sequence[int] = ()) -> None:
        """Answer and read with so many threads from now on, on these cores; none takes all that this process may use."""

    def time_prompt(self, n_tokens: int) -> float:
        """Return the seconds that a prompt of arbitrary tokens takes, as llama-bench measures `pp`."""

    def time_decode(self, n_tokens: int) -> float:
        """Return the seconds that arbitrary tokens take one at a time, as llama-bench measures `tg`."""

    def beside(self) -> "Engine | None":
        """Return another engine on the same weights, for another thread; None where the library has none.

        It has a memory of its own, and is closed before this one is.
        """

    def close(self) -> None:
        """Give the memory back."""


def check_prompt(tokens: Sequence[int], engine: Engine, *, answered: bool = True) -> None:
    """Raise DeviceError for tokens that an engine cannot evaluate; one that is `answered` leaves room for a token more."""
    if not tokens:
        raise DeviceError("empty_prompt", "the prompt is empty", status=400)
    if len(tokens) + answered > engine.context:
        message = f"the prompt has {len(tokens)} tokens, the context holds {engine.context}{' with the answer' if answered else ''}"
        raise DeviceError(
            "prompt_too_long",
            message,
            hint="ask for less at once, or package with a larger context",
            status=400,
        )
    if wrong := [token for token in tokens if not 0 <= token < engine.n_vocab]:
        raise DeviceError(
            "bad_token", f"token {wrong[0]} is not one of the model's {engine.n_vocab}", status=400
        )


ONE_THREAD_BYTES = 16 << 20
"""Weights that one thread reads between two waits of several: below it threads only wait for each other, and ten times as long
where something else runs (measured on two busy cores: 428 tokens/s with one thread, 56 with two, at 20 MiB)."""


def default_threads(model_size: int) -> int:
    """Return the threads for a model of that many bytes where nobody says how many."""
    return 1 if model_size < ONE_THREAD_BYTES else usable_cores()


def others_run(loadavg: Path = Path("/proc/loadavg")) -> bool:
    """Return whether any other thread of this computer runs or waits for a core right now."""
    try:
        return int(loadavg.read_text(encoding="ascii").split()[3].partition("/")[0]) > 1
    except (OSError, ValueError, IndexError):
        return False


def memory_bytes(entry: str, meminfo: Path = Path("/proc/meminfo")) -> "int | None":
    """Return an entry of the kernel's memory table (`MemTotal`, `MemAvailable`); None where there is none."""
    try:
        return int(meminfo.read_text(encoding="ascii").partition(f"{entry}:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return None


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many threads can run at once: one too many halves the speed of decoding (threads wait for each other).

    The processors this process may use, and no more than a container's quota (cgroup v2: `quota period` in µs).
    """
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = cgroup.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores
