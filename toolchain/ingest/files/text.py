"""Markdown and text: a `.md` file is one document, a `.txt` file is one document a paragraph."""

from collections.abc import Iterator

from toolchain.ingest.entries import Document
from toolchain.ingest.files.source import Raw, Source


def document(source: Source) -> Iterator[Raw]:
    """Yield a file as one document."""
    text = "\n".join(line for _, line in source.lines()).strip()
    place = source.place(0)
    yield place, Document(place=place, text=text)


def paragraphs(source: Source) -> Iterator[Raw]:
    """Yield each paragraph as a document; blank lines stand between them."""
    number, lines = 1, list[str]()
    for _, line in source.lines():
        if line.strip(" \t"):
            lines.append(line)
        elif lines:
            yield _paragraph(source, number, lines)
            number, lines = number + 1, []

    if lines:
        yield _paragraph(source, number, lines)


def _paragraph(source: Source, number: int, lines: list[str]) -> Raw:
    place = source.place(number, "paragraph")
    return place, Document(place=place, text="\n".join(lines).strip())
