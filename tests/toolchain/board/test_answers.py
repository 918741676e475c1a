"""Answers of a board are foreign bytes: any of them ends in a sentence, soon, in little memory."""

import contextlib
import copy
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest

from device import facts as board_facts
from tests.fakes.hostile import Answer, hostile, says
from toolchain.board import answers, channel, ssh
from toolchain.board.device import Device, error_of, parse
from toolchain.doctor import board_findings
from toolchain.errors import BoardError

ESCAPES = "\x1b]0;pwned\x07\x1b[2J [/x]"


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What this very computer says of itself."""
    return {"facts": board_facts.read("~/store"), "stored": board_facts.stored("/nonexistent")}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


@contextlib.contextmanager
def looking_at(answer: Answer) -> Iterator[Device]:
    with hostile(answer) as board:
        address = f"pi@127.0.0.1:{board.port}"
        ssh.pin(address, board.key)
        connection = ssh.connect(address)
        try:
            yield Device(connection)
        finally:
            connection.close()


def test_the_facts_of_a_real_computer_are_taken_as_they_are(seen: dict[str, Any]) -> None:
    assert answers.checked("pi", "its facts", seen, answers.Seen) == seen


WRONG: list[Any] = [None, [], {}, "x", -5, 1.5, True, [[]], ["x"], {"x": None}, 10**30, "\ud800"]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", [*answers.Facts.model_fields, *answers.Stored.model_fields])
def test_no_fact_of_a_wrong_type_comes_through(name: str, seen: dict[str, Any]) -> None:
    part = "facts" if name in answers.Facts.model_fields else "stored"
    for value in WRONG:
        spoilt = copy.deepcopy(seen)
        spoilt[part][name] = value
        try:
            taken = answers.checked("pi", "its facts", spoilt, answers.Seen)
        except BoardError as error:
            assert error.message.startswith(f"pi: its facts: `{part}.{name}")
        else:
            assert board_findings(taken["facts"])


@pytest.mark.parametrize("name", answers.Facts.model_fields)
def test_a_fact_that_is_missing_is_named(name: str, seen: dict[str, Any]) -> None:
    spoilt = copy.deepcopy(seen)
    del spoilt["facts"][name]
    with pytest.raises(BoardError, match=f"pi: its facts: `facts.{name}`: field required"):
        answers.checked("pi", "its facts", spoilt, answers.Seen)


NO_ANSWERS = [
    b"[1, 2]",
    b"5",
    b"null",
    b"[" * 200_000,
    b'{"a":' * 200 + b"1" + b"}" * 200,
    b'{"facts":' + b"9" * 10_000 + b"}",
    b'{"facts": NaN}',
    b'{"a": Infinity}',
    "{}".encode("utf-16"),
    b"{",
    b"",
]


@pytest.mark.parametrize("line", NO_ANSWERS, ids=[repr(line[:12]) for line in NO_ANSWERS])
def test_what_is_no_answer_is_quoted(line: bytes) -> None:
    with pytest.raises(BoardError, match=r"^pi: not an answer of ours: ") as caught:
        answers.read("pi", line)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("fault", [None, [], "x", 5, {"code": []}, {"code": "x", "message": {}}])
def test_an_error_of_a_wrong_type_is_an_error(fault: Any) -> None:
    with pytest.raises(BoardError, match=r"^pi: its error: "):
        raise error_of("pi", {"error": fault})


@pytest.mark.parametrize(
    ("verb", "answer", "field"),
    [
        ("status", {"root": 5, "release": None}, "root"),
        ("status", {"root": "/x", "release": {"release": "x"}}, "release.release"),
        ("activate", {"check": {"goldens": "many", "agreement": 1.0}}, "check.goldens"),
        ("activate", {"check": {"goldens": 3, "agreement": None}}, "check.agreement"),
        ("ask", {"delta": None}, "delta"),
        ("ask", {"text": ["x"]}, "text"),
        ("logs", {"line": 5}, "line"),
        ("receive", {"wrong_at": "x"}, "wrong_at"),
        ("scrub", {"rotten": None}, "rotten"),
        ("tensors", {"sha256": "x", "tensors": [5]}, "tensors.0"),
        ("bench", {"rows": []}, "rows"),
        ("bench", {"rows": [{}]}, "rows.0.n_prompt"),
        ("calibrate", {"settings": {}, "evidence": {}}, "settings.threads"),
    ],
)
def test_a_field_of_a_wrong_type_is_named_with_its_verb(
    verb: str, answer: dict[str, Any], field: str
) -> None:
    with pytest.raises(BoardError) as caught:
        parse("pi", verb, json.dumps(answer).encode())
    assert caught.value.message.startswith(f"pi: the answer of `{verb}`: `{field}`: ")


def test_what_the_login_shell_prints_before_a_command_is_skipped(
    home: Path, seen: dict[str, Any]
) -> None:
    def greets(wire: paramiko.Channel) -> None:
        wire.sendall(b"Welcome! temp=48.3'C {}\n" * 100)
        wire.sendall_stderr(b"stty: standard input: Inappropriate ioctl\n")
        says(json.dumps(seen).encode() + b"\n")(wire)

    with looking_at(greets) as device:
        assert device.facts()["python"] == seen["facts"]["python"]


FLOODS: dict[str, tuple[Answer, str]] = {
    "an answer without end": (says(b"x" * (1 << 20), times=40), "prints more than 16 MB"),
    "complaints without end": (says(b"", b"x" * (1 << 20), times=100), "prints more than 16 MB"),
    "a greeting without end": (lambda wire: wire.sendall(b"x" * (2 << 20)), "prints without end"),
    "a shell that runs nothing": (
        lambda wire: wire.sendall_stderr(ESCAPES.encode()),
        r"the login shell runs no commands: it ended with exit status 0 and printed `",
    ),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("answer", "message"), FLOODS.values(), ids=FLOODS)
def test_a_board_that_floods_is_left(home: Path, answer: Answer, message: str) -> None:
    with looking_at(answer) as device, pytest.raises(BoardError, match=message):
        device.facts()


def test_a_board_that_drips_is_left_when_its_time_is_over(home: Path) -> None:
    over = threading.Event()

    def drips(wire: paramiko.Channel) -> None:
        says(b"")(wire)
        while not over.wait(0.05):
            wire.sendall(b" ")

    with looking_at(drips) as device:
        with pytest.raises(BoardError, match="no end after 1 s"):
            device.connection.run(["true"], timeout_s=1)
        over.set()


def test_a_line_that_never_ends_is_left(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "ANSWER_S", 121.0)
    with looking_at(says(b"x" * (1 << 20), times=40)) as device:
        line = device.connection.open(["true"])
        with pytest.raises(BoardError, match="prints more than 16 MB"):
            line.read_line()


GREETINGS: dict[str, Callable[[socket.socket], None]] = {
    "one line without end": lambda peer: _send(peer, b"x" * 65_536),
    "lines without end": lambda peer: _send(peer, b"hello\r\n" * 1_000),
    "noise": lambda peer: peer.sendall(bytes(range(256)) * 40),
    "escapes": lambda peer: peer.sendall(b"SSH-9.9-\x1b[31mRED\r\n"),
    "half a key exchange": lambda peer: peer.sendall(b"SSH-2.0-x\r\n\0\0\0\x0c\x0a\x14garbage"),
}


def _send(peer: socket.socket, piece: bytes) -> None:
    while True:
        peer.sendall(piece)


@pytest.mark.parametrize("greet", GREETINGS.values(), ids=GREETINGS)
def test_what_greets_without_sense_or_end_is_no_ssh_server(
    home: Path, greet: Callable[[socket.socket], None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                peer, _ = listener.accept()
                with peer:
                    greet(peer)

        threading.Thread(target=serve, daemon=True).start()
        port = listener.getsockname()[1]
        with pytest.raises(BoardError, match=r"not a usable SSH server|not reachable") as caught:
            ssh.connect(f"pi@127.0.0.1:{port}")
        # paramiko writes its cause straight behind the word.
        assert not re.search(r"banner[^:]", caught.value.message)
