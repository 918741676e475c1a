"""A folder of documents → passages, and a sentence for each file that gives none."""

from pathlib import Path

import pytest

from toolchain.errors import ConfigError
from toolchain.knowledge.documents import Library, read_documents


def folder(near: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = near / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return near


def read(near: Path, files: dict[str, str | bytes], *patterns: str, words: int = 120) -> Library:
    return read_documents(patterns or sorted(files), folder(near, files), words)


def test_a_passage_has_its_headings_and_its_file(tmp_path: Path) -> None:
    text = "# Network\n\n## Wi-Fi\n\nSet the *country* first,\nthen [scan](x).\n\n## Cable\n\nPlug it in."
    first, second = read(tmp_path, {"manual/net.md": text}).passages
    assert (first.text, first.heading, first.source, first.page, first.questions) == (
        "Set the country first, then scan.",
        "Network › Wi-Fi",
        "manual/net.md",
        None,
        (),
    )
    assert second.heading == "Network › Cable"


def test_a_paragraph_stays_with_the_code_that_follows(tmp_path: Path) -> None:
    text = f"{'word ' * 15}\n\nRun this:\n\n    first line\n      second line\n\n{'word ' * 15}"
    texts = [each.text for each in read(tmp_path, {"a.md": text}, words=12).passages]
    assert "Run this:\n\nfirst line\n  second line" in "\n".join(texts)
    assert any(each.startswith("Run this:") and "second line" in each for each in texts)


def test_a_row_of_questions_and_answers_is_a_passage(tmp_path: Path) -> None:
    line = '{"topic": "fan", "question": ["Is it dead?", "no spin"], "answer": "No."}\n'
    (passage,) = read(tmp_path, {"faq.jsonl": line}).passages
    assert (passage.text, passage.questions, passage.heading) == (
        "No.",
        ("Is it dead?", "no spin"),
        "fan",
    )


def test_a_pattern_that_matches_nothing_names_the_closest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^files: `manal` matches no file$") as caught:
        read(tmp_path, {"manual/a.md": "text"}, "manal")
    assert caught.value.hint == "did you mean `manual`?"
