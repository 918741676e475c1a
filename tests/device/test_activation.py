"""The switch as a board sees it: a real agent, a real supervisor, and runtimes that behave well and
badly.
"""

import contextlib
import importlib.util
import json
import marshal
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device.store import RELEASES, RUNTIMES, Store
from tests.device.test_store import add
from tests.fakes.bundles import make_bundle, make_runtime
from tests.fakes.ports import free_port
from toolchain.agent import build_agent


class Board:
    """A store with a runtime, and the agent beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.port = folder, Store(folder / "root"), free_port()
        self.runtime = add(self.store, RUNTIMES, make_runtime(folder / "runtime"))
        self.agent = build_agent()

    def add(
        self, version: str, *, counter: int = 1, check: str = "good", serve: str = "good"
    ) -> str:
        weights = f"weights {version}".encode()
        bundle = make_bundle(
            self.folder / version,
            version=version,
            counter=counter,
            check=check,
            serve=serve,
            payload=weights,
        )
        return add(self.store, RELEASES, bundle.path)

    def command(self, verb: str, *words: str) -> list[str]:
        return [
            sys.executable,
            "-sE",
            str(self.agent),
            verb,
            "--root",
            str(self.store.root),
            *words,
        ]

    def call(self, verb: str, *words: str) -> dict[str, Any]:
        done = subprocess.run(
            self.command(verb, *words), capture_output=True, check=False, timeout=120
        )
        assert done.stderr == b""
        return dict(json.loads(done.stdout))

    def activation(self, release: str) -> list[str]:
        words = (
            "--runtime",
            self.runtime,
            "--port",
            str(self.port),
            "--service",
            "supervised",
            "--allow-unsigned",
        )
        return [release, *words, "--check-timeout", "20", "--health-timeout", "20"]

    def activate(self, release: str) -> dict[str, Any]:
        return self.call("activate", *self.activation(release))

    def running(self) -> str | None:
        status = self.call("status")
        return (
            status["release"]["version"]
            if status["service"]["healthy"] and status["confirmed"]
            else None
        )


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board(tmp_path)
    yield made
    made.call("stop")


def processes() -> list[bytes]:
    """Return the command lines of all processes."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes())
    return lines


def wait_until(said: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not said():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_a_healthy_release_serves_and_the_one_before_is_kept(board: Board) -> None:
    first = board.add("1")
    answer = board.activate(first)
    assert answer.pop("check")["goldens"] == 8
    assert answer == {
        "release": first,
        "port": board.port,
        "service": "supervised",
        "unchanged": False,
    }
    second = board.add("2", counter=2)
    board.activate(second)
    status = board.call("status")
    assert (status["release"]["version"], status["previous"]["version"], status["confirmed"]) == (
        "2",
        "1",
        True,
    )
    assert status["service"]["health"]["bundle"] == second
    assert status["service"]["survives_reboot"] is False
    board.call("verify")


@pytest.mark.slow
def test_a_service_that_is_about_to_answer_is_said_to_start(board: Board) -> None:
    board.activate(board.add("1", serve="late"))
    assert board.call("status")["service"]["starting"] is False
    serving = board.call("status")["service"]["pid"]
    os.kill(serving, signal.SIGKILL)

    wait_until(lambda: board.call("status")["service"]["pid"] not in (None, serving))
    seen = board.call("status")["service"]
    assert (seen["healthy"], seen["starting"]) == (False, True)
    wait_until(lambda: board.call("status")["service"]["healthy"])
    assert board.call("status")["service"]["starting"] is False
    assert board.call("stop")["service"]["starting"] is False


@pytest.mark.slow
def test_the_same_release_again_changes_nothing(board: Board) -> None:
    first = board.add("1")
    board.activate(first)
    pid = board.call("status")["service"]["pid"]
    assert board.activate(first)["unchanged"] is True
    assert board.call("status")["service"]["pid"] == pid


@pytest.mark.slow
def test_a_service_that_lives_and_is_only_slow_is_not_started_anew(board: Board) -> None:
    first = board.add("1")
    board.activate(first)
    pid = board.call("status")["service"]["pid"]
    naps = board.store.root / "run" / "naps"
    naps.write_text("3")
    assert board.activate(first)["unchanged"] is True
    assert naps.read_text() == "0"
    assert board.call("status")["service"]["pid"] == pid


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("check", "serve", "message"),
    [
        ("refuse", "good", "the check failed: golden 3 differs; tiny 1 runs again"),
        ("illegal", "good", "the check died by signal 4 (illegal instruction); tiny 1 runs again"),
        (
            "killed",
            "good",
            "the check died by signal 9 (killed, most likely out of memory); tiny 1 runs again",
        ),
        ("exit", "good", "the check ended with exit status 3; tiny 1 runs again"),
        ("good", "exit", "the service ended with exit status 3; tiny 1 runs again"),
        (
            "good",
            "illegal",
            "the service died by signal 4 (illegal instruction); tiny 1 runs again",
        ),
    ],
)
def test_a_broken_release_is_taken_back_with_its_reason(
    board: Board, check: str, serve: str, message: str
) -> None:
    board.activate(board.add("1"))
    answer = board.activate(board.add("2", check=check, serve=serve))
    assert (answer["error"]["code"], answer["error"]["message"]) == ("unhealthy", message)
    assert board.running() == "1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "serve", "message"),
    [
        ("hang", "good", "the check did not end within 1 s; tiny 1 runs again"),
        ("good", "hang", "the service was not healthy within 6 s; tiny 1 runs again"),
    ],
)
def test_a_release_that_hangs_is_taken_back(
    board: Board, check: str, serve: str, message: str
) -> None:
    board.activate(board.add("1"))
    words = board.activation(board.add("2", check=check, serve=serve))
    limits = ["--check-timeout", "1" if check == "hang" else "20", "--health-timeout", "6"]
    answer = board.call("activate", *words[:-4], *limits)
    assert answer["error"]["message"] == message
    assert board.running() == "1"


