"""What the plan says of documents: languages, sentences, and questions that measure nothing."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolchain.cli import app

RECIPE = """
title = "documents alone"
targets = ["x86-64"]
stages = ["know"]
[model]
base = "nowhere"
[knowledge]
files = ["docs"]
embedder = "{embedder}"
"""
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
ENGLISH = "The board has a fan, and it is on when you do what is in this book for it."
CHINESE = "电压过低时请换用官方电源和短而粗的线，并拔掉所有耗电的设备，然后再重新启动一次板子。"
GERMAN = "Der Lüfter ist an der Platine und er dreht sich nicht, wenn sie kalt ist."


def planned(folder: Path, embedder: str, *texts: str) -> str:
    (folder / "docs").mkdir()
    page = "".join(f"# Part {number}\n\n{text}\n\n" for number, text in enumerate(texts))
    (folder / "docs" / "a.md").write_text(page, encoding="utf-8")
    (folder / "r.toml").write_text(RECIPE.format(embedder=embedder))
    done = CliRunner().invoke(app, ["know", str(folder / "r.toml"), "--dry-run"])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


@pytest.mark.parametrize(
    ("embedder", "texts", "said"),
    [
        (
            MINILM,
            [ENGLISH, CHINESE],
            "know: 1 of 2 passages are in Chinese, which all-MiniLM-L6-v2 was not made for: "
            "BAAI/bge-small-zh-v1.5 was",
        ),
        (
            "BAAI/bge-small-zh-v1.5",
            [ENGLISH, CHINESE],
            "know: 1 of 2 passages are in English, which bge-small-zh-v1.5 was not made for: "
            f"{MINILM} was",
        ),
        (
            MINILM,
            [GERMAN],
            "know: 1 of 1 passages are in German, which all-MiniLM-L6-v2 was not made for: "
            "take an embedder of the BERT family that was",
        ),
    ],
)
def test_a_language_that_the_embedder_was_not_made_for_is_named_with_one_that_was(
    tmp_path: Path, embedder: str, texts: list[str], said: str
) -> None:
    assert said in planned(tmp_path, embedder, *texts)


@pytest.mark.parametrize(
    ("embedder", "text"), [(MINILM, ENGLISH), ("nobody/an-embedder", CHINESE), (MINILM, "42")]
)
def test_nothing_is_said_of_a_language_that_it_knows_or_of_an_embedder_without_a_row(
    tmp_path: Path, embedder: str, text: str
) -> None:
    assert "was not made for" not in planned(tmp_path, embedder, text)


def test_passages_that_are_too_many_for_their_sentences_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolchain.checks.knowledge.PARTED", 2)
    assert "know: 3 passages without questions: of more than 2 each is found by its" in planned(
        tmp_path, MINILM, *[f"{ENGLISH} {number}" for number in range(3)]
    )
    (tmp_path / "docs" / "a.md").write_text("One.\n\n# B\n\nTwo.\n")
    done = CliRunner().invoke(app, ["know", str(tmp_path / "r.toml"), "--dry-run"])
    assert "passages without questions" not in done.output


def test_questions_that_measure_what_they_were_fitted_with_are_named(tmp_path: Path) -> None:
    place = '"source": "docs/a.md", "heading": "Part 0"'
    (tmp_path / "fit.jsonl").write_text(f'{{"question": "Is it on?", {place}}}\n')
    (tmp_path / "new.jsonl").write_text(f'{{"question": ["is  it ON?", "Why?"], {place}}}\n')
    recipe = f'{MINILM}"\ntuning = ["fit.jsonl"]\nfresh = ["new.jsonl"]\nanswer = "quote'
    assert (
        "know: 1 of 2 `fresh` questions are among those that the search is made of or fitted with, "
        "and measure nothing: `is it ON?`"
    ) in planned(tmp_path, recipe, ENGLISH)
