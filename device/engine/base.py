"""The protocol of engines, and the values that go in and out of them. Standard library only."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from device.errors import DeviceError

MAX_STOPS = 8
MAX_STOP_CHARS = 256
MAX_CONTEXT = 1 << 20
MAX_BATCH = 4096
MAX_LAYERS = 10_000
MAX_THREADS = 512
"""ggml's own bound (GGML_MAX_N_THREADS)."""
RANGES: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 2),
    "top_k": (int, 0, 10_000),
    "top_p": (float, 0, 1),
    "min_p": (float, 0, 1),
    "seed": (int, -(2**63) + 1, 2**63 - 1),
    "max_tokens": (int, 1, 1 << 20),
    "frequency_penalty": (float, -2, 2),
    "presence_penalty": (float, -2, 2),
    "repeat_penalty": (float, 0.5, 2),
    "top_logprobs": (int, 0, 20),
}
"""Sampling parameter → its kind, least and greatest value."""
_SEEDS = 2**32 - 1
"""Number of seeds that differ: llama.cpp's own mark for "random" comes after them."""
MAX_BIASES = 1024
MAX_BIAS = 100
"""Greatest value of a token's bias, up or down, as in OpenAI's API."""


class FieldError(DeviceError):
    """A request field whose value cannot be used."""

    def __init__(self, field: str, problem: str, *, code: str = "invalid_value") -> None:
        super().__init__(code, f"`{field}`: {problem}", status=400)
        self.field = field
        """Its name."""
        self.problem = problem
        """What is wrong with it, without its name: another API names it otherwise."""


def whole(value: Any) -> Any:
    """Return a number as an integer if it is one; any other value as it is.

    Home Assistant sends 8192.0, and JSON knows no difference.
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


def checked_number(field: str, value: Any) -> Any:
    """Return `value` if it is in the range of the sampling parameter `field`; raise FieldError."""
    kind, low, high = RANGES[field]
    value = whole(value) if kind is int else value
    number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        noun = "a whole number" if kind is int else "a number"
        raise FieldError(field, f"must be {noun} between {low} and {high}, not {value!r}"[:200])

    return value


@dataclass(frozen=True)
class Trigger:
    """Text after which an answer must follow its grammar; before it, the answer is free."""

    text: str
    head: str = ""
    """Text that must come between the trigger and what the grammar describes."""
    anywhere: bool = True
    """Whether it may come after other text; if not, it is how the answer begins."""
    keeps_figures: bool = True
    """Whether what follows is given up where the grammar changes a figure (ADR 20)."""
    before_id: str = ""
    """Text of a call after which its id comes: digits there are no figure. Empty: it has none."""

    def in_id(self, call: bytes) -> bool:
        """Say whether the text of a call so far ends in its id."""
        _, found, after = call.rpartition(self.before_id.encode()) if self.before_id else (b"",) * 3
        return bool(found) and (not after or after.isalnum())


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and when the answer ends."""

    temperature: float = 0.0
    """0 takes the likeliest token: by default a board gives the answers that were evaluated."""
    top_k: int = 40
    """Number of likeliest tokens that can be drawn; 0 keeps all."""
    top_p: float = 0.95
    min_p: float = 0.05
    seed: "int | None" = None
    """The same seed draws the same tokens; None draws anew each time."""
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it."""
    grammar: str = ""
    """Grammar in GBNF that the answer must follow.

    An engine that cannot enforce it raises FieldError `response_format`.
    """
    trigger: "Trigger | None" = None
    """Text from which on the grammar holds; None for the whole answer."""
    calls_tools: bool = False
    """Whether the grammar is that of tool calls, whose markup may be made of control tokens: these
    stand in the text then."""
    frequency_penalty: float = 0.0
    """What each time that a token came takes from its logit."""
    presence_penalty: float = 0.0
    """What it takes from a token's logit that it came at all."""
    repeat_penalty: float = 1.0
    """What the logit of a token that came is divided by; a negative one is multiplied by it."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token → what is added to its logit."""
    top_logprobs: "int | None" = None
    """Number of likeliest tokens whose log-probabilities come with each token, besides its own;
    None asks for none."""

    def __post_init__(self) -> None:
        """Raise FieldError for a value that is out of range."""
        for field in RANGES:
            if getattr(self, field) is not None:
                checked_number(field, getattr(self, field))
        if len(self.stop) > MAX_STOPS or not all(
            0 < len(text) <= MAX_STOP_CHARS for text in self.stop
        ):
            raise FieldError(
                "stop", f"at most {MAX_STOPS} texts of 1 to {MAX_STOP_CHARS} characters"
            )

    @property
    def penalized(self) -> bool:
        """Whether a token's logit depends on the tokens before it in the answer."""
        return bool(self.frequency_penalty or self.presence_penalty or self.repeat_penalty != 1.0)

    @property
    def short_seed(self) -> "int | None":
        """The seed as the engines' generators take it: not negative, in 32 bits."""
        return None if self.seed is None else self.seed % _SEEDS


