"""The source of llama.cpp: got once, unpacked within bounds, whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.fakes import sdists
from toolchain import patching
from toolchain.errors import ArtifactError, ToolError
from toolchain.progress import Silent
from toolchain.runtime import source


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip looks in, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_only_what_the_build_needs_is_taken_out(tmp_path: Path) -> None:
    source.unpack(sdists.write(tmp_path, sdists.files()), tmp_path / "out")
    found = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert {
        "LICENSE.md",
        "vendor/llama.cpp/CMakeLists.txt",
        "vendor/llama.cpp/ggml/src/ggml-cpu/ggml-cpu.c",
        "vendor/llama.cpp/tools/mtmd/models/one.cpp",
    } <= found
    assert found & {"backend.py", "vendor/llama.cpp/models/vocabulary.gguf"} == set()


BROKEN: list[tuple[Mapping[str, str | bytes], str]] = [
    ({"README.md": ""}, "there is no llama.cpp in it"),
    (
        {"vendor/llama.cpp/src/big.cpp": bytes(source.MAX_FILE + 1)},
        "`vendor/llama.cpp/src/big.cpp` is larger than a source can be",
    ),
    ({"vendor/llama.cpp/src/../../../../../evil": "x"}, "would be extracted to"),
]


@pytest.mark.parametrize(("contents", "message"), BROKEN, ids=["empty", "huge", "escaping"])
def test_an_archive_that_is_not_a_source_is_refused(
    tmp_path: Path, contents: Mapping[str, str | bytes], message: str
) -> None:
    archive = sdists.write(tmp_path, contents)
    with pytest.raises(ArtifactError, match=message) as caught:
        source.unpack(archive, tmp_path / "deep" / "er" / "out")
    assert caught.value.message.startswith(f"{archive.name}: ")
    assert not list(tmp_path.rglob("evil"))


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    archive = sdists.write(tmp_path, sdists.files())
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(ArtifactError, match="not a whole source archive"):
        source.unpack(archive, tmp_path / "out")


@pytest.mark.slow
def test_the_source_is_got_by_pip_once_and_then_found_offline(tmp_path: Path, index: Path) -> None:
    archive = sdists.write(index, sdists.files())
    leftover = tmp_path / "kept" / ".part" / "tree" / "half"
    leftover.mkdir(parents=True)
    first = source.fetch(tmp_path / "kept", Silent())
    archive.unlink()
    assert source.fetch(tmp_path / "kept", Silent()) == first
    assert (first.path / "CMakeLists.txt").is_file()
    assert (first.version, len(first.sha256)) == (sdists.version(), 64)
    kept = f"{sdists.version()}-{patching.digest()[:12]}"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [kept]


@pytest.mark.slow
def test_a_broken_archive_leaves_no_source_behind_and_the_next_try_works(
    tmp_path: Path, index: Path
) -> None:
    sdists.write(
        index, {**sdists.files(), "vendor/llama.cpp/src/z.cpp": bytes(source.MAX_FILE + 1)}
    )
    with pytest.raises(ArtifactError):
        source.fetch(tmp_path / "kept", Silent())
    sdists.write(index, sdists.files())
    assert source.fetch(tmp_path / "kept", Silent()).path.is_dir()


def test_a_source_that_cannot_be_had_says_what_pip_said_and_what_helps(
    tmp_path: Path, index: Path
) -> None:
    with pytest.raises(
        ToolError,
        match=f"the source of llama-cpp-python {sdists.version()} cannot be had: No matching",
    ) as caught:
        source.fetch(tmp_path / "kept", Silent())
    assert "PIP_FIND_LINKS" in caught.value.hint


@pytest.mark.slow
def test_the_source_that_is_built_is_patched(tmp_path: Path, index: Path) -> None:
    sdists.write(index, sdists.files())
    fetched = source.fetch(tmp_path / "kept", Silent()).path
    text = (fetched / "ggml/src/ggml-cpu/ggml-cpu.c").read_text(encoding="utf-8")
    assert all(change.after in text for change in patching.changes() if change.file.endswith(".c"))


@pytest.mark.slow
def test_a_source_that_the_patch_does_not_fit_is_refused_by_its_version_and_not_kept(
    tmp_path: Path, index: Path
) -> None:
    renewed = {**sdists.files(), "vendor/llama.cpp/ggml/src/ggml-cpu/ggml-cpu.c": "int renewed;"}
    sdists.write(index, renewed)
    with pytest.raises(
        ArtifactError,
        match=f"^llama-cpp-python {sdists.version()}: .*ggml-cpu.c` has not the lines",
    ):
        source.fetch(tmp_path / "kept", Silent())
    assert not list((tmp_path / "kept").glob(f"{sdists.version()}*"))


@pytest.mark.slow
def test_a_source_with_fewer_parts_than_are_needed_is_unpacked_again(
    tmp_path: Path, index: Path
) -> None:
    """An earlier version left the reading of pictures out; the libraries stay what they were."""
    sdists.write(index, sdists.files())
    whole = source.fetch(tmp_path / "kept", Silent())
    record = whole.path.parents[1] / "unpacked.json"
    record.write_text(json.dumps({"version": whole.version, "sha256": whole.sha256}))
    (whole.path / "tools" / "mtmd" / "mtmd.cpp").unlink()
    assert source.fetch(tmp_path / "kept", Silent()) == whole
    assert (whole.path / "tools" / "mtmd" / "mtmd.cpp").is_file()
