"""llama.cpp's own tokenizer, through llama-cpp-python's low-level API.

It is the referee for vocabularies that we write.
"""

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.errors import ArtifactError, ToolError

_FEATURES = {
    "SSSE3": "ssse3",
    "AVX": "avx",
    "AVX2": "avx2",
    "F16C": "f16c",
    "FMA": "fma",
    "BMI2": "bmi2",
    "AVX_VNNI": "avx_vnni",
    "AVX512": "avx512f",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX_INT8": "amx_int8",
    "NEON": "asimd",
    "FP16_VA": "asimdhp",
    "DOTPROD": "asimddp",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
}
"""Features as llama.cpp prints them → as /proc/cpuinfo spells them."""
Encode = Callable[[str, bool], list[int]]
"""(text, whether to add the tokens that the model wants around it) → token ids.

Special tokens in the text are recognised."""


def verify() -> str:
    """Return the version of llama-cpp-python; raise ToolError if it cannot be loaded."""
    import importlib.metadata

    _library()
    return importlib.metadata.version("llama-cpp-python")


def sees() -> bool:
    """Return whether the installed llama-cpp-python has libmtmd, which reads pictures."""
    import importlib.metadata

    try:
        installed = importlib.metadata.distribution("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        return False
    return Path(str(installed.locate_file("llama_cpp/lib/libmtmd.so"))).is_file()


def features() -> tuple[str, ...]:
    """Return the CPU features that the installed libraries use, as /proc/cpuinfo spells them.

    The library reports them itself (ggml-cpu.cpp, `ggml_backend_cpu_get_features`). A feature that
    it does not use is not needed.
    """
    said = re.findall(r"(\w+) = 1", _library().llama_print_system_info().decode())
    return tuple(sorted(_FEATURES[name] for name in said if name in _FEATURES))


def sleeps_at_barriers() -> bool:
    """Return whether the threads of the installed library sleep while they wait.

    They do if it was built with our patch or with OpenMP.
    """
    said = _library().llama_print_system_info().decode()
    return "BARRIER_SLEEP = 1" in said or "OPENMP = 1" in said


UNKNOWN, UNUSED, CONTROL, USER_DEFINED, TAKES_SPACE = 1, 2, 8, 16, 256
"""Attributes of a token (llama.h, `llama_token_attr`); `TAKES_SPACE` is RSTRIP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What llama.cpp adds to a vocabulary: its defaults, and tokens that it knows by name."""

    attributes: tuple[int, ...]
    """Attributes of each token, by id."""
    roles: dict[str, int]
    """`bos`, `eos` and `pad` → token id; a missing role has no entry."""
    ends: tuple[int, ...]
    """Ids of the tokens that end an answer."""
    add_bos: bool
    add_eos: bool


@contextmanager
def open_vocabulary(file: Path) -> Iterator[Encode]:
    """Load the vocabulary of a GGUF file without weights, and yield its tokenizer.

    Raises ArtifactError if llama.cpp refuses the file.
    """
    with _vocabulary(file) as (library, vocabulary):
        yield lambda text, around: _tokenize(library, vocabulary, text.encode(), around)


def vocabulary_rules(file: Path) -> Rules:
    """Return what llama.cpp makes of a file's vocabulary; raise ArtifactError if it refuses it."""
    with _vocabulary(file) as (library, vocabulary):
        count = library.llama_vocab_n_tokens(vocabulary)
        roles = {
            "bos": library.llama_vocab_bos(vocabulary),
            "eos": library.llama_vocab_eos(vocabulary),
            "pad": library.llama_vocab_pad(vocabulary),
        }
        return Rules(
            attributes=tuple(
                library.llama_vocab_get_attr(vocabulary, token) for token in range(count)
            ),
            roles={role: token for role, token in roles.items() if 0 <= token < count},
            ends=tuple(
                token for token in range(count) if library.llama_vocab_is_eog(vocabulary, token)
            ),
            add_bos=bool(library.llama_vocab_get_add_bos(vocabulary)),
            add_eos=bool(library.llama_vocab_get_add_eos(vocabulary)),
        )


@contextmanager
def _vocabulary(file: Path) -> Iterator[tuple[Any, Any]]:
    library = _library()
    parameters = library.llama_model_default_params()
    parameters.vocab_only = True
    model = library.llama_model_load_from_file(bytes(file), parameters)
    if not model:
        raise ArtifactError(f"{file.name}: llama.cpp cannot load this vocabulary")

    try:
        yield library, library.llama_model_get_vocab(model)
    finally:
        library.llama_model_free(model)


def _tokenize(library: Any, vocabulary: Any, text: bytes, around: bool) -> list[int]:
    room = len(text) + 8
    tokens = (library.llama_token * room)()
    count = library.llama_tokenize(vocabulary, text, len(text), tokens, room, around, True)
    return list(tokens[:count])


def _library() -> Any:
    try:
        from llama_cpp import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise ToolError(
            "llama-cpp-python is not installed, or without its libraries",
            hint="pip install llama-cpp-python",
        ) from error

    llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


_SILENT = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
    lambda level, text, context: None
)
