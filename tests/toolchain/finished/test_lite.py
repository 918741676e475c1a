"""TFLite decoders that people bring: which tokens end their answers."""

import json
from pathlib import Path

from device.manifest.tflite import Header
from tests.fakes.models import tiny_llama
from toolchain.finished.lite import _stop_ids


def test_the_model_folder_beside_a_file_without_a_note_says_what_ends_an_answer(
    tmp_path: Path,
) -> None:
    folder = tiny_llama(tmp_path / "base")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    header = Header(operators=(), graphs=(), buffers=(), signatures=(), note={}, size=0)
    ends = _stop_ids(folder, header, "m.tflite")
    assert tokenizer["model"]["vocab"]["<|im_end|>"] in ends
