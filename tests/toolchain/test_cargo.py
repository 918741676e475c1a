"""Cargo: a folder that travels is whole and named by its manifest, signed or not."""

import hashlib
from pathlib import Path

import pytest

from tests.fakes import signers
from tests.fakes.bundles import finished, make_bundle, make_runtime
from tests.fakes.datasets import Recorder
from toolchain import signing
from toolchain.cargo import release_cargo, runtime_cargo
from toolchain.errors import ArtifactError, TrustError


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return finished(make_bundle(tmp_path / "bundle")).path


def test_an_unsigned_folder_has_no_signature_and_the_id_of_its_manifest(
    bundle: Path, tmp_path: Path
) -> None:
    manifest, release = release_cargo(bundle)
    assert (release.kind, release.signature, release.files) == ("release", b"", manifest.files)
    assert release.id == hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    _, engine = runtime_cargo(make_runtime(tmp_path / "runtime"))
    assert (engine.kind, engine.signature) == ("runtime", b"")


def test_a_false_signature_is_not_carried(bundle: Path, tmp_path: Path) -> None:
    key = signing.find_key(str(signers.make_key(tmp_path / "key")))
    signing.sign([bundle / "manifest.json"], key, Recorder())
    assert release_cargo(bundle)[1].signature == (bundle / "manifest.json.sig").read_bytes()
    manifest = bundle / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    with pytest.raises(TrustError, match="was changed after it was signed"):
        release_cargo(bundle)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "`model.bin` is missing"), (b"x", "`model.bin` has 1 bytes, the manifest says ")],
)
def test_a_folder_that_is_not_whole_does_not_travel(
    bundle: Path, content: bytes | None, said: str
) -> None:
    (bundle / "model.bin").unlink()
    if content is not None:
        (bundle / "model.bin").write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        release_cargo(bundle)
    assert caught.value.message.startswith(f"bundle: {said}")
    assert caught.value.hint == "package it again"


def test_what_has_no_manifest_is_named(tmp_path: Path) -> None:
    for read in (release_cargo, runtime_cargo):
        with pytest.raises(ArtifactError, match=r"json cannot be read"):
            read(tmp_path)