@pytest.mark.slow
def test_the_first_release_that_fails_leaves_nothing_running(board: Board) -> None:
    answer = board.activate(board.add("1", check="refuse"))
    assert (
        answer["error"]["message"]
        == "the check failed: golden 3 differs; nothing runs: there was no release before"
    )
    assert board.call("status")["release"] is None


@pytest.mark.slow
def test_a_lower_counter_is_refused_while_the_service_runs_on(board: Board) -> None:
    board.activate(board.add("2", counter=2))
    pid = board.call("status")["service"]["pid"]
    answer = board.activate(board.add("1", counter=1))
    assert answer["error"]["code"] == "downgrade"
    assert answer["error"]["message"] == "tiny 1 has counter 1, this board had 2 already"
    assert board.call("status")["service"]["pid"] == pid


@pytest.mark.slow
def test_rollback_goes_back_even_to_a_lower_counter_and_forward_again(board: Board) -> None:
    board.activate(board.add("1", counter=1))
    board.activate(board.add("2", counter=2))
    assert board.call("rollback")["release"]["version"] == "1"
    assert board.running() == "1"
    assert board.call("rollback")["release"]["version"] == "2"
    assert board.running() == "2"


@pytest.mark.slow
def test_rollback_without_a_release_before_says_so(board: Board) -> None:
    board.activate(board.add("1"))
    assert (
        board.call("rollback")["error"]["message"] == "there is no previous release to go back to"
    )
    assert board.running() == "1"


@pytest.mark.slow
def test_another_programs_port_is_not_taken_for_health(board: Board) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", board.port))
        other.listen()
        answer = board.activate(board.add("1"))
    assert answer["error"]["code"] == "port_taken"
    assert answer["error"]["message"] == f"another program listens on port {board.port}"
    assert board.call("status")["refused"]["code"] == "port_taken"


@contextlib.contextmanager
def taken_port(board: Board) -> Iterator[None]:
    """The board's next activations are onto a port on which another program listens."""
    own = board.port
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        board.port = int(other.getsockname()[1])
        yield
        board.port = own


@pytest.mark.slow
def test_a_push_onto_a_taken_port_leaves_a_running_service_alone(board: Board) -> None:
    board.activate(board.add("1"))
    pid = board.call("status")["service"]["pid"]
    with taken_port(board):
        assert board.activate(board.add("2"))["error"]["code"] == "port_taken"
    status = board.call("status")
    assert (status["release"]["version"], status["service"]["pid"]) == ("1", pid)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["a taken port", "a broken release"])
def test_a_push_that_is_refused_leaves_a_stopped_service_stopped(board: Board, fault: str) -> None:
    board.activate(board.add("1"))
    board.call("stop")
    if fault == "a taken port":
        with taken_port(board):
            answer = board.activate(board.add("2"))
    else:
        answer = board.activate(board.add("2", check="refuse"))
        assert answer["error"]["message"].endswith("; tiny 1 stays stopped")
    assert "error" in answer
    status = board.call("status")
    assert (status["release"]["version"], status["confirmed"]) == ("1", True)
    assert (status["service"]["healthy"], status["service"]["pid"]) == (False, None)


