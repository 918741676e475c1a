"""CSV and TSV: a header names the columns; a cell may hold line ends between quotes."""

import csv
import re
from collections.abc import Iterator, Sequence

from toolchain.errors import ArtifactError
from toolchain.ingest.files.source import MAX_LINE_BYTES, Raw, Source
from toolchain.texts import Unreadable, parse_json

_SEPARATORS = ",;\t|"
_NAMED_SEPARATOR = re.compile(r"sep=([,;\t|])", re.IGNORECASE)
"""First line by which Excel names the separator."""
_JSON_COLUMNS = {"messages", "conversations", "chosen", "rejected"}
"""Columns whose cells may hold JSON: tools write lists into tables so."""


def comma_rows(source: Source) -> Iterator[Raw]:
    """Yield the rows of a table; the separator is the one that stands most often in its header.

    A first line such as `sep=;` names it.
    """
    header = next((line for _, line in source.lines() if line.strip()), "")
    if named := _NAMED_SEPARATOR.fullmatch(header):
        yield from _rows(source, named[1], is_named=True)
        return
    counts = {sign: header.count(sign) for sign in _SEPARATORS}
    yield from _rows(source, max(counts, key=lambda sign: counts[sign]))


def tab_rows(source: Source) -> Iterator[Raw]:
    """Yield the rows of a table whose cells stand between tabs."""
    yield from _rows(source, "\t")


def _rows(source: Source, separator: str, *, is_named: bool = False) -> Iterator[Raw]:
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = (f"{line}\n" for _, line in source.lines())
    reader = csv.reader(lines, delimiter=separator, strict=True)
    header: Sequence[str] = ()
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _not_a_row(source, number, error) from error
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if is_named:
            is_named = False  # the line that names the separator
        elif not header:
            header = _header(source, number, cells)
        else:
            yield _row(source, number, header, cells)


def _not_a_row(source: Source, number: int, error: csv.Error) -> ArtifactError:
    where = f"{source.name}:{number}"
    if "new-line character" in str(error):
        return ArtifactError(
            f"{where}: a carriage return ends no line, and stands in a cell without quotes",
            hint=f"tr '\\r' '\\n' < {source.name} > NEW.csv",
        )
    return ArtifactError(
        f"{where}: not a row of a table: {error}",
        hint='a quote in a cell is written twice: "she said ""yes"""',
    )


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
