"""Updates: what `package --as` writes, read by the tools of others where they are named."""

import json
import os
import platform
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from device.manifest.signature import NAMESPACES
from tests.fakes import signers
from tests.fakes.bundles import finished, make_bundle, make_runtime
from tests.fakes.datasets import Recorder
from tests.fakes.leaving import Publisher
from toolchain.cargo import release_cargo
from toolchain.cli import app
from toolchain.delivery import Leave, leave_as
from toolchain.errors import ArtifactError, ConfigError, FitError
from toolchain.runtime import for_target
from toolchain.updates import form_of, leave, parcel_of
from toolchain.updates.tar import Member, tar_chunks

REFEREE = os.environ.get("DEMITASSE_MENDER_ARTIFACT", "")


def run(*words: str) -> tuple[int, str, str]:
    """Return the exit code, the output, and the sentence of the error."""
    done = CliRunner().invoke(app, words)
    code = getattr(done.exception, "exit_code", done.exit_code)
    return code, done.stdout, str(done.exception or "")


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    made = Publisher(tmp_path)
    monkeypatch.setenv("DEMITASSE_RUNTIME", str(made.runtime))
    monkeypatch.setenv("DEMITASSE_SIGN_KEY", str(made.key))
    return made


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return finished(make_bundle(tmp_path / "help-desk" / "package")).path


@pytest.mark.parametrize(
    ("form", "files"),
    [
        ("mender", {"README.md", "demitasse", "record.json", "tiny-1.0.mender"}),
        ("hawkbit", {"README.md", "artifacts", "demitasse-install", "digests.json", "record.json"}),
    ],
)
def test_a_bundle_leaves_as_a_folder_beside_it(
    publisher: Publisher, bundle: Path, form: str, files: set[str]
) -> None:
    code, output, _ = run("package", str(bundle), "--as", form, "--device-type", "till", "--json")
    assert code == 0
    folder = bundle.parent / form
    assert {file.name for file in folder.iterdir()} == files
    said = json.loads(output)
    assert said["folder"] == str(folder)
    assert said["figures"]["carries_runtime"] is False
    assert "for devices of type till" in (folder / "README.md").read_text() or form != "mender"
    assert "must be on the board already" in (folder / "README.md").read_text()


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_no_update_is_never_replaced(publisher: Publisher, bundle: Path, kind: str) -> None:
    place = bundle.parent / "mender"
    mine = place / "mine.txt" if kind == "folder" else bundle.parent / "mine" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine", encoding="utf-8")
    if kind == "file":
        place.write_text("mine", encoding="utf-8")
    elif kind == "link":
        place.symlink_to(mine.parent)
    code, _, said = run("package", str(bundle), "--as", "mender")
    assert (code, "is no update" in said) == (2, True)
    assert mine.read_text(encoding="utf-8") == "mine"


def test_beside_the_current_folder_is_not_in_it(
    publisher: Publisher, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    assert run("package", ".", "--as", "hawkbit")[0] == 0
    assert not (bundle / "hawkbit").exists()
    assert (bundle.parent / "hawkbit" / "digests.json").is_file()


@pytest.mark.parametrize("word", ["", " ", "a\nb", "a\x00", "\udcff", "a" * 201])
def test_a_kind_of_device_is_a_word_that_can_be_printed(bundle: Path, word: str) -> None:
    code, _, said = run("package", str(bundle), "--as", "mender", "--device-type", word)
    assert (code, said) == (2, f"--device-type: {word[:60]!r} is no kind of device")


def test_the_second_time_nothing_is_written(publisher: Publisher, bundle: Path) -> None:
    out = bundle.parent / "mender"
    asked = Leave(form="mender")
    assert leave_as(bundle, asked, out, Recorder()).fresh
    assert not leave_as(bundle, asked, out, Recorder()).fresh
    assert leave_as(bundle, Leave(form="mender", with_runtime=True), out, Recorder()).fresh


def test_the_same_release_gives_the_same_bytes(
    publisher: Publisher, bundle: Path, tmp_path: Path
) -> None:
    leave_as(bundle, Leave(form="mender"), tmp_path / "one", Recorder())
    parcel = parcel_of(bundle, publisher.runtime, (), carries_runtime=False)
    leave(parcel, "mender", tmp_path / "two")
    one, two = (next((tmp_path / name).glob("*.mender")) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_bundle_that_was_changed_after_it_was_signed_does_not_leave(
    publisher: Publisher, bundle: Path, tmp_path: Path
) -> None:
    leave_as(bundle, Leave(form="mender"), tmp_path / "one", Recorder())
    model = bundle / "model.bin"
    model.write_bytes(model.read_bytes().replace(b"weights", b"weighty"))
    with pytest.raises(ArtifactError) as caught:
        leave_as(bundle, Leave(form="hawkbit"), tmp_path / "two", Recorder())
    assert str(caught.value) == "package: `model.bin` is not what its manifest says"
    assert not (tmp_path / "two" / "artifacts" / "release.cargo").exists()


def test_a_file_of_another_size_is_found_before_a_byte_is_written(
    publisher: Publisher, bundle: Path
) -> None:
    size = (bundle / "model.bin").stat().st_size
    (bundle / "model.bin").write_bytes(b"")
    (bundle / "manifest.json.sig").write_bytes(b"")
    with pytest.raises(ArtifactError) as caught:
        release_cargo(bundle)
    assert str(caught.value) == (f"package: `model.bin` has 0 bytes, the manifest says {size:,}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--as", "mendr"), "--as: unknown form `mendr`"),
        (("--device-type", "till"), "--device-type: is for an update"),
        (("--with-runtime",), "--with-runtime: is for an update"),
        (("--as", "mender", "--dry-run"), "--dry-run: a bundle has no stages to plan"),
    ],
)
def test_what_cannot_be_is_said(
    publisher: Publisher, bundle: Path, words: tuple[str, ...], said: str
) -> None:
    code, _, errors = run("package", str(bundle), *words)
    assert code == 2
    assert said in errors


