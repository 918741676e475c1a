"""The index of a model folder's safetensors: what is read, and the sentence of each refusal."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from toolchain.errors import ArtifactError
from toolchain.models.weights import INDEX, check_model_folder, open_weights, weight_files

VALUES = np.array([[1.0, -2.5, 0.15625], [65504.0, -0.0, 3.0]], np.float32)


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write(file: Path, header: dict[str, object] | bytes, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with one float32 tensor `a` of shape [2, 3]."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "tokenizer.json").write_text("{}")
    write(
        model / "model.safetensors",
        {"__metadata__": {"format": "pt"}, "a": entry("F32", [2, 3], 0, 24)},
        VALUES.tobytes(),
    )
    return model


@pytest.mark.parametrize(
    ("dtype", "raw"),
    [
        ("F32", VALUES.tobytes()),
        ("F16", VALUES.astype(np.float16).tobytes()),
        ("BF16", (VALUES.view(np.uint32) >> 16).astype(np.uint16).tobytes()),
    ],
)
def test_rows_are_read_as_float32(folder: Path, dtype: str, raw: bytes) -> None:
    write(folder / "model.safetensors", {"a": entry(dtype, [2, 3], 0, len(raw))}, raw)
    expected = (VALUES.view(np.uint32) & 0xFFFF0000).view(np.float32) if dtype == "BF16" else VALUES
    with open_weights(folder) as weights:
        assert weights.tensors["a"].shape == (2, 3)
        np.testing.assert_array_equal(weights.rows("a", 0, 2), expected)
        np.testing.assert_array_equal(weights.rows("a", 1, 1), expected[1:])


def test_a_vector_is_one_row(folder: Path) -> None:
    write(folder / "model.safetensors", {"a": entry("F32", [6], 0, 24)}, VALUES.tobytes())
    with open_weights(folder) as weights:
        np.testing.assert_array_equal(weights.rows("a", 0, 1), VALUES.reshape(1, 6))


@pytest.mark.parametrize(("first", "count"), [(0, 3), (2, 1), (-1, 1), (1, -1)])
def test_rows_outside_a_tensor_cannot_be_asked_for(folder: Path, first: int, count: int) -> None:
    with open_weights(folder) as weights, pytest.raises(ValueError, match=r"^a: rows .* of 2$"):
        weights.rows("a", first, count)


def test_shards_are_found_through_their_index(folder: Path) -> None:
    shard(folder, {"a": "one.safetensors", "b": "two.safetensors"})
    with open_weights(folder) as weights:
        assert sorted(weights.tensors) == ["a", "b"]
        np.testing.assert_array_equal(weights.rows("b", 0, 2), VALUES)


def shard(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors").unlink()
    write(folder / "one.safetensors", {"a": entry("F32", [2, 3], 0, 24)}, VALUES.tobytes())
    write(folder / "two.safetensors", {"b": entry("F32", [2, 3], 0, 24)}, VALUES.tobytes())
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_a_file_that_shrinks_while_it_is_read_is_reported(folder: Path) -> None:
    with open_weights(folder) as weights:
        (folder / "model.safetensors").write_bytes(b"")
        with pytest.raises(ArtifactError) as caught:
            weights.rows("a", 0, 2)
    assert (
        caught.value.message
        == "model.safetensors: tensor `a`: the file became shorter while it was read"
    )


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def missing(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


REFUSED_FOLDERS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no config": (
        missing("config.json"),
        "model: no `config.json`",
        "a model folder is what `save_pretrained` writes",
    ),
    "no tokenizer": (
        missing("tokenizer.json"),
        "model: no `tokenizer.json`",
        "save the tokenizer beside the model with "
        "`AutoTokenizer.from_pretrained(…).save_pretrained(…)`",
    ),
    "no weights": (
        missing("model.safetensors"),
        "model: no weights (`*.safetensors`)",
        "a model folder is what `save_pretrained` writes",
    ),
    "pickle": (
        pickled,
        "model: `pytorch_model.bin` is a pickle, which can run code when it is loaded",
        "save the model again with `save_pretrained`, which writes safetensors",
    ),
}


@pytest.mark.parametrize("case", REFUSED_FOLDERS)
def test_a_folder_that_is_no_whole_model_is_refused(folder: Path, case: str) -> None:
    spoil, message, hint = REFUSED_FOLDERS[case]
    spoil(folder)
    with pytest.raises(ArtifactError) as caught:
        check_model_folder(folder)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"^nothing: no such model folder$"):
        check_model_folder(tmp_path / "nothing")


def test_pickles_beside_safetensors_are_left_alone(folder: Path) -> None:
    (folder / "training_args.bin").write_bytes(b"\x80")
    check_model_folder(folder)


FLOATS = VALUES.tobytes()
REFUSED_FILES: dict[str, tuple[dict[str, object] | bytes, bytes, str]] = {
    "not JSON": (b"{nonsense}", FLOATS, "not a safetensors file"),
    "not an object": (b"[1, 2]", FLOATS, "not a safetensors file"),
    "cut": ({"a": entry("F32", [2, 3], 0, 24)}, FLOATS[:-1], "cut short, 96 of 97 bytes are there"),
    "too long": (
        {"a": entry("F32", [2, 3], 0, 24)},
        FLOATS + b"xy",
        "2 bytes more than its header names",
    ),
    "overlap": (
        {"a": entry("F32", [2, 3], 0, 24), "b": entry("F32", [2], 16, 24)},
        FLOATS,
        "tensor `b`: overlaps the tensor before it",
    ),
    "hole": (
        {"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 16, 24)},
        FLOATS,
        "tensor `b`: leaves a hole before it",
    ),
    "begins late": (
        {"a": entry("F32", [2, 2], 8, 24)},
        FLOATS,
        "tensor `a`: leaves a hole before it",
    ),
    "wrong size": (
        {"a": entry("F32", [2, 4], 0, 24)},
        FLOATS,
        "tensor `a`: 24 bytes for shape [2, 4] of F32",
    ),
    "negative": (
        {"a": entry("F32", [2, -3], 0, 24)},
        FLOATS,
        "tensor `a`: needs `dtype`, `shape` and `data_offsets`",
    ),
    "no offsets": (
        {"a": {"dtype": "F32", "shape": [2, 3]}},
        FLOATS,
        "tensor `a`: needs `dtype`, `shape` and `data_offsets`",
    ),
    "no entry": ({"a": 7}, FLOATS, "tensor `a`: needs `dtype`, `shape` and `data_offsets`"),
    "4-bit": (
        {"a": entry("U8", [24], 0, 24)},
        FLOATS,
        "tensor `a`: weights of type `U8`, not F32, F16 or BF16",
    ),
}


@pytest.mark.parametrize("case", REFUSED_FILES)
def test_a_broken_file_is_refused_with_its_name(folder: Path, case: str) -> None:
    header, data, problem = REFUSED_FILES[case]
    write(folder / "model.safetensors", header, data)
    with pytest.raises(ArtifactError) as caught:
        open_weights(folder)
    assert caught.value.message == f"model.safetensors: {problem}"


@pytest.mark.parametrize("raw", [b"", b"1234567", b"\xff" * 16, bytes(16)])
def test_what_is_no_safetensors_file_at_all_is_refused(folder: Path, raw: bytes) -> None:
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(ArtifactError, match=r"^model\.safetensors: not a safetensors file$"):
        open_weights(folder)


def test_a_header_longer_than_its_file_is_a_cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((1000).to_bytes(8, "little") + b"{")
    with pytest.raises(
        ArtifactError, match=r"^model\.safetensors: cut short, 9 of 1008 bytes are there$"
    ):
        open_weights(folder)


REFUSED_INDEXES: dict[str, tuple[object, str]] = {
    "missing shard": ({"a": "three.safetensors"}, f"{INDEX}: shard `three.safetensors` is missing"),
    "shard elsewhere": (
        {"a": "../model/one.safetensors"},
        f"{INDEX}: shard `../model/one.safetensors` is missing",
    ),
    "tensor elsewhere": (
        {"b": "one.safetensors"},
        f"one.safetensors: tensor `b` is missing, but {INDEX} places it there",
    ),
    "no map": ([], f"{INDEX}: no `weight_map` from tensors to files"),
    "no names": ({"a": 1}, f"{INDEX}: no `weight_map` from tensors to files"),
}


@pytest.mark.parametrize("case", REFUSED_INDEXES)
def test_an_index_that_does_not_hold_is_refused(folder: Path, case: str) -> None:
    weight_map, message = REFUSED_INDEXES[case]
    shard(folder, weight_map)
    with pytest.raises(ArtifactError) as caught:
        open_weights(folder)
    assert caught.value.message == message


@pytest.mark.parametrize("indexed", [True, False], ids=["with an index", "without"])
def test_weights_are_read_where_transformers_looks_first(folder: Path, indexed: bool) -> None:
    write(folder / "consolidated.safetensors", {"c": entry("F32", [2, 3], 0, 24)}, FLOATS)
    if indexed:
        (folder / INDEX).write_text(json.dumps({"weight_map": {"c": "consolidated.safetensors"}}))
    with open_weights(folder) as weights:
        assert list(weights.tensors) == ["a"]
    assert [file.name for file in weight_files(folder)] == ["model.safetensors"]


@pytest.mark.parametrize(
    "name",
    ["model-00001-of-00001.safetensors", "consolidated.safetensors", "adapter_model.safetensors"],
)
def test_weights_where_transformers_does_not_look_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ArtifactError) as caught:
        open_weights(folder)
    assert caught.value.message == (
        f"model: weights in `{name}`, but neither `model.safetensors` nor `{INDEX}`, "
        "where transformers looks"
    )
