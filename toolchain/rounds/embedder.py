"""The recipe's own embedder, to compare questions by their meaning."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from device.manifest import EMBEDDER
from toolchain.progress import Reporter
from toolchain.recipe import Recipe

if TYPE_CHECKING:
    from toolchain.rounds.label import Embed


@contextmanager
def embedder_of(recipe: Recipe, work: Path, report: Reporter) -> Iterator["Embed | None"]:
    """Yield what turns questions into vectors: the embedder that `know` made for a recipe.

    None for a recipe without `[knowledge]`, or before its `know` has run: then words are compared.
    """
    file = work / "know" / EMBEDDER
    if recipe.knowledge is None:
        yield None
        return
    if not file.is_file():
        report.note(f"{file}: not there: words are compared; `demitasse know` makes it")
        yield None
        return

    from toolchain.line.formats import FORMATS
    from toolchain.runtime.recall import recall

    with recall(FORMATS["gguf"].runtime(report), file) as child:
        yield child.embed
