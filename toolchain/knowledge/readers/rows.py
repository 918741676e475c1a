"""Tables of questions and answers (CSV, TSV, JSON, JSONL) → one block for each answer."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolchain.knowledge.passages import Block
from toolchain.knowledge.readers import Unread, content_of
from toolchain.texts import Unreadable, decoded, parse_json

QUESTION = ("question", "questions", "query", "prompt", "instruction", "q", "frage", "问题", "问")
ANSWER = (
    "answer",
    "answers",
    "response",
    "completion",
    "output",
    "reply",
    "a",
    "antwort",
    "答案",
    "回答",
    "答",
)
TEXT = ("text", "content", "passage", "body")
"""Keys of a passage that answers no question in particular."""
HEADING = ("heading", "title", "section", "topic", "category")
MAX_ANSWER = 20_000
"""Characters of an answer; a longer one is a document."""
SHOWN = 20
"""Rows that are left out and named one by one."""
_KEYS = 'a row is {"question": text or list of texts, "answer": text}'
MAX_CELL_CHARACTERS = 131_072
"""Longest cell of a table: the csv module's own bound."""


def read_jsonl(file: Path, notes: list[str]) -> Iterator[Block]:
    """Yield an answer for each line of a JSONL file."""
    yield from _answers(_jsonl_rows(file), notes)


def read_json(file: Path, notes: list[str]) -> Iterator[Block]:
    """Yield an answer for each row of a JSON file: a list, or an object that holds one list."""
    yield from _answers(_json_rows(file), notes)


def read_csv(file: Path, notes: list[str]) -> Iterator[Block]:
    """Yield an answer for each row of a CSV or TSV file whose first row names the columns."""
    yield from _answers(_table_rows(file), notes)


def rows_of(file: Path) -> Iterator[Any]:
    """Yield the rows of a file of questions and answers, up to where it cannot be read."""
    suffix = file.suffix.lower()
    read = {".json": _json_rows, ".csv": _table_rows, ".tsv": _table_rows}.get(suffix, _jsonl_rows)
    try:
        for _, row in read(file):
            yield row
    except (Unread, Unreadable):
        return


def _jsonl_rows(file: Path) -> Iterator[tuple[str, Any]]:
    yield from json_lines(decoded(content_of(file)))


def _json_rows(file: Path) -> Iterator[tuple[str, Any]]:
    value = parse_json(decoded(content_of(file)))
    if isinstance(value, dict):
        lists = [each for each in value.values() if isinstance(each, list)]
        if not _has(value, ANSWER + TEXT) and len(lists) == 1:
            value = lists[0]
        elif value and all(isinstance(each, str) for each in value.values()):
            # {"question": "answer", …}, unless these are the names of the keys themselves.
            named = _has(value, QUESTION + TEXT + ANSWER)
            value = [value] if named else [{"q": q, "a": a} for q, a in value.items()]
        else:
            value = [value]
    if not isinstance(value, list):
        raise Unread(f"holds no list of questions and answers: {_KEYS}")
    yield from ((f"row {number}", row) for number, row in enumerate(value, 1))


def _table_rows(file: Path) -> Iterator[tuple[str, Any]]:
    text = decoded(content_of(file))
    first = text.partition("\n")[0]
    # A spreadsheet writes semicolons where the comma is the decimal sign.
    sign = "\t" if file.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    # The limit is the whole process's, and `ingest` raises it for tables of its own.
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=sign)

    names: list[str] | None = None
    try:
        names = [name.strip().lower() for name in next(rows, [])]
        if not _has(dict.fromkeys(names, "-"), ANSWER + TEXT):
            raise Unread(
                f"has no column `answer` (columns: {', '.join(names)[:80]}): "
                "the first row names them, for instance `question,answer`"
            )
        yield from _csv_rows(rows, names)
    except csv.Error as error:
        raise Unreadable(rows.line_num, f"not valid CSV: {error}") from error


def json_lines(text: str) -> Iterator[tuple[str, Any]]:
    """Yield each line with its value, or with what makes it unreadable; empty ones are no lines."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", parse_json(line)
            except Unreadable as error:
                yield f"line {number}", error


def _csv_rows(rows: Any, names: list[str]) -> Iterator[tuple[str, Any]]:
    for cells in rows:
        if any(cell.strip() for cell in cells):
            yield f"line {rows.line_num}", dict(zip(names, cells, strict=False))


def _answers(rows: Iterator[tuple[str, Any]], notes: list[str]) -> Iterator[Block]:
    """Yield the answers of rows; what is wrong with a row goes to the notes."""
    wrong = 0
    for where, row in rows:
        block = block_of(row)
        if isinstance(block, Block):
            yield block
            continue
        wrong += 1
        if wrong <= SHOWN:
            notes.append(f"{where}: {block}")
    if wrong > SHOWN:
        notes.append(f"{wrong - SHOWN:,} more rows are left out")


def block_of(row: Any) -> Block | str:
    """Return the answer of a row, or what is wrong with the row."""
    if isinstance(row, Unreadable):
        return row.problem
    if not isinstance(row, dict):
        return f"not an object: {_KEYS}"
    if "messages" in row:
        row = _of_messages(row["messages"])

    keys = {str(key).strip().lower(): value for key, value in row.items()}
    answer, questions = _value(keys, ANSWER), _value(keys, QUESTION)
    answer = _value(keys, TEXT) if answer is None else answer
    if not isinstance(questions, list):
        questions = [] if questions is None else [questions]
    if answer is None:
        return f"no key `answer`: {_KEYS}"
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, str) or not all(isinstance(each, str) for each in questions):
        return f"question and answer must be texts: {_KEYS}"
    if not answer.strip():
        return "an empty answer"
    if len(answer) > MAX_ANSWER:
        return f"an answer of {len(answer):,} characters: put it into a text file"

    heading = _value(keys, HEADING)
    above = (heading,) if isinstance(heading, str) else ()
    return Block(text=answer, kind="answer", headings=above, questions=tuple(questions))


def _of_messages(messages: Any) -> Mapping[str, Any]:
    """Return the last question and its answer of a conversation, as training reads it."""
    said: dict[str, Any] = {}
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") in ("user", "assistant"):
            said[message["role"]] = message.get("content")
    return {"question": said.get("user"), "answer": said.get("assistant")}


def _value(row: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _has(row: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    return any(str(name).strip().lower() in keys for name in row)
