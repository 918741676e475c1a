"""The pages hold together: links lead to files, every page is in an index, pictures are small."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
MAX_PICTURE_BYTES = 200_000


def links(page: Path) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "", page.read_text(encoding="utf-8"))
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_within_the_repository_leads_to_a_file(page: Path) -> None:
    broken = [link for link in links(page) if not (page.parent / link.split("#")[0]).exists()]
    assert broken == []


@pytest.mark.parametrize("folder", ["docs", "docs/adr"])
def test_every_page_is_in_its_index(folder: str) -> None:
    index = ROOT / folder / "README.md"
    listed = {(index.parent / link.split("#")[0]).resolve() for link in links(index)}
    pages = set((ROOT / folder).glob("*.md")) - {index}
    assert pages - listed == set()


def test_pictures_are_small() -> None:
    pictures = [*(ROOT / "docs").rglob("*.png")]
    assert pictures
    assert [file.name for file in pictures if file.stat().st_size > MAX_PICTURE_BYTES] == []


def test_the_first_entry_of_the_changelog_is_the_packages_version() -> None:
    import device
    import toolchain

    entries = re.findall(
        r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    assert entries[0] == toolchain.__version__ == device.__version__
    assert entries == sorted(entries, reverse=True)
