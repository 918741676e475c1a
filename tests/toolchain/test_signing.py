"""Signing by the key that people have: a file, an agent, a security key."""

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import signers
from tests.fakes.board import FakeConnection
from tests.fakes.bundles import finished, make_bundle, make_runtime
from tests.fakes.datasets import Recorder
from tests.fakes.ports import free_port
from toolchain import signing
from toolchain.board.device import Device
from toolchain.errors import ConfigError, ToolError, TrustError
from toolchain.progress import Silent
from toolchain.push import push


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ~/.ssh of somebody without keys and without an agent."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.delenv(signing.ENVIRONMENT, raising=False)
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    return tmp_path / "home" / ".ssh"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return finished(make_bundle(tmp_path / "bundle")).path / "manifest.json"


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ssh: Path) -> Iterator[Path]:
    """A real ssh-agent."""
    socket = tmp_path / "agent"
    child = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    while not socket.exists():
        assert child.poll() is None
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    yield socket
    child.terminate()
    child.wait()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("id_ed25519", ("-t", "ed25519")),
        ("id_ecdsa", ("-t", "ecdsa")),
        ("id_ecdsa", ("-t", "ecdsa", "-b", "384")),
    ],
)
def test_the_only_usual_key_signs(
    ssh: Path, manifest: Path, name: str, words: tuple[str, ...]
) -> None:
    signers.make_key(ssh / name, *words)
    key = signing.find_key()
    signing.sign([manifest], key, Silent())
    made = signing.signature_of(manifest)
    assert made and made.fingerprint == key.fingerprint
    assert made.namespace == "demitasse-bundle"


def test_a_private_key_without_its_public_half_signs(ssh: Path, manifest: Path) -> None:
    signers.make_key(ssh / "id_ed25519").with_name("id_ed25519.pub").unlink()
    signing.sign([manifest], signing.find_key(), Silent())
    assert signing.signature_of(manifest)


def test_what_is_signed_by_the_same_key_stays_as_it_is(ssh: Path, manifest: Path) -> None:
    signers.make_key(ssh / "id_ecdsa", "-t", "ecdsa")
    signing.sign([manifest], signing.find_key(), Silent())
    first = manifest.with_name("manifest.json.sig").read_bytes()
    signing.sign([manifest], signing.find_key(), Silent())
    assert manifest.with_name("manifest.json.sig").read_bytes() == first


FALSE = {
    "empty": b"",
    "garbage": b"garbage",
    "cut": b"-----BEGIN SSH SIGNATURE-----\nU1NIU0lH",
    "huge": b"x" * (1 << 20),
}


@pytest.mark.parametrize(
    "how", [*FALSE, "other bytes", "other namespace", "folder", "fifo", "link"]
)
def test_a_signature_that_is_there_and_false_is_refused_and_stays(
    ssh: Path, manifest: Path, how: str
) -> None:
    key = signers.make_key(ssh / "id_ed25519")
    signature = manifest.with_name("manifest.json.sig")
    if how in FALSE:
        signature.write_bytes(FALSE[how])
    elif how.startswith("other"):
        content = b"other" if how == "other bytes" else manifest.read_bytes()
        space = "demitasse-runtime" if how == "other namespace" else "demitasse-bundle"
        signature.write_bytes(signers.sign(content, key, space))
    elif how == "folder":
        signature.mkdir()
    elif how == "fifo":
        os.mkfifo(signature)
    else:
        signature.symlink_to("/dev/zero")
    for act in (
        lambda: signing.signature_of(manifest),
        lambda: signing.sign([manifest], signing.find_key(), Silent()),
    ):
        with pytest.raises(TrustError, match=r"^bundle: manifest\.json\.sig: ") as caught:
            act()
        assert "find out who changed the folder" in caught.value.hint
    assert os.path.lexists(signature)


def test_nothing_is_signed_where_one_of_two_folders_was_changed(
    ssh: Path, tmp_path: Path, manifest: Path
) -> None:
    signers.make_key(ssh / "id_ed25519")
    runtime = make_runtime(tmp_path / "runtime")
    (runtime / "device" / "part0.py").write_text("NUMBER = 9\n")
    with pytest.raises(TrustError, match=r"`device/part0\.py` is not what the manifest says"):
        signing.sign([manifest, runtime / "runtime.json"], signing.find_key(), Silent())
    assert signing.signature_of(manifest) is None


def test_the_agents_first_usable_key_signs_where_there_is_no_file(
    agent: Path, tmp_path: Path, manifest: Path
) -> None:
    for name, words in (("old", ("-t", "rsa", "-b", "2048")), ("mine", ("-t", "ed25519"))):
        key = signers.make_key(tmp_path / name, *words)
        subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True)
        key.unlink()
    found = signing.find_key()
    assert (found.file, found.public) == (None, signers.public(tmp_path / "mine"))
    signing.sign([manifest], found, Silent())
    assert signing.signature_of(manifest)


def test_a_locked_key_signs_through_the_agent(agent: Path, ssh: Path, manifest: Path) -> None:
    key = signers.make_key(ssh / "id_ed25519")
    subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-N", "a secret", "-f", str(key)],
        check=True,
        capture_output=True,
    )
    signing.sign([manifest], signing.find_key(), Silent())
    assert signing.signature_of(manifest)


