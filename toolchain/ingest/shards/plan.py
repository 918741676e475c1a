"""Cuts files into shards. Files of a value a line are cut at lines, any other file is one shard."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from toolchain.errors import ToolchainError
from toolchain.ingest.files import is_of_lines
from toolchain.ingest.files.source import MAX_LINE_BYTES, Cut
from toolchain.texts import existing

SHARD_BYTES = 8 << 20
"""Bytes of a shard: read in about ten seconds, so that a machine that is taken away each minute
gets on."""
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One shard of a recipe's files."""

    number: int
    name: str
    """File, as the recipe spells it."""
    cut: Cut | None = None
    """Part of the file; None for all of it."""


def shards_of(names: tuple[str, ...], folder: Path, shard_bytes: int) -> list[Shard]:
    """Return the shards of some files, in the order of their rows."""
    shards: list[Shard] = []
    for name in names:
        for cut in _cuts(name, folder, shard_bytes):
            shards.append(Shard(number=len(shards), name=name, cut=cut))
    return shards


def _cuts(name: str, folder: Path, shard_bytes: int) -> list[Cut | None]:
    try:
        path = existing((name,), folder, "files")[name]
        if path.stat().st_size <= shard_bytes or not is_of_lines(name, path):
            return [None]
        with path.open("rb") as stream:
            return list(_line_cuts(stream, shard_bytes))
    except (OSError, ToolchainError):
        return [None]  # who reads the shard says what is wrong


def _line_cuts(stream: IO[bytes], shard_bytes: int) -> Iterator[Cut]:
    start = line = 0
    while True:
        left, lines = shard_bytes, 0
        while left > 0 and (block := stream.read(min(left, _BLOCK))):
            lines += block.count(b"\n")
            left -= len(block)
        while rest := stream.readline(MAX_LINE_BYTES):
            if rest.endswith(b"\n"):
                lines += 1
                break
        end = stream.tell()
        if end > start:
            yield Cut(start=start, end=end, line=line)
        if not rest:
            return
        start, line = end, line + lines
