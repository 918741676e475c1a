"""Keys are tried as OpenSSH tries them; a key that cannot be is not blamed on the board."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes import signers
from toolchain.board import loopback, ssh
from toolchain.board.route import Route
from toolchain.errors import BoardError, ToolError
from toolchain.tools import openssh


@pytest.fixture(scope="module", autouse=True)
def _an_ssh_server_is_installed() -> None:
    try:
        openssh.sshd()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")


class Host:
    """A user's home, an agent, and a server whose authorized keys are ours to write."""

    def __init__(self, home: Path, server: Route) -> None:
        self.home, self.server = home, server
        self.folder = home / ".ssh"
        self.folder.mkdir(mode=0o700)
        name, kind, key = server.known_hosts[0].read_text().split()[:3]
        (self.folder / "known_hosts").write_text(f"{name} {kind} {key}\n")
        self.socket = home / "agent"

    def authorize(self, line: str) -> None:
        Path(self.server.identities[0] + ".pub").write_text(line + "\n")

    def configure(self, *lines: str) -> None:
        here = ("Host pi", " HostName 127.0.0.1", f" Port {self.server.port}")
        user = f" User {self.server.user}"
        (self.folder / "config").write_text("\n".join([*here, user, *(f" {w}" for w in lines), ""]))

    def key(self, name: str, *words: str, passphrase: str = "") -> Path:
        file = self.folder / name
        words = words or ("-t", "ed25519")
        command = ["ssh-keygen", "-q", *words, "-N", passphrase, "-C", name, "-f", str(file)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        return file

    def certify(self, key: Path) -> str:
        """Return the line that authorizes a new certificate of this key, written beside the key."""
        authority = self.key(f"authority-{key.name}")
        command = ["ssh-keygen", "-q", "-s", str(authority), "-I", "x", "-n", self.server.user]
        subprocess.run([*command, f"{key}.pub"], check=True, capture_output=True)
        return "cert-authority " + signers.public(authority)

    @contextlib.contextmanager
    def agent(self, *keys: Path) -> Iterator[None]:
        """Run a real agent with these keys; one with a passphrase is added as it was made."""
        running = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(self.socket)], stdout=subprocess.DEVNULL
        )
        try:
            while not self.socket.exists():
                assert running.poll() is None
            asks = self.home / "ask"
            asks.write_text("#!/bin/sh\necho secret\n")
            asks.chmod(0o755)
            asking = {"SSH_ASKPASS": str(asks), "SSH_ASKPASS_REQUIRE": "force"}
            environment = {**os.environ, "SSH_AUTH_SOCK": str(self.socket), **asking}
            for key in keys:
                subprocess.run(
                    ["ssh-add", "-q", str(key)], check=True, env=environment, capture_output=True
                )
            yield
        finally:
            running.terminate()
            running.wait()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with loopback.server() as server:
        yield Host(tmp_path, server)


def gets_in() -> bool:
    ssh.connect("pi").close()
    return True


KINDS = [("-t", "ed25519"), ("-t", "rsa", "-b", "2048"), ("-t", "ecdsa", "-b", "384")]
PEM = [("-t", "rsa", "-b", "2048", "-m", "PEM"), ("-t", "ecdsa", "-m", "PKCS8")]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("words", KINDS + PEM, ids=lambda words: "-".join(words[1::2]))
def test_a_private_key_of_any_kind_and_format_is_tried(host: Host, words: tuple[str, ...]) -> None:
    key = host.key("board", *words)
    host.authorize(signers.public(key))
    host.configure(f"IdentityFile {key}", "IdentitiesOnly yes")
    assert gets_in()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("named", ["{}", "{}.pub"])
@pytest.mark.parametrize("setting", ["environment", "IdentityAgent"])
def test_a_locked_key_that_the_agent_holds_is_signed_by_the_agent(
    host: Host, monkeypatch: pytest.MonkeyPatch, named: str, setting: str
) -> None:
    key = host.key("locked", passphrase="secret")
    host.authorize(signers.public(key))
    lines = [f"IdentityFile {named.format(key)}", "IdentitiesOnly yes"]
    if setting == "environment":
        monkeypatch.setenv("SSH_AUTH_SOCK", str(host.socket))
    else:
        lines.append(f"IdentityAgent {host.socket}")
    host.configure(*lines)
    with host.agent(key):
        assert gets_in()


def test_a_locked_key_is_known_without_its_public_file(host: Host) -> None:
    key = host.key("locked", passphrase="secret")
    host.authorize(signers.public(key))
    with host.agent(key):
        key.with_name("locked.pub").unlink()
        host.configure(f"IdentityFile {key}", "IdentitiesOnly yes", f"IdentityAgent {host.socket}")
        assert gets_in()


