"""What a model folder says of its licence, and what of it travels."""

from pathlib import Path

import pytest

from toolchain.terms.found import in_folder, travelling_files

APACHE = "Apache License\nVersion 2.0, January 2004\n"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# x", "Apache-2.0"),
        ("---\ntags: [a]\nlicense:\n- mit\n---\n", "MIT"),
        ('---\nlicense: "other"\nlicense_name: llama3.2\n---\n', "LicenseRef-Llama-3.2"),
        ("---\nlicense: other\n---\n", ""),
        ('---\nlicense: "mit OR apache-2.0"  # either\n---\n', "MIT OR Apache-2.0"),
        ("---\nlicense: cc-by-4.0 # ours\n---\n", "CC-BY-4.0"),
        ("# no front matter\nlicense: mit\n", ""),
        ("---\nlicense: [mit]\n", ""),
        ("", ""),
    ],
)
def test_a_models_card_says_its_licence(card: str, licence: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert in_folder(tmp_path).licence == licence


def test_the_licence_text_counts_where_the_card_is_silent(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# a model")
    (tmp_path / "LICENSE.txt").write_text(APACHE)
    assert in_folder(tmp_path) == ("Apache-2.0", "LICENSE.txt")


def test_a_folder_that_says_nothing_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").mkdir()
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\x00")
    assert in_folder(tmp_path) == ("", "")


def test_texts_and_notices_travel_through_the_links_of_the_hubs_cache(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_text(APACHE)
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for name in ("LICENSE", "NOTICE", "USE_POLICY.md"):
        (folder / name).symlink_to(blob)
    (folder / "model.safetensors").touch()
    assert [file.name for file in travelling_files(folder)] == [
        "LICENSE",
        "NOTICE",
        "USE_POLICY.md",
    ]
    assert in_folder(folder).licence == "Apache-2.0"
