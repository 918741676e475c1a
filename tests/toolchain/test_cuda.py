"""CUDA runtimes: the CUDA of each Jetson, refusals with their reasons, a build on a fake board."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from device.manifest import read_runtime
from tests.fakes import jetson, sdists
from tests.fakes.board import FakeConnection
from toolchain import cuda, target
from toolchain.errors import BoardError, ConfigError, FitError, ToolchainError
from toolchain.progress import Silent

FIXTURES = Path(__file__).parents[1] / "device" / "fixtures"
ORIN = target.find("jetson-orin-nano")
FACTS: dict[str, Any] = {"l4t": "36.4.7", "cores": 6, "python": "3.10.12"}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A small shared library; caches are empty and pip's index holds the miniature source alone."""
    index = sdists.write(tmp_path / "index", sdists.files()).parent
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(index),
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    import _json

    return Path(_json.__file__)


def board(
    tmp_path: Path, library: Path, *, without: str = "", cut_after: int | None = None
) -> FakeConnection:
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    shutil.rmtree(tmp_path / "bin", ignore_errors=True)
    path = jetson.install(tmp_path / "bin", library=library, without=without)
    return FakeConnection(home, address="jetson", path=path, cut_after=cut_after)


@pytest.mark.parametrize(
    ("l4t", "jetpack", "brings"),
    [
        ("32.7.1", "4.6", "10.2"),
        ("35.3.1", "5.1", "11.4"),
        ("35.6.4", "5.1", "11.4"),
        ("36.3.0", "6.0", "12.2"),
        ("36.4.0", "6.1", "12.6"),
        ("36.4.3", "6.2", "12.6"),
        ("36.4.7", "6.2.1", "12.6"),
        ("36.5.0", "6.2.2", "12.6"),
        ("38.2.0", "7.0", "13.0"),
        ("39.2.0", "7.2", "13.2"),
    ],
)
def test_an_l4t_release_tells_jetpack_and_cuda(l4t: str, jetpack: str, brings: str) -> None:
    assert cuda.jetpack_of(l4t) == (jetpack, brings)


def test_every_release_that_real_boards_told_is_known() -> None:
    from device.facts import l4t_release

    told = [
        l4t_release(line) for line in (FIXTURES / "nv_tegra_release.txt").read_text().splitlines()
    ]
    assert len(told) == 7 and all(cuda.jetpack_of(str(release)) for release in told)


def test_a_release_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^L4T 28\.2\.1: no JetPack with it is known$"):
        cuda.jetpack_of("28.2.1")


@pytest.mark.parametrize(
    ("target_id", "message", "hint"),
    [
        ("rpi-5-8gb", "rpi-5-8gb: it has no GPU with CUDA", ""),
        (
            "jetson-nano",
            "jetson-nano: CPU only: its GPU has SM 5.3, a CUDA runtime needs 7.2",
            "CUDA 10.2 is the last",
        ),
    ],
)
def test_what_has_no_use_for_cuda_is_told_why(target_id: str, message: str, hint: str) -> None:
    with pytest.raises(FitError) as caught:
        cuda.check_target(target.find(target_id))
    assert caught.value.message == message and hint in caught.value.hint


@pytest.mark.slow
def test_the_libraries_come_back_as_a_runtime_of_their_key(tmp_path: Path, library: Path) -> None:
    connection = board(tmp_path, library)
    made = read_runtime(cuda.build_on(connection, FACTS, ORIN, Silent()))
    assert (made.machine, made.profile) == ("aarch64", "armv8.2+dotprod+fp16+cuda12.6-sm8.7")
    assert made.extra == {"cuda": {"jetpack": "6.2.1", "cuda": "12.6", "sm": "8.7"}}
    libraries = [file.path for file in made.files if file.path.endswith(".so")]
    assert [path.rpartition("/")[2] for path in libraries] == [
        "libggml-base.so",
        "libggml-cpu.so",
        "libggml-cuda.so",
        "libggml.so",
        "libllama.so",
    ]
    told = json.loads(next(connection.home.rglob("CMakeCache.txt")).read_text())
    assert (told["CMAKE_CUDA_ARCHITECTURES"], told["GGML_CUDA"]) == ("87", "ON")
    assert told["CMAKE_CUDA_COMPILER"] == str(tmp_path / "bin" / "nvcc")
    assert told["GGML_CPU_ARM_ARCH"] == "armv8.2-a+dotprod+fp16"


