"""llama.cpp's objects: model, context, adapter, batch and samplers; and its log, kept quiet."""

import ctypes
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as llama

from device.engine.base import Description, FieldError, Sampling, Settings
from device.engine.machine import default_threads
from device.engine.states import BATCH
from device.errors import DeviceError

N_OUTPUTS = 32
"""Maximum number of rows of logits in one batch."""
# llama.cpp's default, a row for each token of a batch, reserves 311 MB for a vocabulary of 152k.
# More rows than this in one batch abort the process (GGML_ASSERT in output_reserve).
MAX_PENALIZED = 1 << 16
"""Tokens of an answer that penalties count, the last ones."""
KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
"""Name of a KV type, as llama.cpp spells it → ggml_type."""
_ERROR_LEVEL = 4
"""GGML_LOG_LEVEL_ERROR (ggml.h)."""


class _Log:
    """llama.cpp's log: nothing is printed, and only the first error is kept."""

    # Later errors say that something failed, not what.

    def __init__(self) -> None:
        self.error = ""
        self.callback = llama.llama_log_callback(self._take)

    def listen(self) -> None:
        """Clear the error and listen from now on."""
        # Another user of the library may have set its own log.
        self.error = ""
        llama.llama_log_set(self.callback, None)

    def _take(self, level: int, text: bytes, _: Any) -> None:
        if level == _ERROR_LEVEL and not self.error:
            self.error = text.decode("utf-8", "replace").partition(": ")[2].strip()


_logs: list[_Log] = []
"""The one log of the process, made with the first model."""
# llama.cpp calls into it for as long as the process lives.


def log_callback() -> Any:
    """Return the function that keeps the first error, for a library that has a log of its own."""
    return _logs[0].callback


def because() -> str:
    """Return llama.cpp's error as the end of a sentence; empty if it gave none."""
    return f": {' '.join(_logs[0].error.split())}" if _logs and _logs[0].error else ""


def model(path: Path, *, mapped: bool = True, gpu_layers: int = -1) -> Any:
    """Return a loaded model, its file mapped or copied, with layers on a graphics card if any.

    Raise DeviceError `bad_model` with llama.cpp's reason.
    """
    if not _logs:
        _logs.append(_Log())
        llama.llama_backend_init()

    _logs[0].listen()
    params = llama.llama_model_default_params()
    params.load_mode = params.load_mode if mapped else llama.LLAMA_LOAD_MODE_NONE
    params.n_gpu_layers = gpu_layers
    loaded = llama.llama_model_load_from_file(str(path).encode(), params)
    if not loaded:
        raise DeviceError("bad_model", f"`{path.name}` cannot be loaded{because()}")

    return loaded


