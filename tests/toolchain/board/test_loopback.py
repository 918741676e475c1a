"""`local`: a server of our own that comes and goes with its block."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toolchain.board import loopback, open_board
from toolchain.errors import ConfigError, ToolError
from toolchain.tools import openssh


@pytest.fixture(scope="module", autouse=True)
def _an_ssh_server_is_installed() -> None:
    try:
        openssh.sshd()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until_gone(port: int) -> None:
    """A child that just took a connection may hold the listening socket for a moment longer."""
    deadline = time.monotonic() + 10
    while listens(port):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_this_computer_is_a_board_as_the_calling_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMITASSE_ROOT", "/somewhere/else")
    with open_board("local") as board:
        assert (board.address, board.root) == ("local", "/somewhere/else")
        assert int(board.run(["id", "-u"]).stdout) == os.getuid()


def test_the_store_is_in_the_users_home_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEMITASSE_ROOT", raising=False)
    with open_board("local") as board:
        assert board.root == "~/.local/share/demitasse"


def test_the_server_is_gone_after_the_block_even_on_an_error() -> None:
    with pytest.raises(KeyboardInterrupt), loopback.server() as way:
        assert listens(way.port)
        raise KeyboardInterrupt
    wait_until_gone(way.port)


def test_the_server_is_gone_after_its_user_was_killed() -> None:
    program = (
        "import time\nfrom toolchain.board import loopback\n"
        "with loopback.server() as way:\n    print(way.port, flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert child.stdout
    with child.stdout:
        port = int(child.stdout.readline())
    assert listens(port)
    child.send_signal(signal.SIGKILL)
    child.wait()
    wait_until_gone(port)


def test_keys_live_no_longer_than_the_server_and_are_the_users_alone() -> None:
    with loopback.server() as way:
        key = Path(way.identities[0])
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.parent.stat().st_mode & 0o777 == 0o700
    assert not key.parent.exists()


_COUNT = (
    "import os, sys, time\n"
    "heard = b''\n"
    "while heard.count(b'\\n') < 3: heard += os.read(0, 10) or sys.exit('the input ended')\n"
    "print('alive')\n"
)


def test_a_command_hears_that_this_computer_lives_while_it_runs() -> None:
    with open_board("local") as board:
        assert board.run(["python3", "-c", _COUNT], beat_s=0.05).stdout == b"alive\n"
        assert "the input ended" in board.run(["python3", "-c", _COUNT]).stderr


HOMES = ["plain", "a b", "it's", 'say "hi"', "new\nline", "h%h$x*", "[/x]", "back\\slash"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", HOMES)
def test_commands_on_this_computer_run_in_the_callers_home_whatever_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / name
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(home))
    with open_board("local") as board:
        assert board.run(["printf", "%s", "~/x"]).stdout.decode() == f"{home}/x"


@pytest.mark.slow
@pytest.mark.parametrize("words", [("status", "local"), ("trust", "local", "--target", "any")])
def test_a_umask_of_zero_makes_nothing_that_others_may_write(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    command = ["sh", "-c", 'umask 000; exec "$@"', "sh", sys.executable, "-m", "toolchain", *words]
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    environment.pop("DEMITASSE_ROOT", None)
    root = Path(__file__).parents[3]
    subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)
    made = list(home.rglob("*"))
    assert [path for path in made if path.name == "blobs"] != []
    assert [path for path in made if path.stat().st_mode & 0o022] == []


@pytest.mark.slow
def test_a_home_that_cannot_be_written_keeps_nobody_from_a_board_elsewhere(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": "/proc/none", "DEMITASSE_ROOT": str(tmp_path / "store")}
    environment.pop("XDG_CACHE_HOME", None)
    command = [sys.executable, "-m", "toolchain", "status", "local"]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        command, cwd=root, env=environment, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert str(tmp_path / "store") in done.stdout


def test_a_name_in_the_environment_is_not_who_the_caller_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOGNAME", "nobody")
    monkeypatch.setenv("USER", "nobody")
    with open_board("local") as board:
        assert int(board.run(["id", "-u"]).stdout) == os.getuid()


def test_an_address_of_no_kind_names_the_kinds() -> None:
    with pytest.raises(ConfigError) as caught, open_board("bluetooth:pi"):
        pass
    assert caught.value.message == "bluetooth:pi: unknown kind of address `bluetooth`"
    assert "`local`" in caught.value.hint
