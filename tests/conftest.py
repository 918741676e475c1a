"""The long tier: a test marked `soak` does a few rounds in `make test` and many in `make soak`,
which goes on where it stopped.

    @pytest.mark.soak(row=1, short=40, whole=2000)   row of the promise table, docs/reliability.md
    def test_…(rounds: Rounds) -> None:
        for number in rounds:                        0 to 39; in `make soak` 0 to 1999,
            …                                        in as many runs as it takes
            rounds.saw("old")                        counted, and written into docs/reliability.md

What was done is in build/soak.json; it counts as long as the product and the test stay as they
were.
"""

import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as toolchain/__main__.py has it
ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT / "build" / "soak.json"
SAVE_S = 10.0
FIRST = (
    "tests/toolchain/board/test_virtual.py",
    "tests/test_smollm2.py",
    "tests/toolchain/runtime/test_cross.py",
    "tests/test_line.py",
    "tests/toolchain/test_killed_processes.py",
    "tests/toolchain/rounds/test_trained_round.py",
    "tests/toolchain/test_cuts.py",
    "tests/toolchain/push/test_push.py",
    "tests/toolchain/quantize/test_gguf_as_base.py",
    "tests/toolchain/fleet/test_rollout.py",
    "tests/toolchain/finished/test_finish.py",
    "tests/cases/test_known_models.py",
    "tests/device/test_crashes.py",
    "tests/device/test_activation.py",
    "tests/device/test_trust.py",
    "tests/toolchain/quantize/test_gguf_bytes.py",
    "tests/toolchain/line/test_walk.py",
    "tests/test_board_line.py",
    "tests/toolchain/board/test_recording.py",
    "tests/test_board_tflite.py",
    "tests/test_board_onnx.py",
    "tests/toolchain/board/test_userland.py",
)
"""Files that take longest, the longest first: one that began last would end alone.

Of those on virtual boards one begins: on a fresh computer it makes the image, which takes ten
minutes, and the others would only wait for it.
"""
_session: dict[str, Any] = {"ends": 0.0, "left": 0}


class Rounds:
    """The numbers of the rounds that a test still has to do."""

    def __init__(self, request: pytest.FixtureRequest, minutes: float | None) -> None:
        marker = request.node.get_closest_marker("soak")
        assert marker, "a test with rounds is marked `soak`"
        self.limit = int(marker.kwargs["whole" if minutes else "short"])
        self._test = request.node.nodeid
        self._soaks = minutes is not None
        self._entry: dict[str, Any] = {
            "row": marker.kwargs["row"],
            "tree": _digest(request.path),
            "whole": marker.kwargs["whole"],
        }
        before = _state().get(self._test, {}) if self._soaks else {}
        fresh = before.get("tree") != self._entry["tree"]
        self._entry |= (
            {"done": 0, "seconds": 0.0}
            if fresh
            else {"done": before["done"], "seconds": before["seconds"]}
        )
        self._seen = Counter({} if fresh else before["seen"])

    def __iter__(self) -> Iterator[int]:
        """Yield numbers until all rounds are done, or until `make soak` has no more time."""
        began, spent = time.monotonic(), self._entry["seconds"]
        saved, ends = began, began + max(0.0, _session["ends"] - began) / max(1, _session["left"])
        while self._entry["done"] < self.limit and (not self._soaks or time.monotonic() < ends):
            yield self._entry["done"]
            self._entry["done"] += 1
            self._entry["seconds"] = round(spent + time.monotonic() - began, 1)
            if self._soaks and time.monotonic() - saved > SAVE_S:
                saved = time.monotonic()
                self.save()

    def saw(self, what: str, times: int = 1) -> None:
        """Count something that happened."""
        self._seen[what] += times

    def save(self) -> None:
        """Note how far this test came."""
        if self._soaks:
            STATE.parent.mkdir(exist_ok=True)
            part = STATE.with_name(".soak.json.part")
            part.write_text(
                json.dumps(
                    _state() | {self._test: self._entry | {"seen": self._seen}},
                    indent=1,
                    sort_keys=True,
                )
                + "\n"
            )
            part.replace(STATE)


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> Iterator[Rounds]:
    """Yield the rounds of this test; `make soak` notes them, of a test that failed as well."""
    counted = Rounds(request, request.config.getoption("--soak"))
    yield counted
    counted.save()
    _session["left"] -= 1


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder in memory if there is one: disks are slow for many small files."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as folder:
        yield Path(folder)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--soak MINUTES`."""
    parser.addoption(
        "--soak",
        type=float,
        metavar="MINUTES",
        help="the long tier: go on with it for so many minutes",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs virtual boards on a computer that cannot make them, and say what is missing;
    the long tier has its own end. The longest files begin first.
    """
    from toolchain.tools import mmdebstrap, qemu

    _leave_cases_out(items)
    rank = {ROOT / name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(FIRST)))
    if config.getoption("--soak"):
        for item in items:
            item.add_marker(pytest.mark.timeout(0), append=False)
    if missing := [*qemu.missing_packages(), *mmdebstrap.missing_packages()]:
        for item in items:
            if item.get_closest_marker("board"):
                item.add_marker(
                    pytest.mark.skip(
                        f"a virtual board needs {', '.join(missing)}: make system BOARDS=1"
                    )
                )


def _leave_cases_out(items: list[pytest.Item]) -> None:
    """Mark as slow all cases of a test that is `sampled(n)` except each n-th, from the first on."""
    seen: Counter[tuple[Path, str]] = Counter()
    for item in items:
        if sampled := item.get_closest_marker("sampled"):
            test = (item.path, item.nodeid.partition("[")[0])
            if seen[test] % sampled.args[0]:
                item.add_marker(pytest.mark.slow)
            seen[test] += 1


def pytest_collection_finish(session: pytest.Session) -> None:
    """Share the time of the long tier among its tests."""
    _session["left"] = sum(item.get_closest_marker("soak") is not None for item in session.items)
    _session["ends"] = time.monotonic() + 60 * (session.config.getoption("--soak") or 0)


def _state() -> dict[str, Any]:
    return dict(json.loads(STATE.read_text())) if STATE.is_file() else {}


def _digest(test: Path) -> str:
    """Return what names the product's and the test's source."""
    total = hashlib.sha256()
    for file in [
        *sorted((ROOT / "device").rglob("*.py")),
        *sorted((ROOT / "toolchain").rglob("*.py")),
        test,
    ]:
        total.update(file.read_bytes())
    return total.hexdigest()[:16]
