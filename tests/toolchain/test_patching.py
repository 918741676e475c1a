"""Our patch of llama.cpp: exactly the lines that it names, of the pinned version."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes import sdists
from toolchain import patching
from toolchain.errors import ArtifactError
from toolchain.progress import Silent
from toolchain.runtime import source
from toolchain.tools import llama

ROOT = Path(__file__).resolve().parents[2]
KERNELS = "vendor/llama.cpp/ggml/src/ggml-cpu/ggml-cpu.c"
FEATURES = "vendor/llama.cpp/ggml/src/ggml-cpu/ggml-cpu.cpp"


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A source whose files hold what the patch changes."""
    for name, text in sdists.files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_the_patch_is_made_for_the_version_that_is_pinned() -> None:
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    name, _, version = patching.made_for().partition(" ")
    assert f"{name.replace('-', '_')}=={version}" in pinned


def test_the_patch_changes_every_place_where_threads_wait() -> None:
    said = [change.before for change in patching.changes()]
    for place in (
        "while (atomic_load_explicit(&tp->n_barrier_passed, memory_order_relaxed) == n_passed)",
        "!ggml_graph_compute_thread_ready(state) && i < n_rounds; i++",
    ):
        assert sum(place in before for before in said) == 1


def test_a_patched_file_has_the_new_lines_and_all_others(unpacked: Path) -> None:
    before = (unpacked / KERNELS).read_text(encoding="utf-8")
    patching.apply(unpacked, "1.2.3")
    after = (unpacked / KERNELS).read_text(encoding="utf-8")
    for change in patching.changes():
        if change.file == KERNELS:
            before = before.replace(change.before, change.after)
    assert after == before


def gone(text: str) -> str:
    return ""


def changed(text: str) -> str:
    return text.replace("ggml_thread_cpu_relax();", "ggml_thread_cpu_relax ();")


def twice(text: str) -> str:
    return text + text


@pytest.mark.parametrize("file", [KERNELS, FEATURES], ids=["kernels", "features"])
@pytest.mark.parametrize("edit", [gone, twice])
def test_another_source_is_refused_with_both_versions_and_left_as_it_was(
    unpacked: Path, file: str, edit: Callable[[str], str]
) -> None:
    (unpacked / file).write_text(edit((unpacked / file).read_text(encoding="utf-8")))
    before = {path: path.read_bytes() for path in unpacked.rglob("*") if path.is_file()}
    with pytest.raises(ArtifactError) as caught:
        patching.apply(unpacked, "1.2.3")
    assert caught.value.message == (
        f"llama-cpp-python 1.2.3: `{file}` has not the lines that `barrier.patch` changes"
    )
    assert patching.made_for() in caught.value.hint
    assert {path: path.read_bytes() for path in unpacked.rglob("*") if path.is_file()} == before


def test_one_blank_more_in_a_line_that_is_changed_is_another_source(unpacked: Path) -> None:
    (unpacked / KERNELS).write_text(changed((unpacked / KERNELS).read_text(encoding="utf-8")))
    with pytest.raises(ArtifactError, match="has not the lines"):
        patching.apply(unpacked, "1.2.3")


def test_a_file_that_is_missing_is_another_source(unpacked: Path) -> None:
    (unpacked / FEATURES).unlink()
    with pytest.raises(ArtifactError, match=r"ggml-cpu\.cpp` has not the lines"):
        patching.apply(unpacked, "1.2.3")


def test_a_source_is_patched_once(unpacked: Path) -> None:
    patching.apply(unpacked, "1.2.3")
    with pytest.raises(ArtifactError, match="has not the lines"):
        patching.apply(unpacked, "1.2.3")


def patched_by_python_alone(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-S", "-m", "toolchain.patching", str(folder), "1.2.3"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_python_without_packages_patches_and_says_why_it_does_not(unpacked: Path) -> None:
    done = patched_by_python_alone(unpacked)
    assert (done.returncode, done.stderr) == (0, "")
    again = patched_by_python_alone(unpacked)
    assert again.returncode == 1
    assert again.stderr.startswith("error: llama-cpp-python 1.2.3: ")
    assert "hint: the patch is made for llama-cpp-python" in again.stderr


def test_the_engine_of_this_computer_was_built_with_the_patch() -> None:
    assert llama.sleeps_at_barriers()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_patch_fits_the_source_that_is_pinned(tmp_path: Path) -> None:
    fetched = source.fetch(tmp_path, Silent()).path.parents[1]
    for change in patching.changes():
        assert change.after in (fetched / change.file).read_text(encoding="utf-8")
