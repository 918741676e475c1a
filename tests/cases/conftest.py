"""A work folder that a test may spoil."""

import json
import shutil
from pathlib import Path

import pytest

from tests.fakes.adapters import tiny_adapter
from tests.fakes.facts import QUESTIONS
from tests.fakes.models import tiny_llama


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, an adapter for it, and data."""
    folder = tmp_path_factory.mktemp("made")
    base = tiny_llama(folder / "base")
    tiny_adapter(folder / "skill", base)
    rows = [json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS]
    (folder / "facts.jsonl").write_text("".join(rows))
    return folder


@pytest.fixture
def desk(made: Path, tmp_path: Path) -> Path:
    """A copy of the folder for one test."""
    return Path(shutil.copytree(made, tmp_path / "desk"))