def check_biases(biases: "Sequence[tuple[int, float]]", n_vocab: int) -> None:
    """Raise FieldError for a bias of a token that the model has not."""
    wrong = [token for token, _ in biases if not 0 <= token < n_vocab]
    if wrong:
        raise FieldError("logit_bias", f"token {wrong[0]} is not one of the model's {n_vocab}")


@dataclass(frozen=True)
class Timing:
    """What one answer took, without the time that its reader took."""

    prompt_tokens: int
    reused_tokens: int
    """Number of prompt tokens that were in memory from the request before."""
    prefill_s: float
    answer_tokens: int
    decode_steps: int
    """Decode steps that were run: one per token, except after the last token when the length limit
    ended the answer."""
    decode_s: float

    def decode_tok_s(self) -> float:
        """Return tokens per second after the first; 0 if there was no other."""
        return self.decode_steps / self.decode_s if self.decode_s else 0.0


@dataclass(frozen=True)
class Candidate:
    """A token that could have come, and its probability before sampling changed it."""

    piece: bytes
    """Bytes of its text; only a part if a character is spread over several tokens."""
    logprob: "float | None"
    """Natural logarithm of the probability; None for the first token of a prompt that is echoed."""


@dataclass(frozen=True)
class Token:
    """A step of an answer: a token with the text that it completes.

    The last step has no id but the reason of the end.
    """

    id: "int | None"
    text: str
    finish_reason: "Literal['stop', 'length', 'content_filter'] | None" = None
    timing: "Timing | None" = None
    candidates: tuple[Candidate, ...] = ()
    """This token first, then the likeliest ones, if `Sampling.top_logprobs` asks for them."""
    refusal: str = ""
    """What is said instead of the answer, in the last step of one that the guard refused."""


class Picture:
    """A picture as it stands in a prompt. Whoever holds it keeps it usable."""

    def __init__(
        self, digest: str, tokens: "tuple[int, ...]", before: str = "", behind: str = ""
    ) -> None:
        self.digest = digest
        """sha256 of the file that it came in."""
        self.tokens = tokens
        """Ids of its positions, all below 0."""
        self.before, self.behind = before, behind
        """Texts around it. They are tokenized with what they follow, or what follows them."""


