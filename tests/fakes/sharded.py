"""Data of every kind of dirt that is cut into many shards, and a process that reads it.

`python -m tests.fakes.sharded FOLDER OUT PROCESSES [ENGINE ADDRESS]` prints the digest.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from toolchain.artifacts import Dataset
from toolchain.ingest import Ways, ingest
from toolchain.progress import Silent
from toolchain.recipe import DataSpec, IngestSpec

FILES = ("first.jsonl", "second.jsonl", "table.csv", "notes.txt")
SHARD_BYTES = 4096
SPEC: dict[str, Any] = {
    "files": FILES,
    "hold_out": "phrasing",
    "system": "Be brief.",
    "turns": ({"question": "Word 3 of 17?", "answer": "Yes."},),
}
WORDS = [f"{start}{end}" for start in "bdfgklmnprstvz" for end in ("a", "en", "ir", "ots", "un")]


def write_data(folder: Path, rows: int = 400) -> None:
    """Write rows of which some repeat, nearly repeat, name people, are HTML, or are dropped."""
    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    written = [_row(draw, number) for number in range(rows)]
    for number in range(0, rows, 9):  # repeated somewhere else, in another shard
        other = written[draw.randrange(rows)]
        written[number] = {**other, "seen": "again"}
    for number in range(4, rows, 13):
        other = written[draw.randrange(rows)]
        asked = [each.replace(" ", " quite ", 1) for each in other["question"]]
        written[number] = {**other, "question": asked}
    for number in range(7, rows, 50):
        written[number] = {"question": "empty?", "answer": " "}
    for name, part in (("first.jsonl", written[::2]), ("second.jsonl", written[1::2])):
        lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in part)
        (folder / name).write_text("".join(lines), encoding="utf-8")
    cells = "".join(f'"{_sentence(draw, 9)}?","{_sentence(draw, 12)}"\n' for _ in range(60))
    (folder / "table.csv").write_text(f"question,answer\n{cells}", encoding="utf-8")
    pages = [_sentence(draw, 40) for _ in range(30)]
    pages += [pages[3], pages[4] + " end"]
    (folder / "notes.txt").write_text("\n\n".join(pages), encoding="utf-8")


def _row(draw: random.Random, number: int) -> dict[str, Any]:
    answer = f"{_sentence(draw, 20)}."
    if number % 11 == 0:
        answer += f" 电话13{draw.randrange(10**9):09d}，谢谢"
    if number % 17 == 0:
        answer = f"<p>{answer}</p>"
    asked = [f"{_sentence(draw, 8)}?" for _ in range(1 + number % 3)]
    return {"question": asked, "answer": answer, **({"id": number} if number % 5 == 0 else {})}


def _sentence(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(WORDS, k=words))


def read(
    folder: Path, out: Path, ways: Ways | None = None, spec: dict[str, Any] | None = None
) -> Dataset:
    """Read the data into `out`/ingest; shards are kept in `out`."""
    ways = ways or Ways(work=out, shard_bytes=SHARD_BYTES, ingest=IngestSpec(processes=1))
    given = DataSpec.model_validate(SPEC | (spec or {}))
    return ingest(given, folder, out / "ingest", Silent(), seed=1, ways=ways)


def main() -> None:
    """Read the data as the command line says."""
    folder, out, processes, *cluster = sys.argv[1:]
    spec = IngestSpec.model_validate(
        {"processes": int(processes), "engine": cluster[0], "address": cluster[1]}
        if cluster
        else {"processes": int(processes)}
    )
    ways = Ways(work=Path(out), shard_bytes=SHARD_BYTES, ingest=spec)
    sys.stdout.write(read(Path(folder), Path(out), ways).digest)


if __name__ == "__main__":
    main()