def test_a_finished_model_is_packaged_before_it_leaves(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    code, _, errors = run("package", str(model), "--as", "mender")
    assert code == 2
    assert "--as: a finished model is packaged first" in errors


def test_a_runtime_without_the_engine_does_not_fit(publisher: Publisher, tmp_path: Path) -> None:
    bundle = finished(make_bundle(tmp_path / "package"))
    runtime = make_runtime(tmp_path / "other", machine=platform.machine())
    about = json.loads((runtime / "runtime.json").read_bytes())
    about["engines"] = {"litert": "1"}
    (runtime / "runtime.json").write_text(json.dumps(about))
    for manifest in (bundle.path / "manifest.json", runtime / "runtime.json"):
        signature = signers.sign(manifest.read_bytes(), publisher.key, NAMESPACES[manifest.name])
        manifest.with_name(manifest.name + ".sig").write_bytes(signature)
    with pytest.raises(FitError) as caught:
        parcel_of(bundle.path, runtime, (), carries_runtime=False)
    assert str(caught.value) == "other: this runtime has no llama.cpp"


def test_an_engine_that_depends_on_a_boards_python_needs_a_runtime_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DEMITASSE_RUNTIME", raising=False)
    with pytest.raises(ConfigError) as caught:
        for_target("litert", "armv8.0", Recorder())
    assert str(caught.value) == (
        "the runtime of litert depends on the Python of a board: none is known here"
    )


def test_an_unknown_form_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        form_of("hawkbitt")
    assert caught.value.hint == "did you mean `hawkbit`?"


def test_members_of_an_archive_are_read_by_tar(tmp_path: Path) -> None:
    inner = [Member.of("a", b"one"), Member.of("b" * 90, b""), Member.of("c", b"x" * 512)]
    outer = tmp_path / "outer.tar"
    outer.write_bytes(b"".join(tar_chunks([Member.nested("inner.tar", inner)])))
    subprocess.run(["tar", "xf", outer, "-C", tmp_path], check=True)
    listed = subprocess.run(
        ["tar", "xvf", tmp_path / "inner.tar", "-C", tmp_path],
        check=True,
        capture_output=True,
        text=True,
    )
    assert listed.stdout.split() == ["a", "b" * 90, "c"]
    assert (tmp_path / "a").read_bytes() == b"one"
    assert (tmp_path / "c").read_bytes() == b"x" * 512


@pytest.mark.skipif(not REFEREE, reason="DEMITASSE_MENDER_ARTIFACT names no mender-artifact")
def test_menders_own_tool_reads_and_signs_the_artifact(
    publisher: Publisher, bundle: Path, tmp_path: Path
) -> None:
    asked = Leave(form="mender", device_types=("till", "rpi"), with_runtime=True)
    left = leave_as(bundle, asked, tmp_path / "left", Recorder())
    artifact = next(left.path.glob("*.mender"))

    def tool(*words: str | Path) -> str:
        done = subprocess.run([REFEREE, *words], capture_output=True, text=True, check=True)
        return done.stdout

    tool("validate", artifact)
    said = tool("read", artifact)
    assert "Name: tiny-1.0" in said
    assert "Compatible devices: '[till rpi]'" in said
    assert f"rootfs-image.demitasse.release: {left.figures.release}" in said
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    subprocess.run(
        ["openssl", "genrsa", "-traditional", "-out", private, "2048"],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        ["openssl", "rsa", "-in", private, "-pubout", "-out", public],
        check=True,
        capture_output=True,
    )
    tool("sign", artifact, "-k", private)
    tool("validate", artifact, "-k", public)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([".", "--as", "mender"], ".: a folder that is neither a bundle nor a model"),
        (["help-desk/package"], "help-desk/package: is a bundle already"),
        (["help-desk/package", "--as", "mender", "--out", "x"], "--out: an update stands beside"),
        (["help-desk/package", "--as", "hawkbit", "--target", "x86-64"], "--target: a bundle is"),
        (["lost.toml", "--as", "deb"], "--as: unknown form `deb`"),
    ],
)
def test_what_does_not_fit_a_bundle_is_one_sentence_and_never_passed_over(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(bundle.parents[1])
    code, _, sentence = run("package", *words)
    assert code == 2
    assert sentence.startswith(said)
