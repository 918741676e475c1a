"""Sources of a recipe: what is said of each, by whom, and under which name it travels."""

import json
from pathlib import Path

import pytest

from tests.fakes.records import record_of
from tests.fakes.tiny_gguf import tiny_gguf
from toolchain import recipe as recipes
from toolchain.artifacts import Artifact
from toolchain.errors import ConfigError, ToolchainError, TrustError
from toolchain.ledger import Source
from toolchain.line.flow import Flow
from toolchain.line.sources import ledger_of, sources_of, travelling_path
from toolchain.line.walk import Settings, known
from toolchain.progress import Silent
from toolchain.target import find

RECIPE = """
title = "a test"
targets = ["x86-64"]
stages = ["ingest", "tune", "quantize", "evaluate", "package"]
[model]
base = "Qwen/Qwen2.5-0.5B-Instruct"
MODEL
[data]
files = ["faq.jsonl", "more.jsonl"]
DATA
[package]
licence = "LICENCE"
"""


def recipe(folder: Path, *, model: str = "", data: str = "", licence: str = "") -> recipes.Recipe:
    for name in ("faq.jsonl", "more.jsonl"):
        rows = [{"question": f"what is {n} in {name}?", "answer": f"it is {n}"} for n in range(40)]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = RECIPE.replace("MODEL", model).replace("DATA", data).replace("LICENCE", licence)
    (folder / "r.toml").write_text(text)
    return recipes.load(folder / "r.toml")


def findings(one: recipes.Recipe) -> tuple[list[ToolchainError], list[str]]:
    settings = Settings(
        out=one.folder / "out", target=find("x86-64"), report=Silent(), offline=True
    )
    found = known(one, settings)
    return (
        [error for error in found.errors if "terms" in error.message or "licence" in error.message],
        [note for note in found.notes if note.startswith("terms")],
    )


def named(sources: list[Source]) -> dict[str, Source]:
    return {source.name: source for source in sources}


def test_files_of_a_folder_that_are_not_read_are_no_sources(tmp_path: Path) -> None:
    (tmp_path / "manual").mkdir()
    for name in ("a.md", "b.docx", "logo.png", "c.csv.gz"):
        (tmp_path / "manual" / name).write_bytes(b"x")
    one = recipe(tmp_path)
    text = (tmp_path / "r.toml").read_text().replace('"more.jsonl"', '"manual"')
    (tmp_path / "r.toml").write_text(text)
    data = [
        each.name for each in sources_of(recipes.load(one.folder / "r.toml")) if each.role == "data"
    ]
    assert data == ["faq.jsonl", "manual/a.md", "manual/c.csv.gz"]


SOURCES = """
[[data.sources]]
files = ["faq.jsonl"]
licence = "cc-by-4.0"
subject = "customer"
[[data.sources]]
files = ["mo*.jsonl"]
licence = "LicenseRef-ours"
"""


def test_what_the_recipe_says_of_its_files_is_in_their_sources(tmp_path: Path) -> None:
    found = named(sources_of(recipe(tmp_path, data=SOURCES)))
    assert found["faq.jsonl"].licence == "CC-BY-4.0"
    assert (found["faq.jsonl"].subject, found["faq.jsonl"].use) == ("customer", "trained")
    assert (found["more.jsonl"].licence, found["more.jsonl"].said_by) == (
        "LicenseRef-ours",
        "recipe",
    )


def test_general_conversations_of_each_stage_are_sources_with_terms(tmp_path: Path) -> None:
    beside = "general_share = 0.3\ngeneral_files = "
    talk = f"[tune]\n{beside}['tuned.jsonl']\n[distill]\nlayers = 2\n{beside}['taught.jsonl']\n"
    recipe(tmp_path)
    file = tmp_path / "r.toml"
    file.write_text(file.read_text() + talk)
    assert {"tuned.jsonl"} == named(sources_of(recipes.load(file))).keys() & {
        "tuned.jsonl",
        "taught.jsonl",
    }
    file.write_text(file.read_text().replace('"tune",', '"tune", "distill",'))
    found = named(sources_of(recipes.load(file)))
    assert found["taught.jsonl"].use == found["tuned.jsonl"].use == "trained"


