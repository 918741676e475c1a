"""The table of bases adds up, and what it says of a model is what the model's own folder says."""

import json
import math
from pathlib import Path

import pytest

from tests.fakes.families import tiny_family
from toolchain.bases import Base, table
from toolchain.fitting import weigh as weigh_folder
from toolchain.models.architecture import sources_of
from toolchain.models.origin import find as find_file
from toolchain.new import bases
from toolchain.new.bases import embedder_for
from toolchain.target import find

BASES = table().base


@pytest.mark.parametrize("base", BASES, ids=[base.id for base in BASES])
def test_the_sizes_of_a_base_add_up_to_its_published_parameters(base: Base) -> None:
    _, tensors = sources_of(bases._config(base))
    assert sum(math.prod(tensor.shape) for tensor in tensors) == base.parameters


def test_every_base_has_a_name_of_its_own() -> None:
    names = [name for base in BASES for name in (base.id, base.hub, base.package) if name]
    assert len({name.lower() for name in names}) == len(names)


def test_every_language_of_a_model_has_a_name() -> None:
    spoken = {code for model in (*BASES, *table().embedder) for code in model.languages}
    assert spoken - set(table().languages) == set()
    assert len(set(table().languages.values())) == len(table().languages)


def test_a_licence_of_the_vendors_own_is_never_open() -> None:
    assert {base.id for base in BASES if not base.is_open} == {
        "qwen2.5-3b",
        "llama-3.2-1b",
        "llama-3.2-3b",
        "gemma-3-270m",
        "gemma-3-1b",
    }


@pytest.mark.parametrize(
    ("languages", "name"),
    [
        (("en",), "all-MiniLM-L6-v2"),
        (("zh",), "bge-small-zh-v1.5"),
        (("en", "zh"), "all-MiniLM-L6-v2"),
        (("de",), "all-MiniLM-L6-v2"),
    ],
)
def test_documents_are_found_by_an_embedder_of_their_language(
    languages: tuple[str, ...], name: str
) -> None:
    assert embedder_for(languages).name == name


@pytest.mark.parametrize("scheme", ["Q4_K_M", "Q8_0"])
@pytest.mark.parametrize("kind", ["smollm2", "qwen2.5", "qwen3", "gemma 3"])
def test_a_row_weighs_what_a_folder_of_the_same_sizes_weighs(
    kind: str, scheme: str, tmp_path: Path
) -> None:
    folder = tiny_family(kind, tmp_path / "model", tie_word_embeddings=True)
    row = _row_of(folder)
    board = find("rpi-4b-2gb")
    told = bases.weigh(row, scheme).forecast(board, 256, 0)
    read = weigh_folder(folder, scheme).forecast(board, 256, 0)
    assert told == read


def test_the_row_of_a_packaged_base_is_true_of_its_file() -> None:
    row = next(base for base in BASES if base.package)
    origin = find_file(row.package, Path())
    assert origin is not None
    board = find("rpi-4b-2gb")
    file = weigh_folder(origin.file)
    told, read = bases.weigh(row, "Q8_0").forecast(board, 2048, 0), file.forecast(board, 2048, 0)
    assert file.trained_context == row.context
    assert told.needs.kv_bytes == read.needs.kv_bytes
    assert told.needs.compute_bytes == read.needs.compute_bytes


def _row_of(folder: Path) -> Base:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Base(
        id="tiny",
        hub="nobody/tiny",
        parameters=1,
        architecture=config["architectures"][0],
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        licence="Apache-2.0",
        languages=("en",),
        source="made here",
    )
