"""The device runtime's embedder and search as a child process here: what is measured ships.

The child is `RUNTIME recall` (device/recall.py): JSON lines in and out.
"""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from toolchain.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """How like a question the passages near to it are."""

    like: Mapping[int, float]
    """Passage → cosine of its closest entry."""
    common: Mapping[int, float]
    """Passage → how much words in common count, from 0 to 1."""
    unanswered: float
    """Cosine of the closest question that no passage answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Passages for a question, the best first, and whether they count as an answer."""

    passages: tuple[int, ...]
    known: bool


class Recall:
    """The running child process; `recall` starts one."""

    def __init__(self, child: "subprocess.Popen[bytes]", embedder: Path) -> None:
        assert child.stdin and child.stdout
        self._child, self._name = child, embedder.name
        self._input: IO[bytes] = child.stdin
        self._output: IO[bytes] = child.stdout

    def embed(self, texts: Sequence[str]) -> "np.ndarray":
        """Return float32 [len(texts), width], rows of length 1."""
        import numpy as np

        rows = self._call(op="embed", texts=list(texts))["vectors"]
        return np.stack([np.frombuffer(base64.b64decode(row), np.float32) for row in rows])

    def compare(self, question: str) -> Compared:
        """Return how like a question the passages of the index are."""
        answer = self._call(op="compare", texts=[question])["compared"][0]
        return Compared(
            like={int(each): float(like) for each, like, _ in answer["passages"]},
            common={int(each): float(common) for each, _, common in answer["passages"]},
            unanswered=float(answer["unanswered"]),
        )

    def search(self, question: str, take: int) -> Found:
        """Return the passages that the board would find."""
        found = self._call(op="search", texts=[question], take=take)["found"][0]
        passages = tuple(int(hit["passage"]) for hit in found["hits"])
        return Found(passages=passages, known=bool(found["known"]))

    def _call(self, **request: Any) -> dict[str, Any]:
        try:
            self._input.write(json.dumps(request).encode() + b"\n")
            self._input.flush()
        except BrokenPipeError as error:
            raise self._gone() from error
        line = self._output.readline()
        if not line:
            raise self._gone()

        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ArtifactError(
                f"{self._name}: {answer['error']['message']}", hint=answer["error"].get("hint", "")
            )
        return answer

    def _gone(self) -> ArtifactError:
        code = self._child.wait(timeout=10)
        by = f"died by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return ArtifactError(f"{self._name}: the engine {by} while it was measured")


@contextmanager
def recall(runtime: Path, embedder: Path, knowledge: Path | None = None) -> Iterator[Recall]:
    """Yield a Recall for an embedder, with an index if one is given; it ends with the block."""
    argv = [sys.executable, "-B", "-sE", str(runtime), "recall", "--embedder", str(embedder)]
    argv += ["--knowledge", str(knowledge)] if knowledge else []
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        try:
            yield Recall(child, embedder)
        finally:
            if child.stdin and not child.stdin.closed:
                with suppress(BrokenPipeError):
                    child.stdin.close()
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
