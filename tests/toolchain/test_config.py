"""Files that people write: what is wrong is named with its file, its key and the likely intent."""

from pathlib import Path

import pytest

from toolchain import recipe
from toolchain.errors import ConfigError

GOOD = """
title = "a model"
targets = ["x86-64"]
[model]
base = "some/model"
[data]
files = ["qa.jsonl"]
"""

BAD = [
    ("titel = 'a'\n" + GOOD, "bad.toml: unknown key `titel`", "did you mean `title`?"),
    (
        GOOD.replace("files", "fils"),
        "bad.toml: data: missing key `files`",
        "`files` is JSONL, text or Markdown files, relative to the recipe",
    ),
    (GOOD + "[tune]\nalhpa = 3\n", "bad.toml: tune: unknown key `alhpa`", "did you mean `alpha`?"),
    (
        GOOD + "[tune]\nr = 'x'\n",
        "bad.toml: tune: r: input should be a valid integer, unable to parse string as an integer, got `x`",
        "",
    ),
    (GOOD + "[tune]\nr = 0\n", "bad.toml: tune: r: input should be greater than 0, got `0`", ""),
    (
        GOOD + "[evaluate.gate]\nmax_lk = 1\n",
        "bad.toml: evaluate.gate: unknown key `max_lk`",
        "did you mean `max_kl`?",
    ),
    (
        GOOD.replace('base = "some/model"', ""),
        "bad.toml: model: give either `base` or `[model.scratch]`",
        "",
    ),
    (
        "stages = ['pretrain']\n" + GOOD,
        "bad.toml: stage `pretrain` and `[model.scratch]` go together",
        "",
    ),
    ("stages = ['distill']\n" + GOOD, "bad.toml: stage `distill` needs a `[distill]` table", ""),
    ("stages = ['tune', 'tune']\n" + GOOD, "bad.toml: `stages` names a stage twice", ""),
    (GOOD + "[distill]\n", "bad.toml: distill: give either `student` or `layers`", ""),
    ("title = ", "bad.toml: not valid TOML: invalid value (at end of document)", ""),
]


@pytest.mark.parametrize(("text", "message", "hint"), BAD, ids=[row[1] for row in BAD])
def test_a_wrong_recipe_names_the_key_and_what_was_meant(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        recipe.load(path)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_a_missing_recipe_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "starter.toml").write_text(GOOD)
    with pytest.raises(ConfigError) as caught:
        recipe.load(tmp_path / "startr.toml")
    assert caught.value.message == f"{tmp_path / 'startr.toml'}: no such file"
    assert caught.value.hint == "did you mean `starter`?"


def test_a_recipe_cannot_be_changed_after_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    good = recipe.load(path)
    with pytest.raises(ValueError, match="frozen"):
        good.title = "another"  # type: ignore[misc]
    assert (good.id, good.folder, good.name) == ("good", tmp_path, "good")
