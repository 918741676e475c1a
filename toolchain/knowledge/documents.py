"""A recipe's documents → passages, and what each file gave.

Nothing is dropped without a word: a file gives passages, or the reason why it gives none. The rule
to keep: equal files give equal passages, in the order of their paths.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from toolchain.knowledge.files import Found, find_files
from toolchain.knowledge.passages import Block, Passage, cut
from toolchain.knowledge.readers import Unread, docx, html, markdown, pdf, rows, text
from toolchain.texts import NOT_UTF8, Unreadable

Reader = Callable[[Path, list[str]], Iterator[Block]]
READERS: Mapping[str, Reader] = {
    ".csv": rows.read_csv,
    ".docx": docx.read,
    ".htm": html.read,
    ".html": html.read,
    ".json": rows.read_json,
    ".jsonl": rows.read_jsonl,
    ".markdown": markdown.read,
    ".md": markdown.read,
    ".ndjson": rows.read_jsonl,
    ".pdf": pdf.read,
    ".text": text.read,
    ".tsv": rows.read_csv,
    ".txt": text.read,
    ".xhtml": html.read,
}
_CONVERT = {
    ".doc": "save it as .docx",
    ".epub": "make a page of it: pandoc FILE -o FILE.html",
    ".odt": "save it as .docx",
    ".ppt": "save it as .pdf",
    ".pptx": "save it as .pdf",
    ".rst": "make Markdown of it: pandoc FILE -o FILE.md",
    ".rtf": "save it as .docx",
    ".xls": "save it as .csv",
    ".xlsx": "save it as .csv",
}
"""Endings of files that people have, and how to make one of them that is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """What a file gave."""

    passages: int = 0
    """Number of passages that are in the library."""
    characters: int = 0
    """Number of their characters."""
    duplicates: int = 0
    """Number of passages that another one already says, word for word."""
    reason: str = ""
    """Why it gave none: `is empty`."""
    left_out: tuple[str, ...] = ()
    """Parts that were not read, a sentence each: `line 12: no key answer`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """Passages of a recipe's documents."""

    passages: tuple[Passage, ...]
    """In the order of the files' paths, then of their text."""
    files: Mapping[str, FileResult]
    """Path relative to the recipe's folder → what the file gave."""


@dataclass(slots=True)
class _Kept:
    """Passages so far, by their text; the first one of equal ones takes the questions of all."""

    by_text: dict[str, Passage] = field(default_factory=dict)

    def add(self, passage: Passage) -> bool:
        """Keep a passage; return whether it is new."""
        key = " ".join(passage.text.split())
        known = self.by_text.setdefault(key, passage)
        if known is passage:
            return True
        questions = tuple(dict.fromkeys(known.questions + passage.questions))
        self.by_text[key] = replace(known, questions=questions)
        return False


def read_documents(patterns: Sequence[str], near: Path, words: int = 120) -> Library:
    """Read the files that patterns name, relative to `near`, and cut them into passages.

    Raises ConfigError for a pattern that matches nothing, and ToolError where the library of a
    format is not installed.
    """
    kept = _Kept()
    files: dict[str, FileResult] = {}
    named: set[str] = set()
    for name, found in find_files(patterns, near).items():
        reader = READERS.get(found.path.suffix.lower())
        if found.reason:
            files[name] = FileResult(reason=found.reason)
        elif reader is None:
            files[name] = FileResult(reason=_unknown(found.path.suffix.lower(), named))
        else:
            files[name] = _read(name, found, reader, kept, words)
    return Library(passages=tuple(kept.by_text.values()), files=files)


def _read(name: str, found: Found, reader: Reader, kept: _Kept, words: int) -> FileResult:
    """Read one file into `kept`."""
    notes: list[str] = []
    new = characters = duplicates = 0
    reason = ""
    try:
        for passage in filter(_says_something, cut(reader(found.path, notes), name, words)):
            if kept.add(passage):
                new += 1
                characters += len(passage.text)
            else:
                duplicates += 1
    except Unread as error:
        reason = str(error)
    except Unreadable as error:
        hint = error.hint or (NOT_UTF8 if "UTF-8" in error.problem else "")
        reason = f"line {error.line}: {error.problem}" + (f": {hint}" if hint else "")
    except OSError as error:
        reason = f"cannot be read: {(error.strerror or str(error)).lower()}"
    if not (new or duplicates or reason):
        reason = notes[0] if notes else "holds no text, or headings alone"
    return FileResult(
        passages=new,
        characters=characters,
        duplicates=duplicates,
        reason=reason,
        left_out=tuple(notes),
    )


def _says_something(passage: Passage) -> bool:
    """Return whether a passage holds a letter or a digit, or is somebody's answer."""
    # The vector of emojis and rules is close to any text that the embedder does not know.
    return bool(passage.questions) or any(map(str.isalnum, passage.text))


def _unknown(suffix: str, named: set[str]) -> str:
    """Return why files with an ending are not read; the known ones are named once."""
    kind = f"files that end in `{suffix}`" if suffix else "files without an ending"
    reason = f"{kind} are not read"
    if suffix in named:
        return reason
    named.add(suffix)
    return f"{reason}: {_CONVERT.get(suffix) or 'known: ' + ', '.join(sorted(READERS))}"