def test_the_licence_of_a_known_base_comes_from_the_table(tmp_path: Path) -> None:
    base = named(sources_of(recipe(tmp_path)))["Qwen/Qwen2.5-0.5B-Instruct"]
    assert (base.licence, base.said_by) == ("Apache-2.0", "row in the table of bases")


def test_a_recipe_that_contradicts_the_model_is_refused_with_both(tmp_path: Path) -> None:
    with pytest.raises(TrustError) as caught:
        sources_of(recipe(tmp_path, model='licence = "MIT"'))
    assert caught.value.message == (
        "r.toml: base `Qwen/Qwen2.5-0.5B-Instruct`: the recipe says `MIT`, its row in the table of "
        "bases says `Apache-2.0`"
    )


@pytest.mark.parametrize(
    ("card", "said", "agrees"),
    [
        ("MIT OR Apache-2.0", "MIT", True),
        ("MIT OR Apache-2.0", "Apache-2.0 OR MIT", True),
        ("MIT", "MIT OR Apache-2.0", False),
        ("gemma", "llama3.2", False),
        ("gemma", "LicenseRef-Contract", True),
        ("other", "MIT", True),
    ],
)
def test_a_recipe_may_choose_among_what_the_model_offers(
    card: str, said: str, agrees: bool, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text(f'---\nlicense: "{card}"\n---\n')
    recipe(tmp_path, model=f'licence = "{said}"')
    text = (tmp_path / "r.toml").read_text().replace("Qwen/Qwen2.5-0.5B-Instruct", "base")
    (tmp_path / "r.toml").write_text(text)
    one = recipes.load(tmp_path / "r.toml")
    if agrees:
        assert sources_of(one)[0].said_by == "recipe"
        return
    with pytest.raises(TrustError, match="the recipe says"):
        sources_of(one)


def test_only_a_model_that_learned_must_have_the_name_that_its_base_asks_for(
    tmp_path: Path,
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text("---\nlicense: llama3.2\n---\n")
    recipe(tmp_path, licence="llama3.2", data='[[data.sources]]\nfiles = ["*"]\nlicence = "MIT"')
    trained = (tmp_path / "r.toml").read_text().replace("Qwen/Qwen2.5-0.5B-Instruct", "base")
    (tmp_path / "r.toml").write_text(trained)
    errors, _ = findings(recipes.load(tmp_path / "r.toml"))
    assert [error.exit_code for error in errors] == [8]
    assert "begins with `Llama`, it is `r`" in errors[0].message
    (tmp_path / "r.toml").write_text(trained.replace('"tune", ', ""))
    assert findings(recipes.load(tmp_path / "r.toml"))[0] == []


def test_terms_that_were_agreed_on_with_the_owner_win(tmp_path: Path) -> None:
    found = sources_of(recipe(tmp_path, model='licence = "LicenseRef-Contract"'))
    assert found[0].licence == "LicenseRef-Contract"


@pytest.mark.parametrize(
    ("name", "travels"),
    [
        ("a/b.jsonl", "a/b.jsonl"),
        ("./a.jsonl", "a.jsonl"),
        ("../shared/a.jsonl", "a.jsonl"),
        ("/home/someone/a.jsonl", "a.jsonl"),
        ("~/a.jsonl", "a.jsonl"),
    ],
)
def test_no_path_outside_of_the_recipe_travels(name: str, travels: str) -> None:
    assert travelling_path(name) == travels


def test_a_finished_file_as_base_says_its_licence_in_its_header(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "base.gguf", licence="llama3.2")
    text = RECIPE.replace("Qwen/Qwen2.5-0.5B-Instruct", "base.gguf").replace("MODEL", "")
    (tmp_path / "r.toml").write_text(text.replace("DATA", "").replace("LICENCE", ""))
    base = sources_of(recipes.load(tmp_path / "r.toml"))[0]
    assert (base.licence, base.said_by) == ("LicenseRef-Llama-3.2", "GGUF header")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            '[[data.sources]]\nfiles = ["fqa.jsonl"]\nlicence = "MIT"',
            "r.toml: data: sources: 1: `fqa.jsonl` is no file of the recipe",
        ),
        (
            SOURCES + '[[data.sources]]\nfiles = ["*"]\nlicence = "MIT"',
            "r.toml: data: sources: `faq.jsonl` is named by two of them",
        ),
    ],
)
def test_sources_that_name_no_file_or_one_twice_are_refused(
    data: str, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        sources_of(recipe(tmp_path, data=data))
    assert caught.value.message == problem


def test_a_licence_that_is_none_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe(tmp_path, data='[[data.sources]]\nfiles = ["faq.jsonl"]\nlicence = "Aapche-2.0"')
    assert "r.toml:" in caught.value.message
    assert "SPDX lists no licence `Aapche-2.0`: did you mean `Apache-2.0`?" in caught.value.message


def test_the_plan_refuses_terms_that_cannot_be_together_before_anything_is_trained(
    tmp_path: Path,
) -> None:
    data = SOURCES.replace("cc-by-4.0", "cc-by-nc-4.0")
    errors, _ = findings(recipe(tmp_path, data=data, licence="Apache-2.0"))
    assert [(type(error), error.message) for error in errors] == [
        (
            TrustError,
            "r.toml: terms: data `faq.jsonl` (CC-BY-NC-4.0) allows no commercial use, "
            "`package.licence` (Apache-2.0) does",
        )
    ]


def test_the_plan_notes_unknown_terms_and_strict_refuses_them(tmp_path: Path) -> None:
    errors, notes = findings(recipe(tmp_path))
    assert (errors, notes) == (
        [],
        ["terms: unknown for data `faq.jsonl`, data `more.jsonl`"],
    )
    errors, _ = findings(recipe(tmp_path, data="strict = true"))
    assert [error.exit_code for error in errors] == [8]


def test_a_claim_that_is_no_licence_is_refused_with_its_line(tmp_path: Path) -> None:
    errors, _ = findings(recipe(tmp_path, licence="free for all"))
    assert [error.exit_code for error in errors] == [2]
    assert errors[0].message.startswith("r.toml:12: package: licence: ")


def test_what_ingest_found_and_counted_is_in_its_ledger(tmp_path: Path) -> None:
    one = recipe(tmp_path, data=SOURCES)
    figures = {
        "rows": {"faq.jsonl": 40, "more.jsonl": 3},
        "personal": {"phone": {"found": 4, "replaced": 3, "kept": 1}, "ip": {"kept": 2}},
    }
    record = record_of("ingest", figures).model_copy(update={"inputs": {"faq.jsonl": "1" * 64}})
    settings = Settings(out=tmp_path, target=find("x86-64"), report=Silent())
    ledger = ledger_of(
        Flow(recipe=one, settings=settings), "ingest", Artifact(path=tmp_path, record=record)
    )
    assert (ledger.found, ledger.replaced) == ({"phone": 4}, {"phone": 3})
    assert [(each.name, each.rows, each.sha256) for each in ledger.sources] == [
        ("faq.jsonl", 40, "1" * 64),
        ("more.jsonl", 3, ""),
    ]


def test_a_file_of_secrets_that_is_missing_or_broken_ends_the_plan(tmp_path: Path) -> None:
    recipe(tmp_path)
    text = (tmp_path / "r.toml").read_text() + '[evaluate.leak]\nsecrets = "mine.jsonl"\n'
    (tmp_path / "r.toml").write_text(text)
    settings = Settings(out=tmp_path, target=find("x86-64"), report=Silent(), offline=True)
    one = recipes.load(tmp_path / "r.toml")
    said = [error.message for error in known(one, settings).errors]
    assert "evaluate: leak: secrets: no such file `mine.jsonl`" in said
    (tmp_path / "mine.jsonl").write_text('{"kind": "phone", "value": "12345"}\n')
    said = [error.message for error in known(one, settings).errors]
    assert any(message.startswith("mine.jsonl: entry 1: `context`") for message in said)


def test_the_files_of_a_folder_have_terms_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "docs" / ".git").mkdir(parents=True)
    for name in ("a.md", "b.md", ".git/c.md"):
        (tmp_path / "docs" / name).write_text("text")
    data = '[[data.sources]]\nfiles = ["docs/a*"]\nlicence = "MIT"'
    recipe(tmp_path, data=data)
    text = (tmp_path / "r.toml").read_text().replace('"more.jsonl"', '"docs"')
    (tmp_path / "r.toml").write_text(text)
    found = named(sources_of(recipes.load(tmp_path / "r.toml")))
    assert {name: each.licence for name, each in found.items() if name.startswith("docs")} == {
        "docs/a.md": "MIT",
        "docs/b.md": "",
    }
