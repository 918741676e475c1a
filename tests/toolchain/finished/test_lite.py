"""Finished TFLite decoders: which tokens end an answer, by the files that lie beside them."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models

from device.manifest.tflite import Header
from tests.fakes.models import tiny_llama
from toolchain.errors import ArtifactError
from toolchain.finished import lite

WORDS = {"<unk>": 0, "hello": 1}
END = len(WORDS)
TEMPLATE = "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"


def header(**note: object) -> Header:
    return Header(operators=(), graphs=(), buffers=(), signatures=(), note=dict(note), size=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tokenizer alone, of two words and an added token that ends a turn."""
    tokenizer = Tokenizer(models.WordLevel(dict(WORDS), unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken("<|im_end|>", special=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_the_files_own_note_names_the_end_first(folder: Path) -> None:
    assert lite.stop_ids(folder, header(stop_ids=[7]), "x.tflite") == (7,)


def test_the_models_configuration_beside_it_names_the_end(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 1}))
    settings = {"chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert lite.stop_ids(folder, header(), "x.tflite") == (1, END)


def test_the_model_folder_beside_a_file_without_a_note_says_what_ends_an_answer(
    tmp_path: Path,
) -> None:
    folder = tiny_llama(tmp_path / "base")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ends = lite.stop_ids(folder, header(), "m.tflite")
    assert tokenizer["model"]["vocab"]["<|im_end|>"] in ends


def test_a_known_end_of_a_turn_will_do_without_a_configuration(folder: Path) -> None:
    assert lite.stop_ids(folder, header(), "x.tflite") == (END,)


def test_a_tokenizer_without_an_end_is_refused(folder: Path) -> None:
    Tokenizer(models.WordLevel(dict(WORDS), unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    with pytest.raises(ArtifactError, match=r"^x\.tflite: no token ends an answer$"):
        lite.stop_ids(folder, header(), "x.tflite")
