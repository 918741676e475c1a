"""What an answer stands on: the passages of a board's documents.

The rule to keep: an answer's text comes first and alone; its sources follow, quietly.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from toolchain import console


def sources(end: Mapping[str, Any], *, whole: bool = False) -> None:
    """Show the sources of an answer in one line, or each with its passage if `whole`.

    Where the documents do not know, the answer itself names the nearest passage: it is shown with
    `whole` alone, and so are passages that were found as well.
    """
    for line in _passages(end) if whole else _titles(end):
        console.show_aside(line)


def _titles(end: Mapping[str, Any]) -> Iterator[str]:
    titles = [source["title"] for source in end.get("sources", [])]
    if titles and end.get("known") is not False:
        yield _one_line(f"from: {'; '.join(titles)}")


def _passages(end: Mapping[str, Any]) -> Iterator[str]:
    first, others = ("nearest", "near") if end.get("known") is False else ("from", "see also")
    named = [(first, each) for each in end.get("sources", [])]
    named += [(others, each) for each in end.get("near", [])]
    for what, source in named:
        yield _one_line(f"\n{what}: {source['title']}")
        text = source.get("text", "")
        # A passage that is quoted as it stands was just read.
        if text and text != end["text"]:
            yield "\n".join(f"  {line}" for line in text.splitlines())


def _one_line(text: str) -> str:
    return text[:1] + text[1:].replace("\n", " ")
