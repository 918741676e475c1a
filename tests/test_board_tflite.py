"""A TFLite bundle of the whole line on a virtual Raspberry Pi 4, with Debian 12 (Python 3.11) and
Debian 13 (Python 3.13).

Debian 12 is always tried: its image is there for the other tests on boards. Debian 13 is tried
where its image is kept already (`demitasse board up rpi-4b-2gb:13` makes it): another image would
cost `make test` ten minutes more on a fresh computer.
"""

import json
from collections.abc import Iterator

import pytest

from tests.fakes.board_line import TARGET, likeness, packaged
from tests.test_line import Line
from toolchain.board import boot, image, rootfs, virtual
from toolchain.progress import Silent

pytestmark = [pytest.mark.board, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A bundle with a .tflite file, and a place for boards of these tests alone."""
    with packaged(tmp_path_factory.mktemp("board-tflite"), "tflite") as made:
        yield made


@pytest.fixture(scope="module", params=[12, 13])
def board(request: pytest.FixtureRequest, trained: Line) -> Iterator[virtual.VirtualBoard]:
    """A board of a Debian release, with the bundle pushed to it."""
    debian = int(request.param)
    if debian != rootfs.DEFAULT_DEBIAN and not image.place(debian).is_dir():
        pytest.skip(
            f"no image of Debian {debian} is kept here: demitasse board up {TARGET}:{debian} "
            "makes one"
        )
    up = virtual.up(f"{TARGET}:{debian}", Silent())
    try:
        pushed = trained.demitasse(
            "push", "build/tiny/package-tflite", up.address, "--json", timeout_s=1200
        )
        trained.said[up.address] = json.loads(pushed)
        yield up
    finally:
        boot.stop(up.folder)


def test_a_tflite_bundle_gives_its_goldens_within_tolerance_and_answers(
    trained: Line, board: virtual.VirtualBoard
) -> None:
    made = trained.said[board.address]
    assert made["goldens"].startswith("4 goldens agree in ") and made["goldens"].endswith(
        "this processor rounds otherwise"
    )
    alike = likeness(trained, "tflite", board.address)
    assert max(alike) > 0.8, "a tie that falls the other way may turn one answer, not all"


def test_the_boards_own_python_runs_the_runtime_of_its_release(
    trained: Line, board: virtual.VirtualBoard
) -> None:
    status = json.loads(trained.demitasse("status", board.address, "--json"))
    health = status["service"]["health"]
    assert (health["engine"], health["model_type"]) == ("litert", "llama dynamic_wi8_afp32")
    seen = [row["seen"] for row in json.loads(trained.demitasse("doctor", board.address, "--json"))]
    python = {12: "3.11", 13: "3.13"}[board.debian]
    assert any(row.startswith(f"Debian GNU/Linux {board.debian} ") for row in seen)
    assert any(row.startswith(f"{python}.") for row in seen)
    words = ("--pp", "16", "--tg", "4", "--repeat", "1")
    report = json.loads(trained.demitasse("bench", board.address, *words, "--json"))
    assert report["emulated"] is True
    assert [(row["n_prompt"], row["n_gen"]) for row in report["rows"]] == [(16, 0), (0, 4)]
    assert all(row["avg_ts"] > 0 for row in report["rows"])
