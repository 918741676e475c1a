"""An impostor answers in the board's place and would take any key: nothing is told to it."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest

from tests.fakes import signers
from tests.fakes.hostile import SshServer
from toolchain.board import known_hosts, ssh
from toolchain.errors import ToolchainError, TrustError


class Impostor(SshServer):
    """Lets everybody in, and writes down what it learns."""

    def __init__(self) -> None:
        self.learnt: list[str] = []
        super().__init__()

    def get_allowed_auths(self, username: str) -> str:
        self.learnt.append(f"the name {username}")
        return "password,publickey,keyboard-interactive"

    def check_auth_none(self, username: str) -> int:
        self.learnt.append(f"the name {username}")
        return paramiko.AUTH_FAILED

    def check_auth_password(self, username: str, password: str) -> int:
        self.learnt.append(f"the password {password}")
        return paramiko.AUTH_SUCCESSFUL

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self.learnt.append(f"the key {key.fingerprint}")
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        self.learnt.append(f"a channel: {kind}")
        return paramiko.OPEN_SUCCEEDED


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    made = Impostor()
    yield made
    made.close()


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impostor: Impostor) -> Path:
    """The known_hosts of a user who has a key of their own and calls the board `pi`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir(mode=0o700)
    signers.make_key(tmp_path / ".ssh" / "id_ed25519")
    (tmp_path / ".ssh" / "config").write_text(
        f"Host pi\n HostName 127.0.0.1\n Port {impostor.port}\n User me\n"
    )
    return tmp_path / ".ssh" / "known_hosts"


def _pinned(
    name: str, key: Callable[[Impostor], paramiko.PKey]
) -> Callable[[Path, Impostor], None]:
    def prepare(known: Path, impostor: Impostor) -> None:
        known_hosts.pin(known, name.format(port=impostor.port), key(impostor))

    return prepare


def _revoked(known: Path, impostor: Impostor) -> None:
    known_hosts.pin(known, f"[127.0.0.1]:{impostor.port}", impostor.key)
    with known.open("a") as stream:
        stream.write(f"@revoked * {impostor.key.get_name()} {impostor.key.get_base64()}\n")


def _boards_own(impostor: Impostor) -> paramiko.PKey:
    return paramiko.ECDSAKey.generate()


CASES: list[tuple[str, Callable[[Path, Impostor], None], bool, str]] = [
    ("unknown", lambda known, impostor: None, False, "pi: unknown host key"),
    (
        "known on another port only",
        _pinned("[127.0.0.1]:1", lambda impostor: impostor.key),
        False,
        "pi: unknown host key",
    ),
    (
        "known for another host only",
        _pinned("[127.0.0.2]:{port}", lambda impostor: impostor.key),
        False,
        "pi: unknown host key",
    ),
    ("changed", _pinned("[127.0.0.1]:{port}", _boards_own), False, "pi: the host key changed"),
    (
        "changed, new ones accepted",
        _pinned("[127.0.0.1]:{port}", _boards_own),
        True,
        "pi: the host key changed",
    ),
    (
        "changed in kind",
        _pinned("[127.0.0.1]:{port}", lambda _: paramiko.RSAKey.generate(2048)),
        True,
        "pi: the host key changed",
    ),
    ("revoked", _revoked, True, "pi: the host key SHA256:.* is revoked"),
]


@pytest.mark.parametrize(
    ("prepare", "accept_new", "message"), [row[1:] for row in CASES], ids=[row[0] for row in CASES]
)
def test_an_impostor_is_refused_and_learns_nothing(
    known: Path,
    impostor: Impostor,
    prepare: Callable[[Path, Impostor], None],
    accept_new: bool,
    message: str,
) -> None:
    prepare(known, impostor)
    before = known.read_text() if known.exists() else None
    with pytest.raises(TrustError, match=message) as caught:
        ssh.connect("pi", accept_new=accept_new)
    assert caught.value.exit_code == 8
    assert impostor.learnt == []
    assert (known.read_text() if known.exists() else None) == before


def test_whoever_has_the_boards_own_key_is_spoken_to(known: Path, impostor: Impostor) -> None:
    """So the silence above comes from the key, not from a server that cannot hear."""
    known_hosts.pin(known, f"[127.0.0.1]:{impostor.port}", impostor.key)
    with contextlib.suppress(ToolchainError):
        ssh.connect("pi").close()
    assert [word for word in impostor.learnt if word.startswith("the key SHA256:")]


def test_pins_are_openssh_s_own(known: Path, impostor: Impostor) -> None:
    """What we pin, ssh-keygen finds; what OpenSSH hashed, we find."""
    ssh.pin("pi", impostor.key)
    name = f"[127.0.0.1]:{impostor.port}"
    found = subprocess.run(
        ["ssh-keygen", "-F", name, "-f", str(known)], capture_output=True, text=True, check=True
    ).stdout
    assert impostor.key.get_base64() in found
    subprocess.run(["ssh-keygen", "-H", "-f", str(known)], capture_output=True, check=True)
    assert name not in known.read_text()
    assert ssh.is_pinned("pi", impostor.key)
    subprocess.run(["ssh-keygen", "-R", name, "-f", str(known)], capture_output=True, check=True)
    assert not ssh.is_pinned("pi", impostor.key)
