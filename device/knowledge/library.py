"""A bundle's documents, opened: its index and its embedder, and what they say to a conversation."""

from collections.abc import Sequence
from pathlib import Path

from device.errors import DeviceError
from device.knowledge.consult import Consulted, Message, consult
from device.knowledge.index import Found, Hit, Index
from device.manifest import Manifest


class Library:
    """The documents of a bundle. Any thread may ask, one at a time."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Open the files that a manifest names; raise DeviceError if one cannot be used."""
        try:
            from device.engine.llama.embedder import Embedder
        except (ImportError, OSError, RuntimeError) as error:
            raise DeviceError(
                "no_engine", f"this runtime cannot run an embedder: {error}"
            ) from error

        self._embedder = Embedder(folder / manifest.embedder)
        self._answer = manifest.answer
        self._take = manifest.take
        try:
            self._index = Index(
                folder / manifest.knowledge,
                self._embedder.embed,
                manifest.file(manifest.embedder).sha256,
            )
        except DeviceError:
            self._embedder.close()
            raise

    def consult(self, messages: Sequence[Message], *, worded: bool = False) -> "Consulted | None":
        """Return what the documents say; None for a conversation that is not about them.

        With `worded` the model words the answer, whatever the bundle says.
        """
        return consult(self._index, messages, self._answer, self._take, worded=worded)

    @property
    def passages(self) -> int:
        """Number of passages."""
        return self._index.passages

    def search(self, question: str, take: int) -> Found:
        """Return the best passages for a question."""
        return self._index.search(question, take)

    def passage(self, number: int) -> "Hit | None":
        """Return a passage by its number; None if there is none."""
        return self._index.passage(number)

    def check(self) -> int:
        """Ask the questions whose passages are known, and return how many these are.

        Raise DeviceError `golden_mismatch` if another passage is found first.
        """
        goldens = self._index.goldens()
        for question, passage in goldens:
            hits = self._index.search(question, 1).hits
            if not hits or hits[0].id != passage:
                raise DeviceError(
                    "golden_mismatch",
                    f"the documents give another passage for `{question[:80]}`",
                    hint="the knowledge, the embedder or the runtime is not what was measured",
                )
        return len(goldens)

    def close(self) -> None:
        """Close both files."""
        self._index.close()
        self._embedder.close()


def open_library(folder: Path, manifest: Manifest) -> "Library | None":
    """Return a bundle's documents; None if it has none."""
    return Library(folder, manifest) if manifest.knowledge else None
