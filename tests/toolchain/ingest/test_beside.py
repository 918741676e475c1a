"""General conversations from files: all of them are learned, and nothing of the data's is added."""

from pathlib import Path

import pytest

from tests.fakes.datasets import write_lines
from toolchain.errors import ConfigError, ToolchainError
from toolchain.ingest.beside import general_rows
from toolchain.recipe import DataSpec

DATA = DataSpec(files=("own.jsonl",), hold_out="phrasing", system="You are a help desk.")


def test_nothing_is_held_out_and_the_system_prompt_is_not_theirs(tmp_path: Path) -> None:
    talk = [{"question": [f"what is {n}?", f"tell me of {n}"], "answer": f"{n}"} for n in "abc"]
    write_lines(tmp_path / "talk.jsonl", talk)
    rows = general_rows(["talk.jsonl"], DATA, tmp_path, seed=0)
    assert len(rows) == 6
    assert {message["role"] for row in rows for message in row["messages"]} == {
        "user",
        "assistant",
    }


@pytest.mark.parametrize("rows", [[], [{"question": "a", "answer": " "}]])
def test_files_without_a_conversation_are_refused(
    rows: list[dict[str, str]], tmp_path: Path
) -> None:
    write_lines(tmp_path / "talk.jsonl", rows)
    with pytest.raises(ConfigError, match=r"no conversation in talk\.jsonl"):
        general_rows(["talk.jsonl"], DATA, tmp_path, seed=0)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match=r"gone\.jsonl: no such file"):
        general_rows(["gone.jsonl"], DATA, tmp_path, seed=0)
