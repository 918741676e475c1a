"""A bundle that answers from documents: the tiny model, the tiny embedder and a real index of both.

The embedder's weights are random: a text is like itself alone. So a question finds the passage
whose question it is, word for word, and every other question is one that the documents do not
answer.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from device.engine.llama.embedder import Embedder
from device.feedback import Ring
from device.knowledge.library import open_library
from device.manifest import EMBEDDER, KNOWLEDGE, Manifest, file_entry, read_manifest, to_bytes
from device.model import open_bundle
from tests.fakes.service import service, wait_until_loaded
from tests.fakes.tiny_bert import tiny_bert
from tests.fakes.tiny_gguf import tiny_bundle
from toolchain.digests import file_digest
from toolchain.knowledge.embedder import write_embedder
from toolchain.knowledge.index import entries_of, set_fitted, write_index
from toolchain.knowledge.passages import Passage

HOT = "how hot is too hot"
FAN = "why spins the fan"
NIGHT = "may power stay over night"
CHINESE = "树莓派太热"
UNKNOWN = "which card has a pi at home"
PASSAGES = (
    Passage(
        text="It slows down at 80 degrees and stops at 85.",
        source="manual/heat.md",
        heading="Heat › Limits",
        questions=(HOT, CHINESE),
    ),
    Passage(text="The fan runs above 60 degrees.", source="manual/heat.md", heading="Heat › Fan"),
    Passage(text="Yes: it may run for years.", source="guide.pdf", page=7, questions=(NIGHT,)),
)
THRESHOLD = 0.99


def knowing_bundle(
    folder: Path,
    passages: Sequence[Passage] = PASSAGES,
    *,
    answer: str = "quote",
    recites: str = "",
    context: int = 512,
    take: int = 3,
    system: str = "",
) -> Path:
    """Write a bundle with the documents `passages`."""
    tiny_bundle(folder, context=context, recites=recites, system=system)
    embedder = write_embedder(tiny_bert(folder.with_name("bert")), folder / EMBEDDER, "F16").file
    asked = [each.questions or (FAN,) for each in passages]
    entries = entries_of(passages, asked, (), fitted=True)
    write_index(
        folder / KNOWLEDGE,
        passages,
        entries,
        _vectors(embedder, [entry.text for entry in entries]),
        file_digest(embedder),
    )
    goldens = [(asked[0][0], 1)]
    set_fitted(
        folder / KNOWLEDGE,
        {"words": 0.0, "unanswered": 0.0, "next": 0.0, "threshold": THRESHOLD},
        goldens,
    )
    manifest = read_manifest(folder)
    added = tuple(file_entry(folder, name) for name in (KNOWLEDGE, EMBEDDER))
    known: Manifest = replace(
        manifest,
        files=(*manifest.files, *added),
        knowledge=KNOWLEDGE,
        embedder=EMBEDDER,
        answer=answer,
        take=take,
    )
    (folder / "manifest.json").write_bytes(to_bytes(known))
    return folder


def _vectors(file: Path, texts: Sequence[str]):  # type: ignore[no-untyped-def]
    import numpy as np

    embedder = Embedder(file)
    try:
        return np.array([embedder.embed(text) for text in texts], dtype=np.float32)
    finally:
        embedder.close()


@contextmanager
def serving(
    folder: Path, *, token: str = "", waiting: int = 8, ring: "Ring | None" = None
) -> Iterator[int]:
    """Yield the port of the service of a bundle with documents."""
    manifest = read_manifest(folder)
    with service(
        lambda: open_bundle(folder, manifest, threads=1),
        token=token,
        waiting=waiting,
        manifest=manifest,
        open_library=lambda: open_library(folder, manifest),
        ring=ring,
    ) as port:
        if not token:
            wait_until_loaded(port)
        yield port
