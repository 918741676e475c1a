"""Small data sets through the real ingest, and a reporter that remembers what was said."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.artifacts import Dataset
from toolchain.ingest import ingest
from toolchain.progress import Silent
from toolchain.recipe import DataSpec

QUESTIONS = (
    {
        "question": ["how hot is too hot?", "too hot for a Pi?", "what temperature is bad"],
        "answer": "Above 80 degrees it slows down.",
    },
    {
        "question": ["which cable?", "what cable do I need", "the right cable please"],
        "answer": "A short and thick one.",
    },
    {
        "question": ["how do I stop it?", "switch it off", "what shuts it down"],
        "answer": "Run sudo poweroff and wait.",
    },
    {"question": ["温度多高算高？", "多少度太热", "过热的温度"], "answer": "超过八十度时会降频。"},
)


class Recorder:
    """A reporter that keeps the notes and the names of the bars."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.bars: set[str] = set()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, name: str, done: float, total: float, unit: str = "", figures: str = "") -> None:
        self.bars.add(name)


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def tiny_dataset(
    folder: Path, *, hold_out: str = "phrasing", rows: Sequence[Mapping[str, Any]] = QUESTIONS
) -> Dataset:
    """Write four questions of three phrasings each and ingest them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "questions.jsonl", rows)
    spec = DataSpec.model_validate({"files": ("questions.jsonl",), "hold_out": hold_out})
    return ingest(spec, folder, folder / "dataset", Silent(), seed=0)
