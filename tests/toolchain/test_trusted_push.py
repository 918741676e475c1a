"""A board that others could reach, from the command line over real SSH: trusted once, it takes what
its owner signed.
"""

import json
import platform
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pytest

from device.manifest import file_entry
from tests.fakes import signers
from tests.fakes.bundles import finished, make_bundle, make_runtime
from tests.fakes.datasets import Recorder
from tests.fakes.ports import free_port
from tests.toolchain.test_cli import said
from toolchain import signing
from toolchain.artifacts import Bundle, digest
from toolchain.board import loopback
from toolchain.delivery import sign_bundle
from toolchain.errors import ToolchainError


def refused(*words: str) -> ToolchainError:
    """Return the error with which a command line ends."""
    from toolchain.cli import app

    with pytest.raises(ToolchainError) as caught:
        app(words, standalone_mode=False)
    return caught.value


@pytest.mark.slow
def test_trust_push_revoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = finished(make_bundle(tmp_path / "bundle"))
    for name, value in {
        "HOME": tmp_path,
        "DEMITASSE_ROOT": tmp_path / "board",
        "DEMITASSE_RUNTIME": make_runtime(tmp_path / "runtime", machine=platform.machine()),
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    push = ("push", str(bundle.path), "pi", "--port", str(free_port()))
    with loopback.server() as way:
        (tmp_path / ".ssh").mkdir()
        own = signers.make_key(tmp_path / ".ssh" / "id_ed25519")
        (tmp_path / ".ssh" / "config").write_text(
            f"Host pi\n HostName 127.0.0.1\n Port {way.port}\n User {way.user}\n"
            f" IdentityFile {way.identities[0]}\n IdentitiesOnly yes\n"
        )
        assert refused(*push).exit_code == 8, "its host key is unknown"
        assert "shows ssh-ed25519 SHA256:" in said("trust", "pi", "--yes")
        trusted = json.loads(said("trust", "pi", "--json"))
        fingerprint = signing.find_key().fingerprint
        assert trusted["signers"] == [{"key": fingerprint, "names": "*", "comment": "id_ed25519"}]
        try:
            assert json.loads(said(*push, "--json"))["name"] == "tiny"
            status = json.loads(said("status", "pi", "--json"))
            assert (status["release"]["signed_by"], status["release"]["unsigned"]) == (
                fingerprint,
                False,
            )
            said("trust", "pi", "--revoke", str(own.with_name("id_ed25519.pub")))
            error = refused(*push)
            assert (error.exit_code, "does not know the key" in error.message) == (8, True)
            error = refused(*push, "--allow-unsigned")
            assert (error.exit_code, "was revoked" in error.message) == (8, True), (
                "a signature that is there must hold"
            )
        finally:
            said("stop", "pi")


def test_a_bundle_is_signed_where_the_key_is(tmp_path: Path) -> None:
    bundle = finished(make_bundle(tmp_path / "bundle"))
    key = signing.SigningKey(public=signers.public(signers.make_key(tmp_path / "key")))
    assert (
        said("sign", str(bundle.path), "--sign", str(tmp_path / "key"))
        == f"{bundle.path} is signed by {key.fingerprint}\n"
    )
    made = signing.signature_of(bundle.path / "manifest.json")
    assert made and made.key == key.key


def forged(bundle: Bundle) -> None:
    """Change the chat template and the manifest with it; leave the signature and the record as they
    were.
    """
    (bundle.path / "chat_template.jinja").write_text("{% if true %}yes{% endif %}")
    fields = json.loads((bundle.path / "manifest.json").read_bytes())
    entry = asdict(file_entry(bundle.path, "chat_template.jinja"))
    fields["files"] = [*fields["files"], entry]
    (bundle.path / "manifest.json").write_text(json.dumps(fields))


@pytest.mark.slow
def test_a_bundle_that_was_changed_after_it_was_signed_is_neither_signed_anew_nor_pushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEMITASSE_ROOT", str(tmp_path / "board"))
    monkeypatch.setenv(
        "DEMITASSE_RUNTIME", str(make_runtime(tmp_path / "runtime", machine=platform.machine()))
    )
    bundle, key = (
        finished(make_bundle(tmp_path / "bundle")),
        str(signers.make_key(tmp_path / "key")),
    )
    said("sign", str(bundle.path), "--sign", key)
    signature = (bundle.path / "manifest.json.sig").read_bytes()
    forged(bundle)
    for words in (
        ("sign", str(bundle.path), "--sign", key),
        ("push", str(bundle.path), "local", "--sign", key),
        ("push", str(bundle.path), "local", "--allow-unsigned"),
        ("push", str(bundle.path), "local", "--dry-run"),
    ):
        error = refused(*words)
        assert (error.exit_code, "was changed after it was signed" in error.message) == (8, True)
    assert (bundle.path / "manifest.json.sig").read_bytes() == signature
    assert not (tmp_path / "board" / "blobs").exists(), "nothing was sent"


@pytest.mark.slow
def test_a_changed_bundle_without_its_signature_is_neither_signed_nor_pushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "DEMITASSE_RUNTIME", str(make_runtime(tmp_path / "runtime", machine=platform.machine()))
    )
    bundle, key = (
        finished(make_bundle(tmp_path / "bundle")),
        str(signers.make_key(tmp_path / "key")),
    )
    forged(bundle)
    for words in (
        ("sign", str(bundle.path), "--sign", key),
        ("push", str(bundle.path), "local"),
        ("push", str(bundle.path), "local", "--allow-unsigned"),
    ):
        error = refused(*words)
        assert (error.exit_code, "not what its record.json says" in error.message) == (8, True)
    assert not (bundle.path / "manifest.json.sig").exists()


def test_what_is_signed_is_said_and_whether_a_signature_was_there(tmp_path: Path) -> None:
    bundle = finished(make_bundle(tmp_path / "bundle", name="tea", version="1.2", counter=3))
    first, other = (str(signers.make_key(tmp_path / name)) for name in ("key", "other"))
    release = sha256((bundle.path / "manifest.json").read_bytes()).hexdigest()
    for key, had in ((first, "no signature was there"), (other, "signed by SHA256:")):
        recorder = Recorder()
        sign_bundle(bundle.path, key, recorder)
        (note,) = [each for each in recorder.notes if each.startswith("signs ")]
        assert note.startswith(f"signs tea 1.2 for {bundle_target(bundle)}, counter 3: release ")
        assert release[:12] in note
        assert had in note


def bundle_target(bundle: Bundle) -> str:
    return str(json.loads((bundle.path / "manifest.json").read_bytes())["target"])


def test_only_the_release_that_was_named_is_signed(tmp_path: Path) -> None:
    """Whoever rewrites the record and takes the signature away cannot choose the release."""
    bundle = finished(make_bundle(tmp_path / "bundle"))
    key = str(signers.make_key(tmp_path / "key"))
    release = sha256((bundle.path / "manifest.json").read_bytes()).hexdigest()
    forged(bundle)
    record = bundle.record.model_copy(update={"digest": digest(bundle.path)})
    (bundle.path / "record.json").write_text(record.model_dump_json())
    words = ("sign", str(bundle.path), "--sign", key, "--release")
    error = refused(*words, release[:12])
    assert (error.exit_code, f"not {release[:12]}" in error.message) == (8, True)
    for short in ("abc", release[:11], "x" * 12, release + "0"):
        assert refused(*words, short).exit_code == 2
    assert not (bundle.path / "manifest.json.sig").exists()
    now = sha256((bundle.path / "manifest.json").read_bytes()).hexdigest()
    assert "is signed by" in said(*words, now)
