"""Files that people write: what is wrong is named with its file, its key and the likely intent."""

import os
from pathlib import Path

import pytest

from toolchain import recipe, target
from toolchain.errors import ConfigError

GOOD = """
title = "a model"
targets = ["x86-64"]
[model]
base = "some/model"
[data]
files = ["qa.jsonl"]
"""

QUOTES = 'text stands in quotes, lists in brackets: key = ["a", "b"]'
BAD = [
    ("titel = 'a'\n" + GOOD, "bad.toml: unknown key `titel`", "did you mean `title`?"),
    (
        GOOD.replace("files", "fils"),
        "bad.toml: data: unknown key `fils`",
        "did you mean `files`?",
    ),
    (GOOD + "[tune]\nalhpa = 3\n", "bad.toml: tune: unknown key `alhpa`", "did you mean `alpha`?"),
    (
        GOOD + "[tune]\nr = 'x'\n",
        "bad.toml:9: tune: r: input should be a valid integer, got `x`",
        "",
    ),
    (GOOD + "[tune]\nr = 0\n", "bad.toml:9: tune: r: input should be greater than 0, got `0`", ""),
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
    (
        GOOD + "[distill]\nlayers = 1\n",
        "bad.toml: distill: layers: give a number of at least 2, or a list of layers such as "
        "[0, 2]",
        "",
    ),
    (
        GOOD + "[distill]\nlayers = 2\nloss = 'labels'\n",
        "bad.toml: distill: `loss` is `labels`, and nothing else comes from the teacher: give "
        "`[distill.write]`, `hidden_weight` or `on_policy_share`",
        "",
    ),
    (
        GOOD + "[distill]\nstudent = 's'\nhidden_weight = 1\n",
        "bad.toml: distill: `hidden_weight` needs `layers`: of a `student` no layer is known",
        "",
    ),
    *(
        (
            GOOD + f"[{stage}]\n{key}general_files = ['talk.jsonl']\n",
            f"bad.toml: {stage}: `general_files` are learned as a `general_share`: give it too, "
            "such as 0.3",
            "",
        )
        for stage, key in (("tune", ""), ("distill", "layers = 2\n"))
    ),
    (
        GOOD + "[distill]\nlayers = 2\nmax_forgotten = 10\ngeneral_questions = 0\n",
        "bad.toml: distill: `max_forgotten` is measured by `general_questions`, which are 0",
        "",
    ),
    (
        GOOD + "[distill]\nlayers = 2\n[distill.write]\neach = 3\n",
        "bad.toml: distill: write: give `questions` or `documents` to write from",
        "",
    ),
    ("title = ", "bad.toml:1: not valid TOML: invalid value", QUOTES),
    (
        GOOD.replace('["qa.jsonl"]', '"qa.jsonl"'),
        "bad.toml:7: data: files: input should be a valid array, got `qa.jsonl`",
        'put it in brackets: files = ["qa.jsonl"]',
    ),
    (
        GOOD
        + (
            "[[data.turns]]\nquestion = 'a'\nanswer = 'b'\n[[data.turns]]\nquestion = 3\n"
            "answer = 'd'\n"
        ),
        "bad.toml:12: data.turns.1: question: input should be a valid string, got `3`",
        'put it in quotes: question = "3"',
    ),
    (
        GOOD + "turns = [{question = 'a', answer = true}]\n",
        "bad.toml:8: data.turns.0: answer: input should be a valid string, got `true`",
        'put it in quotes: answer = "true"',
    ),
    (
        GOOD + "[data.turns]\nquestion = 'a'\nanswer = 'b'\n",
        (
            'bad.toml:8: data: turns: input should be a valid array, got `{"question": '
            '"a", "answer": "b"}`'
        ),
        "several tables stand in double brackets: [[data.turns]]",
    ),
    (
        GOOD + "[tune]\nepochs = true\n",
        "bad.toml:9: tune: epochs: input should be a valid integer, got `true`",
        "",
    ),
    (
        GOOD + "[tune]\nr = '16'\n",
        "bad.toml:9: tune: r: input should be a valid integer, got `16`",
        "without quotes: r = 16",
    ),
    (
        GOOD + "[quantize]\nimportance = 3\n",
        "bad.toml:9: quantize: importance: input should be a valid boolean, got `3`",
        "",
    ),
    (
        GOOD + "[tune]\nlearning_rate = inf\n",
        "bad.toml:9: tune: learning_rate: input should be a finite number, got `Infinity`",
        "",
    ),
    (
        GOOD + "[evaluate.gate]\nmax_kl = nan\n",
        "bad.toml:9: evaluate.gate: max_kl: input should be greater than or equal to 0, got `NaN`",
        "",
    ),
    (
        GOOD + "[package]\nversion = 1.0\n",
        "bad.toml:9: package: version: input should be a valid string, got `1.0`",
        'put it in quotes: version = "1.0"',
    ),
    (
        GOOD.replace("[model]\n", "model = []\n[tune]\n"),
        "bad.toml:4: model: input should be an object, got `[]`",
        "",
    ),
    ("seed = 99999999999999999999\n" + GOOD, "bad.toml:1: a whole number of more than 64 bits", ""),
    (f"\nseed = {'9' * 5000}\n" + GOOD, "bad.toml:2: a whole number of more than 64 bits", ""),
    (
        GOOD + f"[tune]\nr = {'[' * 5000}{']' * 5000}\n",
        "bad.toml:9: more than 100 brackets within one another",
        "",
    ),
    (GOOD.replace("some/model", "a\\u0000b"), "bad.toml:5: holds a NUL character (`\\u0000`)", ""),
    (
        GOOD.replace("some/model", "a\\ud83db"),
        "bad.toml:5: not valid TOML: half a character: an escape without its other half",
        "",
    ),
    (
        GOOD + "files = []\n",
        "bad.toml:8: not valid TOML: a key stands twice",
        "",
    ),
]


