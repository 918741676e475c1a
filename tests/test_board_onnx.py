"""An ONNX bundle of the whole line on a virtual Raspberry Pi 4: onnxruntime's wheel for Arm runs on
a Cortex-A72, and gives the tokens that it gave here.
"""

import json
from collections.abc import Iterator

import pytest

from tests.fakes.board_line import TARGET, likeness, packaged
from tests.test_line import Line
from toolchain.board import boot, open_board, virtual
from toolchain.progress import Silent

pytestmark = [pytest.mark.board, pytest.mark.timeout(2400)]

BOARD = f"virtual:{TARGET}"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A bundle with an ONNX file of 4 bits, and a board of these tests that it was pushed to."""
    with packaged(tmp_path_factory.mktemp("board-onnx"), "onnx") as made:
        board = virtual.up(TARGET, Silent())
        try:
            pushed = made.demitasse(
                "push", "build/tiny/package-onnx", BOARD, "--json", timeout_s=1200
            )
            made.said["push"] = json.loads(pushed)
            yield made
        finally:
            boot.stop(board.folder)


def test_an_onnx_bundle_gives_its_goldens_within_tolerance_and_answers(line: Line) -> None:
    said = line.said["push"]["goldens"]
    assert said.startswith("4 goldens agree in ")
    assert said.endswith("this processor rounds otherwise")
    alike = likeness(line, "onnx", BOARD)
    assert max(alike) > 0.8, "a tie that falls the other way may turn one answer, not all"


def test_the_engine_is_onnx_runtime_and_the_processor_has_no_dot_product(line: Line) -> None:
    health = json.loads(line.demitasse("status", BOARD, "--json"))["service"]["health"]
    assert (health["engine"], health["model_type"]) == ("ort", "llama int4_b32")
    with open_board(BOARD) as connection:
        said = connection.run(["grep", "-m1", "^Features", "/proc/cpuinfo"]).stdout
    features = said.decode().split()
    assert "asimd" in features
    assert "asimddp" not in features


def test_a_bench_says_that_the_board_is_emulated(line: Line) -> None:
    words = ("--pp", "16", "--tg", "4", "--repeat", "1")
    report = json.loads(line.demitasse("bench", BOARD, *words, "--json"))
    assert report["emulated"] is True
    assert [(row["n_prompt"], row["n_gen"]) for row in report["rows"]] == [(16, 0), (0, 4)]
    assert all(row["avg_ts"] > 0 for row in report["rows"])
