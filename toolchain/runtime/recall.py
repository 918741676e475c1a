"""The device runtime's embedder and search as a child process here: what is measured ships.

The child is `RUNTIME recall` (device/recall.py): JSON lines in and out.
"""

import base64
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from toolchain.runtime.child import Child, running

if TYPE_CHECKING:
    import numpy as np

Item = TypeVar("Item")
Answer = TypeVar("Answer")
MOST_CHILDREN = 8
"""Largest number of processes side by side: each holds the embedder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """How like a question the passages near to it are."""

    like: Mapping[int, float]
    """Passage → pooled cosines of its entries."""
    common: Mapping[int, float]
    """Passage → how much words in common count, from 0 to 1."""
    unanswered: float
    """Pooled cosines of the questions that no passage answers."""
    thin: Mapping[int, float] = field(default_factory=dict)
    """Passage of `like` without enough questions → how far it is from enough, from 0 to 1."""
    texts: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """Passage → cosine of its own text, and how much the words in common with that count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Passages for a question, the best first, and whether they count as an answer."""

    passages: tuple[int, ...]
    known: bool


class Recall:
    """The running child process; `recall` starts one."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def embed(self, texts: Sequence[str]) -> "np.ndarray":
        """Return float32 [len(texts), width], rows of length 1."""
        import numpy as np

        rows = self._child.call(op="embed", texts=list(texts))["vectors"]
        return np.stack([np.frombuffer(base64.b64decode(row), np.float32) for row in rows])

    def compare(self, question: str, vector: "np.ndarray") -> Compared:
        """Return how like a question the passages of the index are.

        `vector` is the question's own, float32 [width], as `embed` returns it.
        """
        packed = base64.b64encode(vector.astype("<f4").tobytes()).decode()
        answer = self._child.call(op="compare", texts=[question], vectors=[packed])["compared"][0]
        return Compared(
            like={int(each): float(like) for each, like, _ in answer["passages"]},
            common={int(each): float(common) for each, _, common in answer["passages"]},
            unanswered=float(answer["unanswered"]),
            thin={int(each): float(share) for each, share in answer["thin"]},
            texts={
                int(each): (float(like), float(common)) for each, like, common in answer["texts"]
            },
        )

    def search(self, question: str, take: int) -> Found:
        """Return the passages that the board would find."""
        found = self._child.call(op="search", texts=[question], take=take)["found"][0]
        passages = tuple(int(hit["passage"]) for hit in found["hits"])
        return Found(passages=passages, known=bool(found["known"]))


@contextmanager
def recall(runtime: Path, embedder: Path, knowledge: Path | None = None) -> Iterator[Recall]:
    """Yield a Recall for an embedder, with an index if one is given; it ends with the block."""
    options = ["--embedder", str(embedder)]
    options += ["--knowledge", str(knowledge)] if knowledge else []
    with running(runtime, "recall", options, embedder.name) as child:
        yield Recall(child)


def recall_all(
    runtime: Path,
    embedder: Path,
    ask: Callable[[Recall, Item], Answer],
    items: Sequence[Item],
    knowledge: Path | None = None,
) -> Iterator[Answer]:
    """Yield what `ask` returns for each item, in order; all cores of this computer work on it."""
    # A vector is computed by one thread, as on a board; so each core has a process of its own.
    count = min(len(items), len(os.sched_getaffinity(0)), MOST_CHILDREN)
    free: SimpleQueue[Recall] = SimpleQueue()

    def answer(item: Item) -> Answer:
        """Ask about one item in whichever child is free."""
        child = free.get()
        try:
            return ask(child, item)
        finally:
            free.put(child)

    with ExitStack() as block:
        for _ in range(count):
            free.put(block.enter_context(recall(runtime, embedder, knowledge)))
        pool = block.enter_context(ThreadPoolExecutor(max(1, count)))
        # An error or Ctrl-C drops what was not begun.
        block.callback(pool.shutdown, wait=False, cancel_futures=True)
        yield from pool.map(answer, items)