@pytest.mark.slow
def test_names_and_origins_of_an_activation_reach_the_service_and_the_status(board: Board) -> None:
    release = board.add("1")
    words = (
        "--host-name",
        "kitchen-pi.local",
        "--host-name",
        "pi.lan",
        "--cors-origin",
        "http://a:1",
    )
    answer = board.call("activate", *board.activation(release), *words)
    assert "error" not in answer
    shown = board.call("status")["release"]
    assert (shown["host_names"], shown["cors_origins"]) == (
        ["kitchen-pi.local", "pi.lan"],
        ["http://a:1"],
    )
    served = [line for line in processes() if f"--port\0{board.port}".encode() in line]
    assert [line for line in served if "\0".join(words).encode() in line]
    assert board.call("activate", *board.activation(release), *words)["unchanged"]
    assert not board.activate(release)["unchanged"]


@pytest.mark.slow
def test_a_deployment_of_an_earlier_version_is_read_without_names(board: Board) -> None:
    board.activate(board.add("1"))
    for file in (*(board.store.root / "deployments").iterdir(), board.store.root / "state.json"):
        kept = json.loads(file.read_bytes())
        later = ("host_names", "cors_origins", "seal")
        file.write_text(json.dumps({n: v for n, v in kept.items() if n not in later}))
    assert board.running() == "1"