@pytest.mark.parametrize(("text", "message", "hint"), BAD, ids=[row[1][:60] for row in BAD])
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


def test_every_wrong_key_is_named_at_once_and_the_first_decides(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(GOOD + "[tune]\nalhpa = 3\nr = 0\n[package]\nslots = 99\n")
    with pytest.raises(ConfigError) as caught:
        recipe.load(path)
    messages = [each.message for each in (caught.value, *caught.value.others)]
    assert messages == [
        "bad.toml:10: tune: r: input should be greater than 0, got `0`",
        "bad.toml: tune: unknown key `alhpa`",
        "bad.toml:12: package: slots: input should be less than or equal to 16, got `99`",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD.encode("utf-16"), "bad.toml:1: text in UTF-16, not in UTF-8"),
        (GOOD.encode("utf-16-le"), "bad.toml:2: holds a NUL byte"),
        (GOOD.encode("utf-32"), "bad.toml:1: text in UTF-32, not in UTF-8"),
        (b"title = 'x'\n# gr\xfc\xdfe\n", "bad.toml:2: not valid UTF-8 at byte 5 of the line"),
        (b"#" * (1 << 20) + b"#", "bad.toml: larger than 1 MiB, which no file of this kind is"),
    ],
)
def test_a_file_that_is_no_text_of_ours_is_one_sentence_with_its_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        recipe.load(tmp_path / "bad.toml")
    assert caught.value.message == message


def test_a_pipe_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "bad.toml")
    with pytest.raises(ConfigError, match=r"^bad\.toml: not a plain file$"):
        recipe.load(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbf" + GOOD.encode(), GOOD.replace("\n", "\r\n").encode()]
)
def test_what_windows_editors_write_is_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "good.toml").write_bytes(content)
    assert recipe.load(tmp_path / "good.toml").title == "a model"


def test_a_target_that_chokes_a_reader_is_one_sentence_too(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(f"name = {'9' * 5000}\n")
    with pytest.raises(ConfigError, match=r"^board\.toml:1: a whole number of more than 64 bits$"):
        target.load(tmp_path / "board.toml")
