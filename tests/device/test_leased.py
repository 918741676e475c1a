"""A measurement lives no longer than its host, goes on alone, and is named while it goes on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device import leased
from device.errors import DeviceError
from device.facts import measuring, uptime_s
from device.manifest import leases

RUNTIME = "a" * 64
PROGRAM = """
import json, os, sys, time
verb, work = sys.argv[1:]
print(json.dumps({"verb": verb, "pid": os.getpid()}), flush=True)
how, _, amount = work.partition("=")
if how == "sleep":
    time.sleep(float(amount))
if how == "die":
    os.kill(os.getpid(), int(amount))
if how == "exit":
    sys.exit(int(amount))
print(json.dumps({"done": True}), flush=True)
"""
"""A runtime whose verb says who it is, and then does as its word tells it."""
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "store" / "runtimes" / RUNTIME
    folder.mkdir(parents=True)
    (folder / "__main__.py").write_text(PROGRAM)
    return tmp_path / "store"


@pytest.fixture
def start(root: Path) -> Iterator[Start]:
    """Start a leased verb with a work to do; all are ended with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(work: str, *, verb: str = "bench", silent: float = 60.0) -> "subprocess.Popen[bytes]":
        words = ["--root", str(root), "--runtime", RUNTIME, "--silent", str(silent), verb, work]
        command = [sys.executable, "-m", "device", "leased", *words]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        started.append(child)
        return child

    yield start
    for child in started:
        assert child.stdin
        assert child.stdout
        child.kill()
        child.wait()
        child.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()


def said(child: "subprocess.Popen[bytes]") -> dict[str, Any]:
    assert child.stdout
    answer: dict[str, Any] = json.loads(child.stdout.readline())
    return answer


def is_gone(pid: int) -> bool:
    """Say whether a process ended; one that nobody has waited for counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while not is_gone(pid):
        assert time.monotonic() < deadline, "it outlives its host"
        time.sleep(0.02)


def test_it_ends_when_its_host_hangs_up(start: Start) -> None:
    child = start("sleep=600")
    verb = said(child)
    assert child.stdin
    child.stdin.close()
    fault = said(child)["error"]
    assert (fault["code"], fault["message"]) == ("cut", "the host hung up, so this ended")
    assert child.wait(timeout=10) == 1
    assert is_gone(verb["pid"])


def test_it_ends_when_its_host_says_nothing_though_the_line_seems_to_stand(start: Start) -> None:
    child = start("sleep=600", silent=0.5)
    verb = said(child)
    fault = said(child)["error"]
    assert (fault["code"], fault["message"]) == (
        "cut",
        "the host said nothing for 0.5 s, so this ended",
    )
    assert is_gone(verb["pid"])


@pytest.mark.slow
def test_it_goes_on_as_long_as_its_host_gives_signs_of_life(start: Start) -> None:
    child = start("sleep=5", silent=3.0)
    said(child)
    assert child.stdin
    while child.poll() is None:
        try:
            child.stdin.write(b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            break
        time.sleep(0.1)
    assert said(child) == {"done": True}
    assert child.wait(timeout=10) == 0


def test_it_ends_with_the_process_that_watches_over_it(start: Start) -> None:
    child = start("sleep=600")
    verb = said(child)
    child.send_signal(signal.SIGKILL)
    wait_until_gone(verb["pid"])


@pytest.mark.parametrize(("work", "code"), [("exit=3", 3), ("die=4", 132), ("none", 0)])
def test_it_ends_with_the_status_of_its_verb(start: Start, work: str, code: int) -> None:
    child = start(work, verb="check")
    assert said(child)["verb"] == "check"
    assert child.wait(timeout=10) == code


def test_it_is_named_while_it_goes_on_and_not_afterwards(start: Start, root: Path) -> None:
    child = start("sleep=600", verb="check")
    said(child)
    seen = measuring(str(root))
    assert seen is not None
    assert (seen["verb"], seen["pid"]) == ("check", child.pid)
    assert 0 <= seen["seconds"] < 60
    child.kill()
    child.wait()
    assert measuring(str(root)) is None


def test_a_number_that_another_process_has_now_is_not_named(start: Start, root: Path) -> None:
    child = start("sleep=600")
    said(child)
    file = root / "run" / "measuring.json"
    note = json.loads(file.read_text())
    assert measuring(str(root)) is not None
    file.write_text(json.dumps({**note, "started": note["started"] - 1}))
    assert measuring(str(root)) is None


def test_a_note_of_a_process_that_nobody_waited_for_names_nobody(start: Start, root: Path) -> None:
    child = start("sleep=600")
    said(child)
    child.kill()
    wait_until_gone(child.pid)
    assert (root / "run" / "measuring.json").exists()
    assert measuring(str(root)) is None


def test_without_a_note_the_process_that_measures_is_known(start: Start, root: Path) -> None:
    child = start("sleep=600")
    said(child)
    (root / "run" / "measuring.json").unlink()  # a disk that takes no byte has none
    seen = leased.under_way(root)
    assert seen is not None
    assert seen["pid"] == child.pid
    child.kill()
    child.wait()
    assert leased.under_way(root) is None


def test_a_second_one_is_refused_with_the_name_of_the_first(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = start("sleep=600")
    said(child)
    monkeypatch.setattr(leased, "WAIT_S", 0.1)
    with pytest.raises(DeviceError) as caught:
        leased.leased(["--root", str(root), "--runtime", RUNTIME, "bench", "none"])
    assert caught.value.code == "busy"
    assert f"measured already: `bench`, process {child.pid}, for " in caught.value.message


def test_a_second_one_begins_once_the_first_has_lost_its_host(start: Start) -> None:
    first = start("sleep=600", silent=1.0)
    said(first)
    second = start("none")
    assert said(second)["verb"] == "bench"
    assert first.wait(timeout=10) == 1


def test_an_orphan_cannot_outlast_the_wait_of_a_second_one() -> None:
    assert leases.BEAT_S * 2 < leases.SILENT_S < leases.WAIT_S


@pytest.mark.parametrize(
    "note",
    [
        "",
        "[]",
        "null",
        '{"verb": "bench"}',
        '{"verb": "bench", "pid": 1, "began": 1}',
        '{"verb": "bench", "pid": "x", "began": 1, "started": 1}',
        '{"verb": "bench", "pid": -1, "began": 1, "started": 1}',
        '{"verb": "bench", "pid": 1, "began": Infinity, "started": 1}',
        '{"verb": "bench", "pid": 1e400, "began": 1, "started": 1}',
        '{"verb": "bench", "pid": 1, "began": 1, "started": null}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:45],
)
def test_a_rotten_note_names_nobody(root: Path, note: str) -> None:
    (root / "run").mkdir()
    (root / "run" / "measuring.json").write_text(note)
    assert measuring(str(root)) is None


def test_a_note_from_before_a_power_cut_names_no_other_process(root: Path) -> None:
    (root / "run").mkdir()
    note = {"verb": "bench", "pid": os.getpid(), "started": 0, "began": uptime_s()}
    (root / "run" / "measuring.json").write_text(json.dumps(note))
    assert measuring(str(root)) is None