@pytest.mark.slow
def test_it_is_built_once_for_all_boards_of_that_key(tmp_path: Path, library: Path) -> None:
    first = cuda.build_on(board(tmp_path, library), FACTS, ORIN, Silent())
    (tmp_path / "another").mkdir()
    second = board(tmp_path / "another", library)
    assert cuda.build_on(second, FACTS, ORIN, Silent()) == first
    assert len(second.commands) == 1


@pytest.mark.parametrize(
    ("facts", "without", "message"),
    [
        ({"l4t": None}, "", "jetson: not a Jetson: there is no L4T on it"),
        ({}, "cmake", "jetson: `cmake` not found"),
    ],
)
def test_a_board_that_cannot_build_is_refused_before_the_first_byte(
    tmp_path: Path, library: Path, facts: dict[str, Any], without: str, message: str
) -> None:
    connection = board(tmp_path, library, without=without)
    with pytest.raises(BoardError) as caught:
        cuda.build_on(connection, {**FACTS, **facts}, ORIN, Silent())
    assert caught.value.message == message
    assert (
        not without
        or "cuda-nvcc-12-6 cuda-cudart-dev-12-6 libcublas-dev-12-6 cmake g++" in caught.value.hint
    )
    assert not any(connection.home.rglob("source"))


@pytest.mark.slow
def test_a_lost_connection_leaves_no_runtime_and_the_next_try_goes_on(
    tmp_path: Path, library: Path
) -> None:
    with pytest.raises(ToolchainError, match="connection lost"):
        cuda.build_on(board(tmp_path, library, cut_after=400), FACTS, ORIN, Silent())
    assert not list((tmp_path / "cache").rglob("libllama.so"))
    assert cuda.build_on(board(tmp_path, library), FACTS, ORIN, Silent()).is_dir()


@pytest.mark.slow
def test_what_the_compiler_complains_of_is_said_and_nothing_is_kept(
    tmp_path: Path, library: Path
) -> None:
    sdists.write(tmp_path / "index", {**sdists.files(), "vendor/llama.cpp/src/broken.cu": "warp"})
    connection = board(tmp_path, library)
    with pytest.raises(BoardError) as caught:
        cuda.build_on(connection, FACTS, ORIN, Silent())
    assert (
        caught.value.message
        == "jetson: the compiler: mmq.cu(7): error: identifier `warp` is undefined"
    )
    assert not (tmp_path / "cache" / "demitasse" / "cuda").exists()


# A PC with a card ---------------------------------------------------------------------------------

PC = target.find("x86-64-cuda")
CARD = {"name": "NVIDIA GeForce RTX 4070", "sm": "8.9", "memory_total_mb": 12282}
OF_A_PC: dict[str, Any] = {"l4t": None, "cores": 8, "python": "3.12.3", "gpus": [CARD]}


def test_cmake_is_told_of_a_pcs_card_and_of_no_arm_processor() -> None:
    kit = cuda.Toolkit(jetpack="", cuda="13.0", sm="8.9", nvcc="/usr/local/cuda/bin/nvcc")
    options = list(cuda.settings(kit, PC.profile))
    assert "-DCMAKE_CUDA_ARCHITECTURES=89" in options
    assert not any("ARM" in option for option in options)
    assert kit.name == "cuda13.0-sm8.9"


@pytest.mark.slow
def test_a_pcs_own_card_decides_what_is_built(tmp_path: Path, library: Path) -> None:
    connection = board(tmp_path, library)
    made = read_runtime(cuda.build_on(connection, OF_A_PC, PC, Silent()))
    assert (made.machine, made.profile) == ("x86_64", "x86-64-v3+cuda12.6-sm8.9")
    assert made.extra == {"cuda": {"jetpack": "", "cuda": "12.6", "sm": "8.9"}}
    assert "avx2" in made.features, "ggml is compiled for AVX2 there"


@pytest.mark.parametrize(
    ("gpus", "kind", "said"),
    [
        ([], BoardError, "jetson: `nvidia-smi` shows no graphics card"),
        ([{**CARD, "sm": "6.1"}], FitError, "`NVIDIA GeForce RTX 4070` has SM 6.1, a CUDA runtime"),
    ],
)
def test_a_pc_without_a_card_that_will_do_is_refused_before_the_first_byte(
    tmp_path: Path, library: Path, gpus: list[Any], kind: type[ToolchainError], said: str
) -> None:
    connection = board(tmp_path, library)
    with pytest.raises(kind, match=said):
        cuda.build_on(connection, {**OF_A_PC, "gpus": gpus}, PC, Silent())
    assert not any(connection.home.rglob("source"))