def context(loaded: Any, path: Path, settings: Settings) -> Any:
    """Return a context of one sequence; raise DeviceError `bad_model` if llama.cpp makes none."""
    params = llama.llama_context_default_params()
    params.n_ctx = settings.context
    params.n_batch = BATCH
    params.n_ubatch = settings.batch or BATCH
    params.n_outputs_max = params.n_outputs_max_per_seq = N_OUTPUTS
    params.flash_attn_type = (
        llama.LLAMA_FLASH_ATTN_TYPE_AUTO if settings.flash else llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    params.n_threads = settings.share(
        settings.threads or default_threads(llama.llama_model_size(loaded))
    )
    params.n_threads_batch = (
        settings.share(settings.threads_batch) if settings.threads_batch else params.n_threads
    )
    params.type_k = params.type_v = KV_TYPES.get(settings.kv_type, -1)
    opened = llama.llama_init_from_model(loaded, params) if params.type_k >= 0 else None
    if not opened:
        requested = f"{settings.context} tokens of {settings.kv_type} context"
        refused = f"`{path.name}` cannot be run with {requested}"
        raise DeviceError("bad_model", refused + because())

    return opened


def adapter(loaded: Any, path: Path) -> Any:
    """Return a LoRA adapter for a model, freed with it.

    Raise DeviceError `bad_model` if it does not fit.
    """
    made = llama.llama_adapter_lora_init(loaded, str(path).encode())
    if not made:
        raise DeviceError(
            "bad_model", f"the adapter `{path.name}` does not fit the model{because()}"
        )

    return made


def adapt(opened: Any, made: Any) -> None:
    """Add an adapter to everything that a context evaluates.

    Raise DeviceError `bad_model` if it does not fit.
    """
    scale = (ctypes.c_float * 1)(1.0)
    if llama.llama_set_adapters_lora(
        opened, (llama.llama_adapter_lora_p_ctypes * 1)(made), 1, scale
    ):
        raise DeviceError("bad_model", f"the adapter does not fit the model{because()}")


def batch(size: int, width: int = 0) -> Any:
    """Return a batch of one sequence, to be filled again and again.

    With `width` its rows are so many numbers instead of tokens.
    """
    made = llama.llama_batch_init(size, width, 1)
    for row in range(size):
        made.n_seq_id[row] = 1
        made.seq_id[row][0] = 0
    return made


def metadata(loaded: Any, key: str) -> str:
    """Return a value of the file's header as text; empty if it has none."""
    text = ctypes.create_string_buffer(64)
    return (
        text.value.decode()
        if llama.llama_model_meta_val_str(loaded, key.encode(), text, len(text)) >= 0
        else ""
    )


def describe(loaded: Any, opened: Any, path: Path, settings: Settings) -> Description:
    """Return llama.cpp's description of itself, the model and the context."""
    text = ctypes.create_string_buffer(128)
    llama.llama_model_desc(loaded, text, len(text))
    on_card = settings.gpu_layers != 0 and llama.llama_supports_gpu_offload()
    return Description(
        engine="llama.cpp",
        version=llama.llama_version().decode(),
        model_filename=path.name,
        model_type=text.value.decode(),
        model_size=llama.llama_model_size(loaded),
        model_n_params=llama.llama_model_n_params(loaded),
        context_train=llama.llama_model_n_ctx_train(loaded),
        n_batch=llama.llama_n_batch(opened),
        n_ubatch=llama.llama_n_ubatch(opened),
        threads=llama.llama_n_threads(opened),
        threads_batch=llama.llama_n_threads_batch(opened),
        kv_type=settings.kv_type,
        flash_attn=-1 if settings.flash else 0,
        load_mode="auto" if settings.mmap else "none",
        backend="CUDA" if on_card else "CPU",
        gpu_layers=settings.gpu_layers if on_card else 0,
    )


def piece(vocab: Any, token: int, *, special: bool = False) -> bytes:
    """Return the bytes of a token; those of a control token with `special` only."""
    room = 64
    while True:
        text = ctypes.create_string_buffer(room)
        size = llama.llama_token_to_piece(vocab, token, text, room, 0, special)
        if size >= 0:
            return text.raw[:size]
        room = -size


def sampler(vocab: Any, sampling: Sampling) -> Any:
    """Return a sampler chain in llama.cpp's own order.

    Biases, penalties, top-k, top-p, min-p, temperature, draw. At temperature 0 it takes the
    likeliest token.
    """
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    for part in (*_shaping(vocab, sampling), *_choosing(sampling)):
        llama.llama_sampler_chain_add(chain, part)
    return chain


def _shaping(vocab: Any, sampling: Sampling) -> Iterator[Any]:
    """Yield the samplers that change single logits."""
    n_vocab = llama.llama_vocab_n_tokens(vocab)
    if sampling.logit_bias:
        biases = (llama.llama_logit_bias * len(sampling.logit_bias))(*sampling.logit_bias)
        yield llama.llama_sampler_init_logit_bias(n_vocab, len(biases), biases)
    if sampling.penalized:
        # OpenAI's formula counts the whole answer, and so does `repeat_penalty` here.
        yield llama.llama_sampler_init_penalties(
            n_vocab,
            min(sampling.max_tokens, MAX_PENALIZED),
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        )


def _choosing(sampling: Sampling) -> Iterator[Any]:
    """Yield the samplers that leave one token."""
    if sampling.temperature == 0:
        yield llama.llama_sampler_init_greedy()
        return

    drawn = sampling.short_seed
    seed = random.SystemRandom().randrange(2**32 - 1) if drawn is None else drawn
    yield llama.llama_sampler_init_top_k(sampling.top_k)
    yield llama.llama_sampler_init_top_p(sampling.top_p, 1)
    yield llama.llama_sampler_init_min_p(sampling.min_p, 1)
    yield llama.llama_sampler_init_temp(sampling.temperature)
    yield llama.llama_sampler_init_dist(seed)


def grammar(vocab: Any, text: str, root: str = "root") -> Any:
    """Return a sampler that enforces a grammar in GBNF, from the rule `root` on.

    Raise FieldError if llama.cpp refuses it.
    """
    made = llama.llama_sampler_init_grammar(vocab, text.encode(), root.encode())
    if not made:
        raise FieldError("response_format", f"the engine does not take this grammar{because()}")
    return made
