"""Vectors of an index's texts, made by the runtime that ships, on all cores of this computer."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from toolchain.knowledge.cache import VectorCache
from toolchain.progress import Reporter
from toolchain.runtime.recall import Recall, recall

if TYPE_CHECKING:
    import numpy as np

_TOGETHER = 64
"""Texts between two times that vectors are written down."""
_MOST = 8
"""Largest number of processes: each holds the embedder."""


def add_vectors(
    kept: VectorCache, texts: Sequence[str], runtime: Path, embedder: Path, report: Reporter
) -> None:
    """Make the vectors of texts that are not in the cache yet.

    Raise ArtifactError if the runtime cannot.
    """
    missing = kept.missing(list(dict.fromkeys(texts)))
    parts = [missing[at : at + _TOGETHER] for at in range(0, len(missing), _TOGETHER)]
    done = 0
    for part, vectors in _made(parts, runtime, embedder):
        kept.add(part, vectors)
        done += len(part)
        report.step("make vectors", done, len(missing), "texts")


def _made(
    parts: Sequence[Sequence[str]], runtime: Path, embedder: Path
) -> Iterator[tuple[Sequence[str], "np.ndarray"]]:
    """Yield the vectors of each part, in order."""
    # A vector is computed by one thread, as on a board; so each core has a process of its own.
    count = min(len(parts), len(os.sched_getaffinity(0)), _MOST)
    free: SimpleQueue[Recall] = SimpleQueue()

    def embed(part: Sequence[str]) -> "np.ndarray":
        child = free.get()
        try:
            return child.embed(part)
        finally:
            free.put(child)

    with ExitStack() as open_children:
        for _ in range(count):
            free.put(open_children.enter_context(recall(runtime, embedder)))
        pool = open_children.enter_context(ThreadPoolExecutor(max(1, count)))
        # An error or Ctrl-C drops what was not begun.
        open_children.callback(pool.shutdown, wait=False, cancel_futures=True)
        yield from zip(parts, pool.map(embed, parts), strict=True)
