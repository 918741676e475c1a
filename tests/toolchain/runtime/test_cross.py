"""Libraries for boards: one for each kind of processor, the same bytes everywhere, never half.

Most tests build a miniature of llama.cpp with the real compiler; zig's own libraries (a minute,
once) are kept in the user's cache.
"""

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from tests.fakes import sdists
from toolchain import profiles
from toolchain.agent import cache
from toolchain.errors import ArtifactError, ConfigError, ToolError
from toolchain.progress import Silent
from toolchain.runtime import cross, elf

DOTPROD = "armv8.2+dotprod+fp16"


class Counter(Silent):
    """A reporter that keeps what was done of how much."""

    def __init__(self, stop_at: int = 0) -> None:
        self.steps: list[tuple[float, float]] = []
        self._stop_at = stop_at

    def step(self, name: str, done: float, total: float, unit: str = "", figures: str = "") -> None:
        if unit == "files":
            self.steps.append((done, total))
        if len(self.steps) == self._stop_at:
            raise KeyboardInterrupt


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and an index that holds nothing but the miniature source."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv(
        "PIP_FIND_LINKS", str(sdists.write(tmp_path / "index", sdists.files()).parent)
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return use_cache(tmp_path / "cache", monkeypatch)


def use_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build under `folder`, with what zig compiled for itself in the user's own cache."""
    own = cache() / "cross" / "zig"
    own.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    (cache() / "cross").mkdir(parents=True)
    (cache() / "cross" / "zig").symlink_to(own.resolve())
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_profile_of_a_board_can_be_built() -> None:
    assert set(get_args(profiles.Profile)) == set(profiles.PROFILES)


def test_each_profile_is_compiled_for_another_processor() -> None:
    assert len(set(map(cross.compiled_for, profiles.PROFILES.values()))) == len(profiles.PROFILES)


def test_an_unknown_profile_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown profile `armv8\.2\+dotprod`") as caught:
        cross.build_library("armv8.2+dotprod", Silent())
    assert caught.value.hint == f"did you mean `{DOTPROD}`?"


def test_a_library_that_needs_more_than_old_boards_have_is_refused() -> None:
    extension = next(Path(sys.prefix).rglob("tokenizers/*.so"))
    with pytest.raises(ArtifactError, match=rf"^{extension.name}: needs `\w+"):
        cross.check(extension, "x86_64")


def test_a_library_that_a_pi_5_cannot_map_is_refused() -> None:
    import _json

    with pytest.raises(
        ArtifactError, match=r"made for pages of 4096 bytes, boards have up to 16384$"
    ):
        cross.check(Path(_json.__file__), "aarch64")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_next_profile_compiles_nothing_but_ggmls_kernels(miniature: Path) -> None:
    first, second, again = Counter(), Counter(), Counter()
    plain = cross.build_library("armv8.0", first) / "lib" / "libllama.so"
    dotprod = cross.build_library(DOTPROD, second) / "lib" / "libllama.so"
    assert cross.build_library("armv8.0", again) / "lib" / "libllama.so" == plain
    assert (first.steps[-1][1], second.steps[-1][1], again.steps) == (
        9,
        3,
        [],
    )  # of the next: object, archive, link
    assert sha256(plain) != sha256(dotprod)
    assert (elf.glibc_floor([plain]), elf.largest_page(plain)) == ("2.17", 65536)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_same_inputs_give_the_same_bytes_in_any_folder(
    miniature: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = cross.build_library(DOTPROD, Silent()), cross.build_bench(DOTPROD, Silent())
    use_cache(miniature / "another folder", monkeypatch)
    there = cross.build_library(DOTPROD, Silent()), cross.build_bench(DOTPROD, Silent())
    for name, first, second in zip(
        ("lib/libllama.so", "bin/llama-bench"), here, there, strict=True
    ):
        assert first != second
        assert first.name == second.name
        assert sha256(first / name) == sha256(second / name)
        assert b"llama.cpp/ggml/src/ggml-cpu/ggml-cpu.c" in (
            first / name
        ).read_bytes() or name.startswith("bin")
        assert miniature.name.encode() + b"/" not in (first / name).read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_an_interrupted_build_leaves_no_library_and_goes_on_where_it_was(miniature: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        cross.build_library("armv8.0", Counter(stop_at=4))
    assert not list(miniature.rglob("lib/libllama.so"))
    resumed = Counter()
    assert (cross.build_library("armv8.0", resumed) / "lib" / "libllama.so").is_file()
    assert resumed.steps[-1][1] <= 9 - 4


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_library_that_sees_is_one_for_all_profiles_and_exports_its_calls_alone(
    miniature: Path,
) -> None:
    first, again = Counter(), Counter()
    eyes = cross.build_libraries("armv8.0", first)[1]
    assert cross.build_libraries(DOTPROD, again)[1] == eyes
    assert again.steps[-1][1] == 3  # of libllama.so alone: object, archive, link
    listed = subprocess.run(
        ["readelf", "-dW", "--dyn-syms", str(eyes)], capture_output=True, text=True, check=True
    ).stdout
    assert "Shared library: [libllama.so]" in listed
    assert "[$ORIGIN]" in listed
    assert str(miniature) not in listed
    defined = re.findall(r"GLOBAL DEFAULT +\d+ (\S+)", listed)
    assert sorted(defined) == ["mtmd_size", "mtmd_speak"]
    assert elf.largest_page(eyes) == 65536
    # What speech alone asks for is not there, and must not keep the library from loading.
    assert "WEAK   DEFAULT  UND _Z24llama_model_get_tok_embdPK11llama_modelPf" in listed


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_function_that_libllama_lacks_is_an_error_of_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = 'extern "C" int llama_new(); extern "C" int mtmd_size() { return llama_new(); }'
    contents = {**sdists.files(), "vendor/llama.cpp/tools/mtmd/mtmd.cpp": asks}
    archive = sdists.write(tmp_path / "index", contents)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    use_cache(tmp_path / "cache", monkeypatch)
    with pytest.raises(ToolError, match=r"FAILED: .*libmtmd\.so$"):
        cross.build_libraries("armv8.0", Silent())
