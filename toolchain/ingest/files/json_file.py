"""JSON in its three shapes: a value a line, one list, one object with a list in it."""

import codecs
import json
from collections.abc import Iterator
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.ingest.files.source import MAX_LINE_BYTES, Raw, Source
from toolchain.texts import NUL, Unreadable, decoded, first_of, parse_json, too_deep

ENTRY_KEYS = {"messages", "conversations", "question", "prompt", "instruction", "chosen", "input"}
"""Keys by which an object is an entry, and not what a list of entries is wrapped in."""
_CHUNK = 1 << 20
_MAX_OBJECT_BYTES = 64 << 20
"""Limit of a file that is one object: it is read as a whole."""
_BLANK = b" \t\r\n"


def lines_or_array(source: Source) -> Iterator[Raw]:
    """Yield the values of a `.jsonl` file, also where a list is saved under this name."""
    if source.cut:
        yield from _lines(source)
        return
    first, line = _first_line(source)
    if first == b"[" and not _is_whole(line):
        yield from _elements(source)
    else:
        yield from _lines(source)


def json_rows(source: Source) -> Iterator[Raw]:
    """Yield the entries of a `.json` file."""
    if source.cut:
        yield from _lines(source)
        return
    first, line = _first_line(source)
    if first == b"[":
        yield from _elements(source)
    elif first == b"{" and (not _is_whole(line) or _is_wrapped(source, line)):
        yield from _object(source)
    else:
        yield from _lines(source)


def _is_wrapped(source: Source, line: bytes) -> bool:
    """Say whether one line is all that a file has, and an object around a list of entries."""
    value = json.loads(line)
    if ENTRY_KEYS & _entry_keys(value) or not _lists_of_objects(value):
        return False
    with source.opened() as stream:
        content = stream.read(2 * MAX_LINE_BYTES)
    return content.removeprefix(codecs.BOM_UTF8).strip(_BLANK) == line


def has_wrapped_lines(source: Source) -> bool:
    """Say whether a `.json` file that is not packed holds a value a line."""
    first, line = _first_line(source)
    return has_lines(source) and not (first == b"{" and _is_wrapped(source, line))


def has_lines(source: Source) -> bool:
    """Say whether a file that is not packed holds a value a line."""
    first, line = _first_line(source)
    return _is_whole(line) if first in (b"[", b"{") else bool(first)


def _first_line(source: Source) -> tuple[bytes, bytes]:
    """Return the first byte that is no space, and the line that it stands on."""
    with source.opened() as stream:
        while line := stream.readline(MAX_LINE_BYTES):
            if text := line.removeprefix(codecs.BOM_UTF8).strip(_BLANK):
                return text[:1], text
    return b"", b""


