"""Parquet, read by pyarrow in batches; the extra `data` installs it."""

import importlib.util
from collections.abc import Iterator

from toolchain import extras
from toolchain.errors import ArtifactError, ToolError
from toolchain.ingest.files.source import Raw, Source
from toolchain.texts import HALF_CHARACTERS, NUL, first_of

_BATCH = 1024


def parquet_rows(source: Source) -> Iterator[Raw]:
    """Yield the rows of a Parquet file; raise ToolError without pyarrow."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ToolError(
            f"{source.name}: Parquet needs pyarrow, which is not installed",
            hint=extras.remedy("data"),
        )
    import pyarrow
    from pyarrow import parquet

    try:
        # Memory of a batch is returned to the system, not kept for the next file.
        with parquet.ParquetFile(source.path, memory_map=False) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield _checked(source, number, row)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ArtifactError(f"{source.name}: cannot be read as Parquet: {reason}") from error


def _checked(source: Source, number: int, row: dict[str, object]) -> Raw:
    place = source.place(number, "row")
    # A column that only other rows fill is null here, as a missing key is in JSON.
    given = {key: value for key, value in row.items() if value is not None}
    if first_of(NUL, given) or first_of(HALF_CHARACTERS, given):
        return place, ArtifactError(f"{place}: holds a NUL character or half of one")
    return place, given
