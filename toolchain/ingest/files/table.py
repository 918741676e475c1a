"""CSV and TSV: a header names the columns; a cell may hold line ends between quotes."""

import csv
from collections.abc import Iterator, Sequence

from toolchain.errors import ArtifactError
from toolchain.ingest.files.source import MAX_LINE_BYTES, Raw, Source
from toolchain.texts import Unreadable, parse_json

_SEPARATORS = ",;\t|"
_JSON_COLUMNS = {"messages", "conversations", "chosen", "rejected"}
"""Columns whose cells may hold JSON: tools write lists into tables so."""


def comma_rows(source: Source) -> Iterator[Raw]:
    """Yield the rows of a table; the separator is the one that stands most often in its header."""
    header = next((line for _, line in source.lines() if line.strip()), "")
    counts = {sign: header.count(sign) for sign in _SEPARATORS}
    yield from _rows(source, max(counts, key=lambda sign: counts[sign]))


def tab_rows(source: Source) -> Iterator[Raw]:
    """Yield the rows of a table whose cells stand between tabs."""
    yield from _rows(source, "\t")


def _rows(source: Source, separator: str) -> Iterator[Raw]:
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = (f"{line}\n" for _, line in source.lines())
    reader = csv.reader(lines, delimiter=separator, strict=True)
    header: Sequence[str] = ()
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ArtifactError(
                f"{source.name}:{number}: not a row of a table: {error}",
                hint='a quote in a cell is written twice: "she said ""yes"""',
            ) from error
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = _header(source, number, cells)
        else:
            yield _row(source, number, header, cells)


def _header(source: Source, number: int, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if name and names.count(name) > 1), "")
    if twice:
        raise ArtifactError(f"{source.name}:{number}: two columns are called `{twice[:60]}`")
    return names


def _row(source: Source, number: int, header: Sequence[str], cells: list[str]) -> Raw:
    place = source.place(number)
    while len(cells) > len(header) and not cells[-1].strip():
        cells.pop()
    if len(cells) != len(header):
        problem = f"{len(cells)} cells, the header has {len(header)}"
        hint = "a cell with a separator or a line end in it stands between double quotes"
        return place, ArtifactError(f"{place}: {problem}", hint=hint)
    row = {name: cell for name, cell in zip(header, cells, strict=True) if name}
    try:
        return place, {name: _cell(name, cell) for name, cell in row.items()}
    except Unreadable as error:
        return place, ArtifactError(f"{place}: {error.problem}", hint=error.hint)


def _cell(name: str, cell: str) -> object:
    is_list = name in _JSON_COLUMNS and cell.lstrip()[:1] == "["
    return parse_json(cell) if is_list else cell
