"""Who may sign for a board: each attack is refused by its own code, whatever the clock says.

Usual keys are accepted.
"""

import base64
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from device import trust
from device.errors import DeviceError
from device.manifest.signature import fingerprint
from device.signers import SIGNERS
from device.store import RELEASES, RUNTIMES
from tests.device.test_activation import wait_until
from tests.fakes import signers
from tests.fakes.attacks import ACCEPTED, ATTACKS, Board, Keys, verdict
from tests.fakes.ports import free_port
from toolchain.agent import build_agent

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def board(tmp_path: Path, keys: Keys) -> Board:
    return Board(tmp_path / "board", keys)


def test_what_the_owner_signed_is_accepted(board: Board) -> None:
    assert board.verdict() == ACCEPTED


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("code", "attack"), [row[1:] for row in ATTACKS], ids=[row[0] for row in ATTACKS]
)
def test_an_attack_is_refused_by_its_own_name(board: Board, code: str, attack: Any) -> None:
    assert verdict(board, attack) == code


def test_at_least_thirty_attacks_have_codes_of_their_own() -> None:
    assert len({code for _, code, _ in ATTACKS}) >= 30


@pytest.mark.slow
def test_no_clock_changes_an_answer(tmp_path: Path) -> None:
    shim = tmp_path / "clock.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", shim, ROOT / "tests" / "fakes" / "clock.c"], check=True
    )
    said = {year: _codes_at(seconds, shim, tmp_path / year) for year, seconds in CLOCKS.items()}
    expected = {title: code for title, code, _ in ATTACKS} | {ACCEPTED: ACCEPTED}
    assert said == {year: {"year": year, **expected} for year in CLOCKS}


CLOCKS = {"1970": 86_400, "2000": 951_782_400, "2038": 2_147_558_400, "2100": 4_102_444_800}
"""The second days of 1970 and of the time after 32 bits, a leap day of 2000, the first day
of 2100."""


def _codes_at(seconds: int, shim: Path, folder: Path) -> dict[str, str]:
    """Run every attack in a process whose children, too, believe in that time."""
    folder.mkdir()
    program = (
        "import contextlib, io, json, pathlib, subprocess, sys\n"
        "from tests.fakes.attacks import codes\n"
        "date = ['date', '-u', '+%Y']\n"
        "year = subprocess.run(date, capture_output=True, text=True).stdout.strip()\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    said = codes(pathlib.Path(sys.argv[1]))\n"
        "print(json.dumps({'year': year, **said}))"
    )
    environment = {
        "LD_PRELOAD": str(shim),
        "CLOCK": str(seconds),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", program, folder], env=environment, capture_output=True, timeout=200
    )
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    "words", [("-t", "ed25519"), ("-t", "ecdsa", "-b", "256"), ("-t", "ecdsa", "-b", "521")]
)
def test_keys_that_people_have_are_taken(
    board: Board, tmp_path: Path, words: tuple[str, ...]
) -> None:
    key = signers.make_key(tmp_path / "mine", *words)
    board.trust("--signer", signers.public(key))
    board.sign(RELEASES, key)
    assert board.verdict() == ACCEPTED


def test_a_security_key_is_taken(board: Board) -> None:
    key, content = signers.SecurityKey(), board.manifest(RELEASES).read_bytes()
    head = signers.string(b"demitasse-bundle") + signers.string(b"") + signers.string(b"sha512")
    signed = b"SSHSIG" + head + signers.string(hashlib.sha512(content).digest())
    blob = (
        b"SSHSIG\0\0\0\1" + signers.string(key.blob) + head + signers.string(key.signature(signed))
    )
    board.signature(RELEASES).write_bytes(signers.wrapped(blob))
    assert board.verdict() == "unknown_signer"
    board.trust("--signer", key.public)
    assert board.verdict() == ACCEPTED


def test_a_key_may_be_held_to_some_models(board: Board) -> None:
    board.trust("--signer", signers.public(board.keys.stranger), "--names", "tin?,help-*")
    board.sign(RELEASES, board.keys.stranger)
    assert board.verdict() == ACCEPTED


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--signer", "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAIQ== old"), "weak_key"),
        (("--signer", "ssh-ed25519 AAAA"), "bad_key"),
        (("--signer", "me"), "bad_key"),
        (("--signer", "{owner}", "--names", 'a b" cert-authority'), "signers_authority"),
        (("--revoke", "{owner}", "--signer", "{owner}"), "signer_revoked"),
    ],
)
def test_what_may_not_sign_is_not_let_in(board: Board, words: tuple[str, ...], code: str) -> None:
    before = (board.store.root / SIGNERS).read_text()
    with pytest.raises(DeviceError) as caught:
        board.trust(*(word.format(owner=signers.public(board.keys.owner)) for word in words))
    assert caught.value.code == code
    assert (board.store.root / SIGNERS).read_text() == ("" if code == "signer_revoked" else before)


def test_unsigned_runs_only_where_it_was_told_to(board: Board) -> None:
    board.signature(RELEASES).unlink()
    board.arrive()
    trust.check(
        board.store, dataclasses.replace(board.deployment(), unsigned=True), board.store.check
    )
    assert not trust.is_signed(board.store, board.deployment())
    assert board.verdict() == "unsigned"


def agent(board: Board, verb: str, *words: str) -> dict[str, Any]:
    """Call the real agent, as a push does."""
    command = [
        sys.executable,
        "-sE",
        str(build_agent()),
        verb,
        "--root",
        str(board.store.root),
        *words,
    ]
    return dict(json.loads(subprocess.run(command, capture_output=True, timeout=120).stdout))


def activate(board: Board, port: int, *words: str) -> dict[str, Any]:
    run = ("--runtime", board.names[RUNTIMES], "--port", str(port), "--service", "supervised")
    return agent(board, "activate", board.names[RELEASES], *run, *words)


@pytest.mark.slow
def test_a_board_serves_what_was_signed_and_looks_again_at_each_start(board: Board) -> None:
    board.arrive()
    port = free_port()
    try:
        assert activate(board, port)["release"] == board.names[RELEASES]
        status = agent(board, "status")
        assert status["release"]["signed_by"] == fingerprint(
            base64.b64decode(signers.public(board.keys.owner).split()[1])
        )
        assert (status["release"]["unsigned"], status["service"]["healthy"]) == (False, True)
        changed = signers.sign(
            board.manifest(RELEASES).read_bytes(), board.keys.stranger, "demitasse-bundle"
        )
        (board.there(RELEASES) / "manifest.json.sig").write_bytes(changed)
        os.kill(status["service"]["pid"], signal.SIGKILL)
        wait_until(
            lambda: "nobody here trusts the key" in agent(board, "status")["service"]["failure"]
        )
    finally:
        agent(board, "stop")


@pytest.mark.slow
def test_an_unsigned_release_is_refused_or_shown_as_one(board: Board) -> None:
    board.signature(RELEASES).unlink()
    board.arrive()
    port = free_port()
    assert activate(board, port)["error"]["code"] == "unsigned"
    try:
        assert activate(board, port, "--allow-unsigned")["release"] == board.names[RELEASES]
        status = agent(board, "status")
        assert (status["release"]["unsigned"], status["release"]["signed_by"]) == (True, "")
    finally:
        agent(board, "stop")