def _is_whole(line: bytes) -> bool:
    """Say whether a line is a JSON value that is no list of objects."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return not (isinstance(value, list) and value and isinstance(value[0], dict))


def _lines(source: Source) -> Iterator[Raw]:
    for number, line in source.lines():
        if line.strip():
            yield _value(source, number, line)


def _value(source: Source, number: int, text: str) -> Raw:
    place = source.place(number)
    try:
        value = parse_json(text)
    except Unreadable as error:
        hint = error.hint or _hint(text)
        return place, ArtifactError(f"{place}: {error.problem}", hint=hint)
    if first_of(NUL, value):
        return place, ArtifactError(f"{place}: holds a NUL character (`\\u0000`)")
    return place, value


def _hint(text: str) -> str:
    """Return what to do about a line that is no JSON."""
    plain = text.strip()
    if plain in ("{", "["):
        return "each line is one whole JSON object: jq -c . OLD > NEW.jsonl writes them so"
    if plain.endswith("},"):
        return "each line is one whole JSON object: without a comma behind it"
    if plain.startswith("{'"):
        return "JSON has double quotes: this is Python's own way of writing a dict"
    return "each line is one whole JSON object"


def _elements(source: Source) -> Iterator[Raw]:
    """Yield the elements of a list, each with the line on which it begins."""
    reader = _Reader(source)
    reader.skip("[")
    if reader.peek() == "]":
        reader.end()
        return
    while True:
        reader.peek()  # steps over what is blank, so that the line is the element's own
        line = reader.line
        yield _value(source, line, reader.element())
        if reader.peek() != ",":
            reader.end()
            return
        reader.skip(",")


class _Reader:
    """A JSON text of any length that is read value by value."""

    def __init__(self, source: Source) -> None:
        self.line = 1
        self._source = source
        self._chunks = self._texts()
        self._text = ""
        self._at = 0
        # Numbers are only stepped over here: `parse_json` judges them.
        self._decoder = json.JSONDecoder(parse_int=len, parse_float=len)

    def peek(self) -> str:
        """Return the next sign that is not blank; empty at the end."""
        while True:
            while self._at < len(self._text):
                if not self._text[self._at].isspace():
                    return self._text[self._at]
                self._step(self._at + 1)
            if not self._more():
                return ""

    def skip(self, sign: str) -> None:
        """Step over a sign; raise ArtifactError where another stands."""
        if self.peek() != sign:
            raise self._invalid(f"`{sign}` is missing")
        self._step(self._at + 1)

    def end(self) -> None:
        """Step over the end of the list; raise ArtifactError for anything behind it."""
        self.skip("]")
        # Two lists in one file are what `cat a.json b.json` makes: the second must not get lost.
        if self.peek():
            raise self._invalid("more text behind the end of the list")

    def element(self) -> str:
        """Return the text of the next value."""
        self.peek()
        while True:
            try:
                _, end = self._decoder.raw_decode(self._text, self._at)
            except RecursionError as error:
                deep = too_deep(self._text[self._at :])
                raise ArtifactError(
                    f"{self._source.name}:{self.line + deep.line - 1}: {deep.problem}"
                ) from error
            except ValueError as error:
                if len(self._text) - self._at > MAX_LINE_BYTES or not self._more():
                    raise self._invalid("") from error
                continue
            text = self._text[self._at : end]
            self._step(end)
            return text

    def _step(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end

    def _more(self) -> bool:
        chunk = next(self._chunks, "")
        self._text, self._at = self._text[self._at :] + chunk, 0
        return bool(chunk)

    def _invalid(self, why: str) -> ArtifactError:
        problem = "not valid JSON" + (f": {why}" if why else "")
        return ArtifactError(
            f"{self._source.name}:{self.line}: {problem}",
            hint="the file is one list: [entry, entry, …]",
        )

    def _texts(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        try:
            with self._source.opened() as stream:
                while chunk := stream.read(_CHUNK):
                    yield decoder.decode(chunk)
                yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            where = f"{self._source.name}:{self.line}"
            raise ArtifactError(f"{where}: not valid UTF-8 behind this line") from error


def _object(source: Source) -> Iterator[Raw]:
    """Yield the entries of a file that is one object: itself, or the one list of objects in it."""
    with source.opened() as stream:
        content = stream.read(_MAX_OBJECT_BYTES + 1)
    if len(content) > _MAX_OBJECT_BYTES:
        limit = f"{_MAX_OBJECT_BYTES >> 20} MiB"
        raise ArtifactError(
            f"{source.name}: one object of more than {limit}",
            hint=f"one entry a line: jq -c '.KEY[]' {source.name} > NEW.jsonl",
        )
    try:
        value = parse_json(decoded(content))
    except Unreadable as error:
        raise ArtifactError(
            f"{source.name}:{error.line}: {error.problem}", hint=error.hint
        ) from error

    lists = [] if ENTRY_KEYS & _entry_keys(value) else _lists_of_objects(value)
    if len(lists) > 1:
        raise ArtifactError(
            f"{source.name}: {len(lists)} lists of entries: {', '.join(f'`{k}`' for k in lists)}",
            hint=f"take one: jq -c '.{lists[0]}[]' {source.name} > NEW.jsonl",
        )
    if not lists:
        yield _checked(source.place(1), value)
        return
    for number, each in enumerate(value[lists[0]], 1):
        yield _checked(source.place(number, f"{lists[0]}, entry"), each)


def _checked(place: Any, value: Any) -> Raw:
    if first_of(NUL, value):
        return place, ArtifactError(f"{place}: holds a NUL character (`\\u0000`)")
    return place, value


def _entry_keys(value: dict[str, Any]) -> set[str]:
    """Return the keys of an object, without those whose list holds entries of its own."""
    return {
        key
        for key, each in value.items()
        if not (isinstance(each, list) and each and _is_entry(each[0]))
    }


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and bool(ENTRY_KEYS & value.keys())


def _lists_of_objects(value: dict[str, Any]) -> list[str]:
    return [
        key
        for key, each in value.items()
        if isinstance(each, list) and each and isinstance(each[0], dict)
    ]
