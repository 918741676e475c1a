"""Foreign files on this computer: their claims are bounded, and special files do not block."""

import json
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolchain import recipe, target
from toolchain.errors import ArtifactError, ConfigError, ToolchainError
from toolchain.models import hub
from toolchain.models.architecture import read_architecture
from toolchain.models.weights import check_model_folder, open_weights, read_json
from toolchain.texts import existing

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "vocab_size": 32,
    "max_position_embeddings": 64,
}
HUGE = [10**9, 2**31 - 1, 2**31, 2**63, 10**30]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with one tensor of one number."""
    made = tmp_path / "model"
    made.mkdir()
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (made / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    (made / "tokenizer.json").write_text("{}")
    (made / "config.json").write_text(json.dumps(CONFIG))
    return made


@pytest.mark.parametrize("name", [key for key, value in CONFIG.items() if isinstance(value, int)])
@pytest.mark.parametrize("count", [*HUGE, 0, -1, True, 1.5, "1", None, [1]])
def test_a_count_of_a_config_is_bounded_before_anything_counts_to_it(
    folder: Path, name: str, count: Any
) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, name: count}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open_weights(folder) as weights, pytest.raises(ToolchainError) as caught:
        read_architecture(folder, weights)
    assert caught.value.exit_code == 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_more_layers_than_tensors_are_named(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 10**9}))
    message = r"^config\.json: `num_hidden_layers` is `1000000000`, the weights have 1 tensors$"
    with open_weights(folder) as weights, pytest.raises(ArtifactError, match=message):
        read_architecture(folder, weights)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def directory(path: Path) -> None:
    path.mkdir()


STRANGE = [fifo, device, directory]


@pytest.mark.parametrize("strange", STRANGE)
def test_what_is_no_file_is_no_recipe_no_target_and_no_data(
    tmp_path: Path, strange: Callable[[Path], None]
) -> None:
    strange(tmp_path / "x.toml")
    for load in (recipe.load, target.load):
        with pytest.raises(ConfigError, match=r"x\.toml: not a plain file$"):
            load(tmp_path / "x.toml")
    with pytest.raises(ArtifactError, match=r"^x\.toml: (a folder, )?not a (plain )?file$"):
        existing(("x.toml",), tmp_path, "files")


def test_a_recipe_that_extends_what_is_no_file_is_refused(tmp_path: Path) -> None:
    fifo(tmp_path / "base.toml")
    (tmp_path / "x.toml").write_text('extends = "base"\n')
    with pytest.raises(ConfigError, match=r"base\.toml: not a plain file$"):
        recipe.load(tmp_path / "x.toml")


def test_a_recipe_of_many_megabytes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "x.toml").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(
        ConfigError, match=r"x\.toml: larger than 1 MiB, which no file of this kind is$"
    ):
        recipe.load(tmp_path / "x.toml")


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_is_no_file_is_no_part_of_a_model(
    folder: Path, name: str, strange: Callable[[Path], None]
) -> None:
    (folder / name).unlink()
    strange(folder / name)
    with pytest.raises(ArtifactError):
        check_model_folder(folder)
    with pytest.raises(ArtifactError, match="not a file"):
        read_json(folder / name)


def test_a_folder_travels_by_its_name_and_a_model_of_the_hub_by_its_id(tmp_path: Path) -> None:
    (tmp_path / "secret" / "tiny").mkdir(parents=True)
    cached = tmp_path / "hub" / "models--some--model" / "snapshots" / "0123abc"
    cached.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "secret" / "tiny")
    table = {
        str(tmp_path / "secret" / "tiny"): "tiny",
        "secret/tiny": "tiny",
        "./secret/tiny/": "tiny",
        "secret/../secret/tiny": "tiny",
        "link": "tiny",
        str(cached): "some/model",
        "some/model": "some/model",
        "/gone/folder": "folder",
        "~/gone/folder": "folder",
        "": "",
    }
    assert {base: hub.travelling_name(base, tmp_path) for base in table} == table
