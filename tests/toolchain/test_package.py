"""package: a bundle of a model that sees, with its eyes and without."""

from pathlib import Path

import pytest

from device.check import check_bundle
from device.manifest import read_manifest
from tests.fakes.eyes import can_see, seeing_bundle
from tests.fakes.records import record_of
from toolchain import target
from toolchain.artifacts import Bundle, ModelFile, Verdict, recorded, write_jsonl
from toolchain.artifacts import read_jsonl as lines_of
from toolchain.errors import ConfigError
from toolchain.figures import Measured, VerdictFigures
from toolchain.line.formats import FORMATS
from toolchain.package import Origin, Parts, package
from toolchain.recipe import PackageSpec

pytestmark = pytest.mark.skipif(not can_see(), reason="llama-cpp-python without libmtmd: make")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a golden of words, and one about a picture."""
    return seeing_bundle(tmp_path_factory.mktemp("seeing") / "bundle")


def bundled(seen: Path, out: Path, images: int) -> Bundle:
    made = seen.parent / f"{seen.name}-made" / "files"
    record = recorded(made)
    assert record
    figures = VerdictFigures(
        engine="0.3", engine_name="llama.cpp", arithmetic="", measured=Measured(), failures=[]
    )
    parts = Parts(
        model=ModelFile(path=made, record=record),
        verdict=Verdict(path=seen, record=record_of("evaluate", figures.as_json())),
        target=target.find("rpi-4b-2gb"),
        spec=PackageSpec(images=images, context=512),
        origin=Origin(name="tiny-eyes", recipe="r", base="", licence="MIT"),
        packing=FORMATS["gguf"].packing,
    )
    return package(parts, out)


def test_a_bundle_that_sees_has_projector_and_picture_and_passes_its_check(
    seen: Path, tmp_path: Path
) -> None:
    bundle = bundled(seen, tmp_path / "out", images=1)
    manifest = read_manifest(bundle.path)
    assert manifest.projector
    assert "picture-1.png" in {file.path for file in manifest.files}
    assert check_bundle(bundle.path)["goldens"] == 2


def test_without_images_no_golden_asks_about_one_and_the_check_passes(
    seen: Path, tmp_path: Path
) -> None:
    bundle = bundled(seen, tmp_path / "out", images=0)
    manifest = read_manifest(bundle.path)
    assert manifest.projector == ""
    assert not [file.path for file in manifest.files if file.path.startswith(("picture", "mmproj"))]
    assert check_bundle(bundle.path)["goldens"] == 1


def test_goldens_about_pictures_alone_leave_nothing_to_prove(seen: Path, tmp_path: Path) -> None:
    _, about_a_picture = lines_of(seen / "goldens.jsonl")
    blind = tmp_path / "bundle"
    blind.mkdir()
    (tmp_path / "bundle-made").symlink_to(seen.parent / f"{seen.name}-made")
    write_jsonl(blind / "goldens.jsonl", [about_a_picture])
    with pytest.raises(ConfigError, match=r"^package: images: `0`, but every golden is about"):
        bundled(blind, tmp_path / "out", images=0)
