"""Every shipped recipe loads, names boards that exist, and plans for each of them offline."""

from pathlib import Path

import pytest

from toolchain import recipe, target
from toolchain.errors import ConfigError
from toolchain.line.walk import Settings, plan
from toolchain.progress import Silent
from toolchain.recipe import InFormatSpec

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_a_shipped_recipe_plans_for_every_board_it_names(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    wanted = recipe.load(path)
    for name in wanted.targets:
        steps = plan(wanted, Settings(out=tmp_path, target=target.find(name), report=Silent()))
        assert [step.stage for step in steps] == list(wanted.stages)
        assert all(step.what for step in steps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_a_shipped_recipe_has_its_data_a_licence_and_a_gate(path: Path) -> None:
    wanted = recipe.load(path)
    assert [name for name in wanted.data.files if not (path.parent / name).is_file()] == []
    assert wanted.package.licence
    assert wanted.evaluate.gate.max_kl < 1


def test_a_plan_says_what_conversations_are_opened_by(tmp_path: Path) -> None:
    text = STARTS.replace(
        "files = []",
        'files = ["a.jsonl"]\ndocuments = ["board.md"]\nturns = [{question = "q", answer = "a"}]',
    )
    (tmp_path / "mine.toml").write_text(text)
    settings = Settings(out=tmp_path / "out", target=target.find("x86-64"), report=Silent())
    assert plan(recipe.load(tmp_path / "mine.toml"), settings)[0].what == (
        "a.jsonl, hold out by conversation, opened by board.md and 1 turn"
    )


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_a_shipped_recipe_says_whether_it_was_run_on_its_model(path: Path) -> None:
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    marks = ("# Run on this model: ", "# Not run yet on ")
    assert sum(line.startswith(marks) for line in comments) == 1


def test_the_entries_of_the_real_model_are_every_sixth_english_one_of_the_starter() -> None:
    def read(file: str) -> list[str]:
        return (FOLDER / file).read_text(encoding="utf-8").splitlines()

    english = [row for row in read("starter/help-desk.jsonl") if '"lang": "zh"' not in row]
    assert read("smollm2/help-desk.jsonl") == english[::6]


def test_the_six_recipes_are_there() -> None:
    assert {path.stem for path in RECIPES} >= {
        "smollm2",
        "starter",
        "smollm2-135m-zero-2w",
        "qwen2.5-0.5b-pi-4b",
        "llama-3.2-1b-pi-5",
        "qwen2.5-1.5b-orin-nano",
    }


STARTS = 'title = "t"\ntargets = ["x86-64"]\n[model]\nbase = "a"\n[data]\nfiles = []\n'
LEARNED = {
    "distill = true": InFormatSpec(),
    "distill = false": None,
    "[quantize.distill]\ntokens = 5000": InFormatSpec(tokens=5000),
}


@pytest.mark.parametrize("text", list(LEARNED))
def test_codes_are_learned_where_a_recipe_says_so(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        f"{STARTS}[quantize]\n{text}\n" if text.startswith("distill") else f"{STARTS}{text}\n"
    )
    assert recipe.load(tmp_path / "mine.toml").quantize.distill == LEARNED[text]


_SHARED = "what is chosen or learned on this recipe's text makes a base that no other skill shares"
REFUSED = {
    '[quantize]\ndistill = true\nadapter = "beside"': _SHARED,
    '[quantize]\nscheme = "auto:4bpw"\nadapter = "beside"': _SHARED,
    '[[data.turns]]\nquestion = "why?"': "data.turns.0: missing key `answer`",
    '[[data.turns]]\nquestion = " "\nanswer = "so"': (
        "data.turns.0: question: string should have at least 1 character, got ` `"
    ),
    '[[data.turns]]\nrole = "user"': "data.turns.0: missing key `question`",
    "[quantize.distill]\ntokens = 3000000": (
        "tokens: input should be less than or equal to 2000000, got `3000000`"
    ),
}


@pytest.mark.parametrize("text", list(REFUSED))
def test_what_cannot_go_together_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(f"{STARTS}{text}\n")
    with pytest.raises(ConfigError) as caught:
        recipe.load(tmp_path / "mine.toml")
    assert caught.value.message.endswith(REFUSED[text])