@dataclass(frozen=True)
class Settings:
    """How a model file is loaded."""

    context: int = 0
    """Tokens; 0 takes the model's training context, at most `DEFAULT_CONTEXT`."""
    threads: int = 0
    """Threads that decode; 0 takes `default_threads`."""
    threads_batch: int = 0
    """Threads that read prompts; 0 takes as many as decode."""
    cpus: "tuple[int, ...]" = ()
    """Cores that the threads run on; empty takes all."""
    batch: int = 0
    """Tokens that are read at once; 0 takes the engine's default."""
    flash: bool = True
    """Whether attention is computed in one pass (flash attention), if the engine can."""
    mmap: bool = True
    """Whether weights are pages of the mapped file; otherwise they are copied."""
    kv_type: str = "f16"
    speculative: bool = True
    """Whether several tokens are verified at once when the text repeats itself and it pays off.

    The answers are the same.
    """
    adapter: "Path | None" = None
    """Path to a LoRA adapter that is added to the weights while they are used."""
    projector: "Path | None" = None
    """Path to the projector file through which the model sees pictures; None for text alone."""
    gpu_layers: int = -1
    """Layers whose weights and cache lie in a graphics card's memory, from the last one on.

    -1 takes all. Without such a card, or with an engine that knows none, nothing changes.
    """
    slots: int = 1
    """Number of contexts on the same weights that answer at the same time.

    `threads` is their sum, and each context has its share.
    """

    def __post_init__(self) -> None:
        """Raise FieldError for a value that would make a library end the process."""
        bounds = (
            ("context", MAX_CONTEXT),
            ("threads", MAX_THREADS),
            ("threads_batch", MAX_THREADS),
            ("batch", MAX_BATCH),
        )
        for field, most in bounds:
            if not 0 <= getattr(self, field) <= most:
                raise FieldError(field, f"must be between 1 and {most}, not {getattr(self, field)}")
        if not -1 <= self.gpu_layers <= MAX_LAYERS:
            bounds_text = f"must be between -1 and {MAX_LAYERS}, not {self.gpu_layers}"
            raise FieldError("gpu_layers", bounds_text)

    def share(self, threads: int) -> int:
        """Return the threads of one slot.

        It is the same however many slots are busy, so that no answer depends on the others.
        """
        return max(1, threads // self.slots)


DEFAULT_CONTEXT = 4096


@dataclass(frozen=True)
class Description:
    """What an engine says of itself and of the loaded file."""

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
    """llama.cpp's `llama_flash_attn_type`: -1 lets it choose, 0 is off."""
    load_mode: str = "auto"
    """llama.cpp's name for how the file was read: `auto` maps it if possible, `none` copies it."""
    backend: str = "CPU"
    """What computes, as llama-bench names it."""
    gpu_layers: int = 0
    """Layers in a graphics card's memory; -1 for all."""


def never() -> bool:
    """Return False: nobody has cancelled."""
    return False


class Engine(Protocol):
    """A loaded model. One thread uses it at a time.

    What an engine keeps in memory between requests must not show except in the time: the answer to
    a prompt is the same whether its beginning was in memory, was restored from a saved state, or is
    read anew.

    On some engines the way in which a prompt is cut into batches changes the last bits of a result.
    Such an engine cuts every prompt after its `prefix`, and reuses tokens only up to a place where
    reading from the beginning would have cut too.
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
        """The template inside the model file; empty if it has none."""

    def special_tokens(self) -> dict[str, str]:
        """Return `bos_token` and `eos_token` as text, if the file names them."""

    def control_tokens(self) -> list[str]:
        """Return the text of every control token, such as those that begin or end a turn."""

    def tokenize(self, text: str, *, begin: bool = False) -> list[int]:
        """Return token ids; special tokens are recognised.

        `begin` adds what the model expects before a text.
        """

    @property
    def picture_marker(self) -> str:
        """Text by which the chat template shows a picture; empty if the engine sees none."""

    def see(self, image: bytes) -> Picture:
        """Return a picture as it stands in a prompt.

        Another thread may ask while the engine is at work. Raise DeviceError `bad_picture` for a
        file that cannot be decoded, `cannot_see` if the engine or the model reads text alone.
        """

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; a character may be spread over several."""

    def logits(self, tokens: Sequence[int], prefix: int = 0) -> Iterator[bytes]:
        """Yield the scores of the next token after each token but the first `prefix`.

        A row is `n_vocab` little-endian float32.
        """

    def generate(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        stop_ids: Sequence[int] = (),
        cancelled: Callable[[], bool] = never,
        prefix: int = 0,
    ) -> Iterator[Token]:
        """Answer a prompt.

        Closing the iterator, or `cancelled` turning true, ends it within one token.

        Other prompts are likely to begin with the first `prefix` tokens too. Raise DeviceError at
        once for a prompt that cannot be answered: `prompt_too_long`, `empty_prompt`, `bad_token`.
        """

    def check(self, tokens: Sequence[int], sampling: "Sampling | None") -> None:
        """Raise the DeviceError that `generate` would raise at once.

        Without sampling, that of `embed`.

        Nothing is evaluated, so another thread may ask while the engine is at work.
        """

    def embed(
        self, tokens: Sequence[int], cancelled: Callable[[], bool] = never
    ) -> "list[float] | None":
        """Return the mean of the last layer's outputs over these tokens; None if it was cancelled.

        Raise DeviceError `unsupported` if the engine has none.
        """

    @property
    def state_kind(self) -> str:
        """Text of all that a saved state depends on besides the model file and its tokens.

        Empty if this engine saves none.
        """

    def save(self, prefix: Sequence[int]) -> bytes:
        """Return the state after these tokens; empty if none can be saved.

        They are read first if they are not in memory.
        """

    def restore(self, prefix: Sequence[int], state: bytes) -> bool:
        """Load what `save` returned, as the beginning of later prompts.

        Return False if it does not hold the prefix.

        The caller makes sure that these are the bytes that were saved: engines do not survive
        others.
        """

    def forget(self) -> None:
        """Empty the memory and drop restored states.

        The next request is evaluated as the first one was.
        """

    def use_threads(self, decode: int, prefill: int, cpus: Sequence[int] = ()) -> None:
        """Decode and read with these numbers of threads from now on.

        They run on the cores `cpus`; empty takes all that this process may use.
        """

    def time_prompt(self, n_tokens: int) -> float:
        """Return the seconds that a prompt of random tokens takes, as llama-bench measures `pp`."""

    def time_decode(self, n_tokens: int) -> float:
        """Return the seconds of random tokens, one at a time, as llama-bench measures `tg`."""

    def new_context(self) -> "Engine | None":
        """Return another context on the same weights, for another thread.

        None if the library has none.

        It has a memory of its own and is closed before this one.
        """

    def close(self) -> None:
        """Give the memory back."""


class Limits(Protocol):
    """What a prompt must fit into."""

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary."""


def is_picture(token: int) -> bool:
    """Say whether an id stands for a position of a picture: it is below 0, as no token's is."""
    return token < 0


def no_picture(token: int) -> bool:
    """Return False: an engine that reads text alone knows no id of a picture."""
    return False


def check_prompt(
    tokens: Sequence[int],
    engine: Limits,
    *,
    answered: bool = True,
    knows: Callable[[int], bool] = no_picture,
) -> None:
    """Raise DeviceError for tokens that an engine cannot evaluate.

    A prompt that is `answered` needs room for one more token. `knows` says whether an id stands for
    a picture.
    """
    if not tokens:
        raise DeviceError("empty_prompt", "the prompt is empty", status=400)
    if len(tokens) + answered > engine.context:
        room = f"{engine.context} with the answer" if answered else str(engine.context)
        raise DeviceError(
            "prompt_too_long",
            f"the prompt has {len(tokens)} tokens, the context holds {room}",
            hint="ask for less at once, or package with a larger context",
            status=400,
        )
    if wrong := [token for token in tokens if not 0 <= token < engine.n_vocab and not knows(token)]:
        raise DeviceError(
            "bad_token", f"token {wrong[0]} is not one of the model's {engine.n_vocab}", status=400
        )