def test_other_keys_of_the_agent_are_tried_unless_only_the_named_ones_are_to_be(
    host: Host,
) -> None:
    key = host.key("held")
    host.authorize(signers.public(key))
    with host.agent(key):
        for file in (key, key.with_name("held.pub")):
            file.unlink()
        host.configure(f"IdentityAgent {host.socket}")
        assert gets_in()
        host.configure(f"IdentityAgent {host.socket}", "IdentitiesOnly yes", "IdentityFile ~/none")
        with pytest.raises(BoardError, match="pi: there is no key to log in with: looked for"):
            gets_in()
        host.configure("IdentityAgent none")
        with pytest.raises(BoardError, match="pi: there is no key to log in with"):
            gets_in()


def test_a_security_key_signs_through_the_agent(host: Host) -> None:
    key = signers.SecurityKey()
    host.authorize(key.public)
    host.configure(f"IdentityAgent {host.socket}")
    with signers.agent(host.socket, key):
        assert gets_in()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("words", KINDS, ids=lambda words: words[1])
@pytest.mark.parametrize("by", ["file", "agent"])
def test_a_certificate_beside_the_key_is_shown(host: Host, words: tuple[str, ...], by: str) -> None:
    key = host.key("board", *words)
    host.authorize(host.certify(key))
    if by == "file":
        host.configure(f"IdentityFile {key}", "IdentitiesOnly yes")
        assert gets_in()
        return
    with host.agent(key):
        key.unlink()
        host.configure(f"IdentityAgent {host.socket}", f"IdentityFile {key}")
        assert gets_in()


def test_a_certificate_file_of_the_configuration_is_shown(host: Host) -> None:
    key = host.key("board")
    host.authorize(host.certify(key))
    certificate = key.with_name("board-cert.pub").rename(host.home / "elsewhere.pub")
    host.configure(f"IdentityFile {key}", "IdentitiesOnly yes", f"CertificateFile {certificate}")
    assert gets_in()


def _loosen(key: Path) -> None:
    key.chmod(0o644)


def _spoil(key: Path) -> None:
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
    key.with_name(key.name + ".pub").unlink()


@pytest.mark.parametrize(
    ("agent", "remedy"),
    [("{key}.socket", "ssh-add '{key}', then again"), ("none", "no agent is asked: start one, or")],
)
def test_a_locked_key_is_to_be_added_to_an_agent_that_is_asked(
    host: Host, agent: str, remedy: str
) -> None:
    key = host.key("mine", passphrase="secret")
    host.authorize(signers.public(key))
    asked = f"IdentityAgent {agent.format(key=key)}"
    host.configure(f"IdentityFile {key}", "IdentitiesOnly yes", asked)
    with pytest.raises(BoardError) as caught:
        gets_in()
    locked = f"the private key is locked with a passphrase ({remedy.format(key=key)}"
    assert locked in caught.value.message


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("spoil", "passphrase", "problem"),
    [
        (
            lambda key: None,
            "secret",
            "the private key is locked with a passphrase (no agent is asked: start one",
        ),
        (_loosen, "", "others may read this private key, and OpenSSH does not take such a one"),
        (_spoil, "", "not a private key that can be read: "),
    ],
)
def test_a_key_that_cannot_be_tried_is_named_and_the_board_not_blamed(
    host: Host, spoil: Callable[[Path], None], passphrase: str, problem: str
) -> None:
    key = host.key("mine", passphrase=passphrase)
    host.authorize(signers.public(key))
    spoil(key)
    host.configure(f"IdentityFile {key}", "IdentitiesOnly yes")
    with pytest.raises(BoardError) as caught:
        gets_in()
    begins = f"pi: no key can be tried: {key}: {problem.format(key=key)}"
    assert caught.value.message.startswith(begins)


def test_a_board_that_hangs_up_after_too_many_keys_is_told_how_to_name_its_own(host: Host) -> None:
    keys = [host.key(f"key{number}") for number in range(7)]
    host.authorize("# nobody")
    host.configure(*(f"IdentityFile {key}" for key in keys))
    with pytest.raises(BoardError, match=r"pi: the board hung up after \d keys") as caught:
        gets_in()
    assert "IdentitiesOnly yes" in caught.value.hint


def test_a_proxy_command_is_the_way_and_its_last_words_are_told(host: Host) -> None:
    key = host.key("board")
    host.authorize(signers.public(key))
    relay = (
        'python3 -c \'import os,socket,sys,threading as t; s=socket.create_connection(("%h",%p)); '
        "t.Thread(target=lambda:[s.sendall(b) for b in "
        'iter(lambda:os.read(0,65536),b"")],daemon=True).start(); '
        '[os.write(1,b) for b in iter(lambda:s.recv(65536),b"")]\''
    )
    host.configure(f"IdentityFile {key}", f"ProxyCommand {relay}")
    assert gets_in()
    host.configure(f"IdentityFile {key}", "ProxyCommand sh -c 'echo no way >&2; exit 3'")
    with pytest.raises(BoardError) as caught:
        gets_in()
    assert caught.value.message == "pi: its ProxyCommand ended with exit status 3: no way"
