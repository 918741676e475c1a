"""Markdown and text: a `.md` file is one document, a `.txt` file is one document a paragraph."""

from collections.abc import Iterator

from toolchain.errors import ArtifactError
from toolchain.ingest.entries import Document
from toolchain.ingest.files.source import Raw, Source

MAX_DOCUMENT_CHARACTERS = 16 << 20
"""Limit of one document, which is held in memory: a few kilobytes packed may be gigabytes."""


def document(source: Source) -> Iterator[Raw]:
    """Yield a file as one document."""
    lines, size = list[str](), 0
    for number, line in source.lines():
        size = _grown(source, number, size, line)
        lines.append(line)
    text = "\n".join(lines).strip()
    place = source.place(0)
    yield place, Document(place=place, text=text)


def paragraphs(source: Source) -> Iterator[Raw]:
    """Yield each paragraph as a document; blank lines stand between them."""
    number, lines, size = 1, list[str](), 0
    for at, line in source.lines():
        if line.strip(" \t"):
            size = _grown(source, at, size, line)
            lines.append(line)
        elif lines:
            yield _paragraph(source, number, lines)
            number, lines, size = number + 1, [], 0

    if lines:
        yield _paragraph(source, number, lines)


def _grown(source: Source, number: int, size: int, line: str) -> int:
    """Return the size of a document with one more line; raise ArtifactError for too much."""
    size += len(line) + 1
    if size > MAX_DOCUMENT_CHARACTERS:
        limit = f"{MAX_DOCUMENT_CHARACTERS >> 20} Mi characters"
        raise ArtifactError(
            f"{source.name}:{number}: one document of more than {limit}",
            hint="cut it into several files, or into paragraphs of a `.txt` file",
        )
    return size


def _paragraph(source: Source, number: int, lines: list[str]) -> Raw:
    place = source.place(number, "paragraph")
    return place, Document(place=place, text="\n".join(lines).strip())
