"""The command that a hint gives rewrites another tool's form so that it is read."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from toolchain.errors import ArtifactError
from toolchain.ingest import ingest
from toolchain.other_forms import USUAL, hint_for
from toolchain.progress import Silent
from toolchain.recipe import DataSpec

ASKED = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
ROWS: dict[str, dict[str, Any]] = {
    "ShareGPT": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "Alpaca": {"instruction": "q", "input": "", "output": "a"},
    "completions": {"prompt": "q", "completion": "a"},
    "responses": {"prompt": "q", "response": "a"},
    "queries": {"query": "q", "response": "a"},
    "inputs": {"input": "q", "output": "a"},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, ASKED[1]]},
    "weights": {"messages": [ASKED[0], {**ASKED[1], "weight": 1}]},
    "names": {"messages": [{**ASKED[0], "name": "jo"}, ASKED[1]]},
}


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    spec = DataSpec(files=(name,), held_out_share=0)
    return list(ingest(spec, folder, folder / "out", Silent(), seed=0).train())


@pytest.mark.skipif(not shutil.which("jq"), reason="needs jq")
@pytest.mark.parametrize("form", ROWS)
def test_what_the_hint_says_makes_it_readable(tmp_path: Path, form: str) -> None:
    (tmp_path / "OLD.jsonl").write_text(json.dumps(ROWS[form]) + "\n")
    with pytest.raises(ArtifactError) as refused:
        read(tmp_path, "OLD.jsonl")
    command = refused.value.hint[refused.value.hint.index("jq ") :]
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    assert read(tmp_path, "NEW.jsonl") == [{"messages": ASKED}]


@pytest.mark.skipif(not shutil.which("jq"), reason="needs jq")
def test_an_input_beside_an_instruction_is_part_of_the_question(tmp_path: Path) -> None:
    (tmp_path / "OLD.jsonl").write_text('{"instruction": "i", "input": "x", "output": "a"}\n')
    hint = hint_for({"instruction": "i", "output": "a"})
    subprocess.run(["sh", "-c", hint[hint.index("jq ") :]], cwd=tmp_path, check=True)
    assert read(tmp_path, "NEW.jsonl")[0]["messages"][0]["content"] == "i\n\nx"


def test_calls_of_tools_are_told_from_other_messages(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [ASKED[0], call, ASKED[1]]}))
    with pytest.raises(ArtifactError) as refused:
        read(tmp_path, "a.jsonl")
    assert refused.value.hint.startswith("calls of tools are not learned")


def test_an_unknown_form_is_told_the_usual_ones() -> None:
    assert hint_for({"text": "a"}) == USUAL