def test_a_security_key_asks_to_be_touched_and_signs(
    ssh: Path, tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, socket, report = signers.SecurityKey(), tmp_path / "agent", Recorder()
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    with signers.agent(socket, key):
        signing.sign([manifest], signing.find_key(), report)
    assert report.notes[-1] == "touch the security key: it signs manifest.json"
    made = signing.signature_of(manifest)
    assert made and made.key == key.blob


def test_the_key_that_is_asked_for_wins(
    ssh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("id_ed25519", "id_ecdsa", "other", "third"):
        signers.make_key(ssh / name)
    with pytest.raises(ConfigError) as caught:
        signing.find_key()
    assert caught.value.message == "several keys could sign: ~/.ssh/id_ed25519, ~/.ssh/id_ecdsa"
    monkeypatch.setenv(signing.ENVIRONMENT, "~/.ssh/other")
    assert signing.find_key().file == ssh / "other"
    assert signing.find_key("~/.ssh/third.pub").public == signers.public(ssh / "third")


def test_what_cannot_sign_is_named(ssh: Path, tmp_path: Path, manifest: Path) -> None:
    signers.make_key(ssh / "id_rsa", "-t", "rsa", "-b", "2048")
    (tmp_path / "garbage.pub").write_text("garbage")
    (tmp_path / "garbage").write_text("garbage")
    table = {
        "": "no SSH key to sign with",
        str(ssh / "id_rsa"): f"{ssh}/id_rsa: a key of kind `ssh-rsa` may not sign",
        str(tmp_path / "none"): f"{tmp_path}/none: there is no such key",
        str(tmp_path / "garbage.pub"): f"{tmp_path}/garbage.pub: not a public key",
    }
    for asked, message in table.items():
        with pytest.raises(ConfigError) as caught:
            signing.find_key(asked)
        assert caught.value.message.removeprefix(f"{ssh}/id_rsa.pub: ").removeprefix(
            f"{ssh}/id_rsa: "
        ) == message.removeprefix(f"{ssh}/id_rsa: ")
    (tmp_path / "garbage.pub").unlink()
    with pytest.raises(ToolError, match="garbage: not a private key that can be read"):
        signing.find_key(str(tmp_path / "garbage"))
    alone = signers.make_key(tmp_path / "alone")
    alone.unlink()
    with pytest.raises(ToolError, match=r"ssh-keygen: alone\.pub cannot sign: "):
        signing.sign([manifest], signing.find_key(str(alone) + ".pub"), Silent())


@pytest.fixture
def board(tmp_path: Path) -> Iterator[FakeConnection]:
    """A board that others can reach."""
    (tmp_path / "board").mkdir()
    made = FakeConnection(tmp_path / "board", address="pi@board")
    yield made
    if (made.home / "store").is_dir():
        Device(made).call("stop")


@pytest.mark.slow
def test_a_board_takes_what_its_owner_signed_and_nothing_else(
    board: FakeConnection, ssh: Path, tmp_path: Path
) -> None:
    bundle, runtime = (
        finished(make_bundle(tmp_path / "b")),
        make_runtime(tmp_path / "r", machine=platform.machine()),
    )
    manifests = [bundle.path / "manifest.json", runtime / "runtime.json"]
    owner, stranger = (
        signing.SigningKey(public=signers.public(file), file=file)
        for file in (signers.make_key(tmp_path / "owner"), signers.make_key(tmp_path / "stranger"))
    )
    with pytest.raises(TrustError, match=r"pi@board: runtime [0-9a-f]{12} is not signed"):
        push(bundle, runtime, Device(board), Silent())
    signing.sign(manifests, owner, Silent())
    with pytest.raises(
        TrustError, match=r"pi@board: the board does not know the key SHA256:.* that signed runtime"
    ):
        push(bundle, runtime, Device(board), Silent())
    assert not (board.home / "store" / "blobs").exists(), "nothing was sent"
    said = Device(board).call("trust", "--signer", owner.public)
    assert said["signers"] == [{"key": owner.fingerprint, "names": "*", "comment": "owner"}]
    assert push(bundle, runtime, Device(board), Silent(), port=free_port()).bytes_sent > 0
    assert Device(board).call("status")["release"]["signed_by"] == owner.fingerprint
    signing.sign(manifests, stranger, Silent())
    with pytest.raises(TrustError, match="does not know the key"):
        push(bundle, runtime, Device(board), Silent())
    assert (
        push(bundle, runtime, Device(board), Silent(), allow_unsigned=True, dry_run=True)
        .actions[0]
        .verb
        == "send"
    )


@pytest.mark.slow
def test_another_signature_of_the_same_release_sends_manifest_and_signature_alone(
    board: FakeConnection, ssh: Path, tmp_path: Path
) -> None:
    bundle = finished(make_bundle(tmp_path / "b", payload=os.urandom(200_000)))
    runtime, port = make_runtime(tmp_path / "r", machine=platform.machine()), free_port()
    for name in ("first", "second"):
        file = signers.make_key(tmp_path / name)
        key = signing.SigningKey(public=signers.public(file), file=file)
        signing.sign([bundle.path / "manifest.json", runtime / "runtime.json"], key, Silent())
        Device(board).call("trust", "--signer", key.public)
        sent = push(bundle, runtime, Device(board), Silent(), port=port).bytes_sent
        assert Device(board).call("status")["release"]["signed_by"] == key.fingerprint
    files = [bundle.path / name for name in ("manifest.json", "manifest.json.sig")]
    files += [runtime / name for name in ("runtime.json", "runtime.json.sig")]
    assert sent == sum(file.stat().st_size for file in files)
    assert json.loads((bundle.path / "manifest.json").read_text())["name"] == "tiny"