@pytest.mark.slow
def test_a_service_that_dies_is_started_again(board: Board) -> None:
    board.activate(board.add("1"))
    pid = board.call("status")["service"]["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: (now := board.call("status")["service"])["healthy"] and now["pid"] != pid)


@pytest.mark.slow
def test_a_stopped_service_stays_stopped_and_leaves_no_process(board: Board) -> None:
    board.activate(board.add("1"))
    pid = board.call("status")["service"]["pid"]
    assert board.call("stop")["service"]["pid"] is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert board.call("status")["service"]["healthy"] is False


@pytest.mark.slow
def test_no_byte_code_of_a_runtime_is_kept_anywhere(board: Board) -> None:
    board.activate(board.add("1"))
    assert not list(board.store.root.rglob("*.pyc"))
    assert not list(board.store.root.rglob("__pycache__"))


def forge(board: Board, folder: Path) -> None:
    """Write byte code of a runtime's module that ends the process, dated like that of its
    source.
    """
    source = board.store.folder(RUNTIMES, board.runtime) / "device" / "part0.py"
    seen = source.stat()
    header = importlib.util.MAGIC_NUMBER + struct.pack(
        "<III", 0, int(seen.st_mtime) & 0xFFFFFFFF, seen.st_size
    )
    code = marshal.dumps(compile("raise SystemExit(66)", str(source), "exec"))
    folder.mkdir(parents=True)
    (folder / f"part0.{sys.implementation.cache_tag}.pyc").write_bytes(header + code)


@pytest.mark.slow
def test_byte_code_that_lies_where_earlier_toolchains_kept_it_is_not_executed(board: Board) -> None:
    source = board.store.folder(RUNTIMES, board.runtime) / "device"
    forge(board, board.store.root / "run" / "pycache" / source.relative_to("/"))
    assert "error" not in board.activate(board.add("1"))
    assert board.running() == "1"
    assert not (board.store.root / "run" / "pycache").exists()


@pytest.mark.slow
def test_byte_code_in_a_runtime_is_refused_at_a_start_and_gone_with_the_next_push(
    board: Board,
) -> None:
    first = board.add("1")
    board.activate(first)
    forge(board, board.store.folder(RUNTIMES, board.runtime) / "device" / "__pycache__")
    os.kill(board.call("status")["service"]["pid"], signal.SIGKILL)
    wait_until(lambda: "is not in the manifest" in board.call("status")["service"]["failure"])
    assert "is not in the manifest" in board.activate(first)["error"]["message"]
    add(board.store, RUNTIMES, board.folder / "runtime")
    board.activate(first)
    wait_until(lambda: board.running() == "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "serve", "switched"), [("hang", "good", False), ("good", "hang", True)]
)
def test_after_a_kill_within_an_activation_the_release_before_runs_again_by_itself(
    board: Board, check: str, serve: str, switched: bool
) -> None:
    first = board.add("1")
    board.activate(first)
    second = board.add("2", check=check, serve=serve)
    child = subprocess.Popen(
        board.command("activate", *board.activation(second)), stdout=subprocess.DEVNULL
    )
    if switched:
        wait_until(lambda: (now := board.store.current()) and now.release == second)
    else:
        wait_until(lambda: not board.call("status")["service"]["healthy"])
    child.kill()
    child.wait()
    wait_until(lambda: board.running() == "1")
    assert not [
        words
        for words in processes()
        if str(board.store.root).encode() in words and b"\0check\0" in words
    ]
    board.call("verify")
    assert board.store.previous() is None
    wait_until(lambda: board.activate(first).get("unchanged") is True)


@pytest.mark.slow
def test_a_release_whose_bytes_rotted_is_not_run_again_but_the_one_before_it(board: Board) -> None:
    board.activate(board.add("1"))
    second = board.add("2", counter=2)
    board.activate(second)
    model = board.store.folder(RELEASES, second) / "model.bin"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    os.kill(board.call("status")["service"]["pid"], signal.SIGKILL)
    wait_until(lambda: board.running() == "1")


@pytest.mark.slow
def test_the_only_release_is_refused_when_its_bytes_rotted_and_runs_when_it_is_sent_again(
    board: Board,
) -> None:
    first = board.add("1")
    board.activate(first)
    model = board.store.folder(RELEASES, first) / "model.bin"
    good = model.read_bytes()
    model.write_bytes(good[:-1] + b"?")
    os.kill(board.call("status")["service"]["pid"], signal.SIGKILL)
    wait_until(lambda: "was refused" in board.call("status")["service"]["failure"])
    failure = f"was refused: release {first[:12]}: `model.bin` is not what the manifest says"
    assert board.call("status")["service"]["failure"] == failure
    assert board.call("activate", *board.activation(first))["error"]["code"] == "wrong_digest"
    add(board.store, RELEASES, board.folder / "1")
    board.activate(first)
    assert board.running() == "1"


@pytest.mark.slow
def test_a_release_that_is_too_slow_is_taken_back_and_the_status_says_why(board: Board) -> None:
    board.activate(board.add("1"))
    answer = board.activate(board.add("2", check="slow"))
    reason = "it decodes 6.9 tokens/s, by the release before 10.0 are expected here, 70% asked"
    assert answer["error"]["message"] == f"{reason}; tiny 1 runs again"
    refused = board.call("status")["refused"]
    assert (refused["version"], refused["code"], refused["reason"]) == ("2", "unhealthy", reason)
    board.activate(board.add("3"))
    assert board.call("status")["refused"] is None


@pytest.mark.slow
def test_the_speed_is_not_judged_where_it_says_nothing(board: Board) -> None:
    first = board.activate(board.add("1"))
    assert (
        first["check"]["speed"]["unjudged"]
        == "no model was measured here before while the board was calm"
    )
    words = board.activation(board.add("2", check="slow"))
    answer = board.call("activate", *words, "--unjudged", "the board is emulated")
    assert answer["check"]["speed"]["unjudged"] == "the board is emulated"


@pytest.mark.slow
def test_a_slow_release_is_taken_while_other_programs_keep_the_board_busy(board: Board) -> None:
    board.activate(board.add("1"))
    answer = board.activate(board.add("2", check="busy and slow"))
    assert answer["check"]["speed"]["unjudged"] == "other programs took 50% of the processors"
    assert board.running() == "2"


@pytest.mark.slow
def test_scrubbing_names_what_has_rotted_and_lets_the_release_before_run(board: Board) -> None:
    board.activate(board.add("1"))
    second = board.add("2", counter=2)
    board.activate(second)
    whole = board.call("scrub")
    assert (whole["rotten"], whole["blobs"] > 3) == ([], True)
    model = board.store.folder(RELEASES, second) / "model.bin"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    seen = board.call("scrub")
    assert seen["rotten"] == [{"in": second, "kind": "release", "what": "`model.bin` has rotted"}]
    assert seen["hint"] == "push the release again"
    wait_until(lambda: board.running() == "1")
    assert board.call("scrub")["rotten"][0]["in"] == second


def test_the_log_is_told_by_its_last_lines(board: Board) -> None:
    log = board.store.root / "run" / "service.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    done = subprocess.run(
        board.command("logs", "-n", "2"), capture_output=True, check=True, timeout=60
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"line": "line 98"},
        {"line": "line 99"},
        {"ok": True},
    ]
