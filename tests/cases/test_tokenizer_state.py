"""What a trainer left in a tokenizer.json (lengths to cut and pad to, merge dropout) changes no
text on host or board.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from device.engine.tokenizer import HuggingFaceTokenizer
from tests.fakes.models import tiny_tokenizer
from toolchain.models import checkpoints
from toolchain.models.tokenizer import (
    load_tokenizer,
    read_vocabulary,
    without_state,
    write_tokenizer,
)
from toolchain.models.tokenizer_proof import prove

TEXT = " ".join(f"word{number} 树莓派" for number in range(60))
CUT = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
PAD = {
    "strategy": {"Fixed": 512},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<|endoftext|>",
}
STATES: dict[str, dict[str, Any]] = {
    "truncation": {"truncation": CUT},
    "truncation on the left": {"truncation": {**CUT, "direction": "Left"}},
    "padding": {"padding": PAD},
    "padding to a multiple": {
        "padding": {**PAD, "strategy": "BatchLongest", "pad_to_multiple_of": 64}
    },
    "both": {"truncation": CUT, "padding": PAD},
    "dropout": {"dropout": 0.5},
}


def folder_with(folder: Path, state: dict[str, Any]) -> Path:
    tiny_tokenizer(folder)
    (folder / "model.safetensors").touch()
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 2, "bos_token_id": 0}))
    fields = json.loads((folder / "tokenizer.json").read_text())
    fields["model"]["dropout"] = state.get("dropout")
    fields |= {name: value for name, value in state.items() if name != "dropout"}
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    return list(load_tokenizer(folder_with(tmp_path_factory.mktemp("clean"), {})).encode(TEXT).ids)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", STATES)
def test_no_text_is_cut_padded_or_merged_at_random(
    tmp_path: Path, clean: list[int], name: str
) -> None:
    folder = folder_with(tmp_path / "model", STATES[name])
    assert HuggingFaceTokenizer(folder).encode(TEXT, begin=False) == clean, "the board"
    assert load_tokenizer(folder).encode(TEXT).ids == clean, "the host"
    assert checkpoints.load_tokenizer(folder)(TEXT).input_ids == clean, "training"
    assert prove(folder, read_vocabulary(folder, 512), "llama") > 1000


@pytest.mark.parametrize("name", STATES)
def test_the_file_that_travels_is_clean(tmp_path: Path, name: str) -> None:
    from tokenizers import Tokenizer

    folder = folder_with(tmp_path / "model", STATES[name])
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(folder, out)
    travels = json.loads((out / "tokenizer.json").read_text())
    assert (travels["truncation"], travels["padding"], travels["model"]["dropout"]) == (None,) * 3
    assert Tokenizer.from_file(str(out / "tokenizer.json")).encode(TEXT).ids == (
        load_tokenizer(folder).encode(TEXT).ids
    )


def test_a_tokenizer_without_state_travels_byte_for_byte(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model", {})
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(folder, out)
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    fields = json.loads((folder / "tokenizer.json").read_text())
    assert without_state(fields) is fields
