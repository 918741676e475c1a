"""Model folders: only safetensors, nothing missing, and a sentence for what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.fakes.models import SMALL, tiny_llama
from toolchain.errors import ArtifactError
from toolchain.models.checkpoints import load_model, load_tokenizer

ONE_LAYER = SMALL | {"layers": 1}
WEIGHTS = "model.safetensors"


def pickle_instead(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def tensor_less(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.norm.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def wider(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 96}
    (folder / "config.json").write_text(json.dumps(config))


def of_an_unknown_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "never-heard"}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            pickle_instead,
            r"^model: `pytorch_model.bin` is a pickle, which can run code when it is loaded$",
        ),
        (tensor_less, r"^model: tensor `model.norm.weight` is missing$"),
        (wider, r"^model: the model cannot be loaded: "),
        (of_an_unknown_type, r"^model: the model cannot be loaded: .*never-heard"),
    ],
)
def test_a_model_that_is_not_whole_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tiny_llama(tmp_path / "model", **ONE_LAYER)
    damage(folder)
    with pytest.raises(ArtifactError, match=message):
        load_model(folder)


def test_a_model_is_loaded_in_its_own_type_unless_told(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", **ONE_LAYER, dtype="bfloat16")
    assert str(load_model(folder).dtype) == "torch.bfloat16"
    assert str(load_model(folder, dtype="float32").dtype) == "torch.float32"


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", **ONE_LAYER)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"^model: no `tokenizer.json`$"):
        load_tokenizer(folder)


def test_a_tokenizer_that_is_not_one_is_refused(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", **ONE_LAYER)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"^model: the tokenizer cannot be read: "):
        load_tokenizer(folder)
