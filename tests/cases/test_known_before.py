"""Known before, said before: what follows from recipe, configurations, data and target is found by
the plan, and all of it at once.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.desk import (
    RECIPE,
    config,
    found,
    messages,
    settings,
)
from tests.fakes.hub import loopback_hub
from tests.fakes.preferences import question
from toolchain import recipe
from toolchain.checks import cost
from toolchain.cost import Done, Spent
from toolchain.errors import ToolchainError
from toolchain.line.walk import walk


@pytest.mark.slow
def test_a_sound_recipe_has_nothing_against_it(desk: Path) -> None:
    assert found(desk).errors == []
    assert not (desk / "out").exists()


# Stages -------------------------------------------------------------------------------------------

ORDERS = [
    (
        '["ingest", "package"]',
        ["`package` needs `quantize` before it", "`package` needs `evaluate` before it"],
    ),
    ('["tune", "ingest", "quantize"]', ["`tune` needs `ingest` before it"]),
    ('["quantize", "evaluate"]', ["`evaluate` needs `ingest` before it"]),
    ('["ingest", "evaluate", "quantize"]', ["`evaluate` needs `quantize` before it"]),
    (
        '["ingest", "quantize", "evaluate", "tune", "package"]',
        ["`tune` stands behind `quantize`: what it makes would not be shipped"],
    ),
    ("[]", ["names no stage"]),
]


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("stages", "problems"), ORDERS, ids=[row[0] for row in ORDERS])
def test_stages_that_lack_what_they_need_are_named(
    desk: Path, stages: str, problems: list[str]
) -> None:
    text = RECIPE.replace('["ingest", "tune", "quantize", "evaluate", "package"]', stages)
    assert messages(desk, text) == [f"r.toml: stages: {problem}" for problem in problems]


@pytest.mark.slow
def test_what_comes_behind_the_stage_that_is_asked_for_is_not_judged(desk: Path) -> None:
    text = RECIPE.replace('"tune", ', "").replace('"Q8_0"', '"Q9"')
    assert messages(desk, text, until="ingest") == []
    assert messages(desk, text, until="quantize") == ["quantize: unknown scheme `Q9`"]


# Cost ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_hours_are_forecast_where_they_are_many(desk: Path) -> None:
    text = RECIPE.replace("[quantize]", "[tune]\nepochs = 100000000\n[quantize]")
    (note,) = [note for note in found(desk, text).notes if note.startswith("time: about ")]
    assert "tune" in note and ("days" in note or " h" in note)
    assert "no record here" in note
    assert not [note for note in found(desk).notes if note.startswith("time: ")]


@pytest.mark.slow
def test_hours_of_preferences_are_forecast_too(desk: Path) -> None:
    lines = [
        {"question": question(n), "chosen": "It is fine.", "rejected": f"I would not say so {n}."}
        for n in range(60)
    ]
    (desk / "liked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = RECIPE.replace('"tune", "quantize"', '"tune", "align", "quantize"')
    text = text.replace(
        "[quantize]", '[align]\nfiles = ["liked.jsonl"]\nupdates = 10000000\n[quantize]'
    )
    (note,) = [note for note in found(desk, text).notes if note.startswith("time: about ")]
    assert "align" in note and ("days" in note or " h" in note)


def test_hours_are_those_of_what_was_recorded_beside(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def records(folder: Path) -> list[Done]:
        spent = Spent(train=9e6, whole=9e6)
        done = {"parameters": 1000, "tokens": 1.0, "asked": 0, "wall": spent, "cpu": spent}
        return [Done(stage="tune", folder=folder.name, **done)]

    monkeypatch.setattr(cost, "records_in", records)
    (note,) = [note for note in found(desk).notes if note.startswith("time: about ")]
    assert "by 1 recorded here with 0.00 M parameters" in note


def test_a_scratch_model_is_judged_by_what_it_will_be(desk: Path) -> None:
    text = RECIPE.replace(
        'base = "base"',
        "[model.scratch]\nhidden_size = 60\nintermediate_size = 60\nheads = 4\nkv_heads = 2",
    )
    text = text.replace('"tune"', '"pretrain", "tune"').replace("Q8_0", "Q4_K_M")
    assert "Q4_K_M: rows of 60 are not divisible by 256" in messages(desk, text)
    assert "r.toml: package: context: the model has 512 tokens of context, `600` asked" in messages(
        desk, text.replace("context = 256", "context = 600")
    )


# Walks and the command line -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_walk_raises_them_before_its_first_stage(desk: Path) -> None:
    (desk / "r.toml").write_text(RECIPE.replace('"Q8_0"', '"Q9"'))
    with pytest.raises(ToolchainError, match="unknown scheme `Q9`"):
        next(walk(recipe.load(desk / "r.toml"), settings(desk)))
    assert not (desk / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("run", "--dry-run"), ("run",), ("tune",), ("package", "--dry-run")]
)
def test_the_command_line_says_all_of_them_and_exits_with_the_first_code(
    desk: Path, words: tuple[str, ...]
) -> None:
    text = RECIPE.replace("context = 256", "context = 9999").replace(
        'base = "base"', 'base = "bas"'
    )
    (desk / "r.toml").write_text(text.replace("facts", "fact"))
    verb, *options = words
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "toolchain",
            verb,
            str(desk / "r.toml"),
            "--out",
            str(desk / "out"),
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 4
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        "error: fact.jsonl: no such file",
        "error: model `bas`: no such folder",
    ]
    assert "Traceback" not in done.stderr
    assert ("tune" in done.stdout) == ("--dry-run" in options)


CHILD = """
import json, sys
from pathlib import Path
from toolchain import recipe, target
from toolchain.line.walk import Settings, known
from toolchain.progress import Silent
folder = Path(sys.argv[1])
settings = Settings(
    out=folder / "out",
    target=target.find("x86-64"),
    report=Silent(),
    offline=sys.argv[2] == "offline",
)
seen = known(recipe.load(folder / "r.toml"), settings)
print(json.dumps([[error.message for error in seen.errors], seen.notes]))
"""
"""huggingface_hub reads HF_ENDPOINT and HF_HOME when it is imported: each case gets a process of
its own.
"""


def on_the_hub(desk: Path, address: str, way: str) -> tuple[list[str], list[str]]:
    import os

    surroundings = os.environ | {
        "HF_ENDPOINT": address,
        "HF_HOME": str(desk / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(desk), way],
        env=surroundings,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    errors, notes = json.loads(done.stdout)
    return errors, notes


@pytest.mark.slow
def test_a_model_of_the_hub_is_judged_by_its_small_files(desk: Path) -> None:
    config(desk, architectures=["OlmoForCausalLM"])
    (desk / "models" / "some").mkdir(parents=True)
    (desk / "base").rename(desk / "models" / "some" / "model")
    (desk / "r.toml").write_text(RECIPE.replace('"base"', '"some/model"'))
    with loopback_hub(desk / "models") as (address, asked):
        errors, _ = on_the_hub(desk, address, "offline")
        assert (errors, asked) == ([], [])
        errors, _ = on_the_hub(desk, address, "online")
    assert errors == ["config.json: architecture `OlmoForCausalLM` is not known"]
    assert [line for line in asked if "resolve" in line and "config.json" in line]
    assert not [line for line in asked if "safetensors" in line]


@pytest.mark.slow
def test_what_could_not_be_judged_is_said(desk: Path) -> None:
    (desk / "r.toml").write_text(RECIPE.replace('"base"', '"some/model"'))
    errors, notes = on_the_hub(desk, "http://127.0.0.1:9", "offline")
    assert (errors, [note for note in notes if "may teach nothing" not in note]) == (
        [],
        [
            "model `some/model`: not judged before the walk: not on this computer",
            "terms: unknown for base `some/model`, data `facts.jsonl`",
        ],
    )
    errors, notes = on_the_hub(desk, "http://127.0.0.1:9", "online")
    assert (errors, [note for note in notes if "may teach nothing" not in note]) == (
        [],
        [
            "model `some/model`: not judged before the walk: the hub cannot be reached",
            "terms: unknown for base `some/model`, data `facts.jsonl`",
        ],
    )
