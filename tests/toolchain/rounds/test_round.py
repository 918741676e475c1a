"""`[round]`: what is replayed, where new answers go, what the gate says of forgetting."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from toolchain.errors import ArtifactError, ConfigError
from toolchain.evaluate.answers import Answered
from toolchain.evaluate.forgetting import (
    Earlier,
    forgetting,
    forgetting_failures,
    forgetting_note,
    read_earlier,
)
from toolchain.harvested import note_of
from toolchain.ingest import ingest, look
from toolchain.line.sources import sources_of
from toolchain.progress import Silent
from toolchain.recipe import DataSpec, Recipe, load
from toolchain.rounds.compare import read_round

OLD = [
    {"question": [f"old {n} a", f"old {n} b", f"old {n} c"], "answer": f"{n}"} for n in range(200)
]
NEW = [
    {
        "question": f"new {n}",
        "answer": f"answer {n}",
        "harvested": {
            "key": f"{n}",
            "round": 1 + n // 6,
            "boards": {"pi@shop": "ab" * 32, **({"pi@home": "cd" * 32} if n % 2 else {})},
        },
    }
    for n in range(8)
]
KNOWLEDGE = '[knowledge]\nfiles = ["faq.jsonl"]\nembedder = "x/y"\n'


def write(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "faq.jsonl", OLD)
    write(tmp_path / "answered.jsonl", NEW)
    return tmp_path


def recipe_with(folder: Path, text: str, *, know: bool = False) -> Recipe:
    stages = '"ingest", "tune", "know", "quantize", "evaluate", "package"'
    head = f"stages = [{stages}]\n" if know else ""
    path = folder / "desk.toml"
    path.write_text(
        f'title = "t"\ntargets = ["rpi-5-4gb"]\n{head}[model]\nbase = "x/y"\n'
        f'[data]\nfiles = ["faq.jsonl"]\nhold_out = "phrasing"\n{text}'
    )
    return load(path)


def asked(rows: list[dict[str, Any]]) -> set[str]:
    return {row["messages"][-2]["content"] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("hold_out", ["phrasing", "conversation"])
def test_a_round_learns_all_that_is_new_and_replays_a_share_of_the_rest(
    folder: Path, hold_out: str
) -> None:
    names = ("faq.jsonl", "answered.jsonl")
    spec = {"files": names, "hold_out": hold_out, "held_out_share": 0.2}
    whole = ingest(DataSpec.model_validate(spec), folder, folder / "whole", Silent(), seed=0)
    part = ingest(
        DataSpec.model_validate({**spec, "newest": ("answered.jsonl",), "replay": 0.25}),
        folder,
        folder / "part",
        Silent(),
        seed=0,
    )
    learned, replayed = asked(whole.train()), asked(part.train())
    assert replayed < learned
    assert {each for each in learned if each.startswith("new")} <= replayed
    old = sum(each.startswith("old") for each in replayed)
    assert 0.15 < old / sum(each.startswith("old") for each in learned) < 0.35
    assert asked(part.held_out()) == asked(whole.held_out()), "the gate asks the same"
    assert not replayed & asked(part.held_out())


def test_no_phrasing_of_an_answer_that_is_not_replayed_is_learned(folder: Path) -> None:
    spec = DataSpec(files=("faq.jsonl",), hold_out="phrasing", replay=0.5)
    parts = look(spec, folder, seed=0)
    pages = [text for text in parts.texts() if text.startswith("old")]
    learned = {entry.phrasings[0][-1]["content"] for entry in parts.train}
    assert 60 < len(learned) < 140
    assert {page.rpartition("\n")[2] for page in pages} <= learned


def test_new_answers_reach_the_documents_at_once_and_the_training_when_it_is_said(
    folder: Path,
) -> None:
    known = recipe_with(folder, f"{KNOWLEDGE}[round]\n", know=True)
    assert known.knowledge and known.knowledge.files == ("faq.jsonl", "answered.jsonl")
    assert (known.data.files, known.data.replay) == (("faq.jsonl",), 1.0)
    learned = recipe_with(folder, "[round]\nlearn = true\nreplay = 0.5\n")
    assert learned.data.files == ("faq.jsonl", "answered.jsonl")
    assert (learned.data.newest, learned.data.replay) == (("answered.jsonl",), 0.5)


def test_answers_that_are_not_there_yet_change_nothing(folder: Path) -> None:
    (folder / "answered.jsonl").unlink()
    assert recipe_with(folder, "[round]\nlearn = true\n").data == recipe_with(folder, "").data


def test_answers_that_would_reach_nothing_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="its answers reach nothing: set `learn = true`"):
        recipe_with(folder, "[round]\n")


def test_a_mark_is_read_past_without_a_word_and_told_by_the_ledger(folder: Path) -> None:
    recipe = recipe_with(folder, "[round]\nlearn = true\n")
    parts = look(recipe.data, recipe.folder, seed=0)
    assert parts.read.unknown_keys == {}
    (source,) = (each for each in sources_of(recipe) if each.name == "answered.jsonl")
    assert source.note == note_of("answered.jsonl", folder / "answered.jsonl")
    assert source.note == (
        "round 1: 3 of pi@home (release cdcdcdcdcdcd); "
        "round 1: 6 of pi@shop (release abababababab); "
        "round 2: 1 of pi@home (release cdcdcdcdcdcd); "
        "round 2: 2 of pi@shop (release abababababab)"
    )


def chat(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def earlier(right: list[bool], most: float = 2.0) -> Earlier:
    chats = [chat(f"q{n}", f"a{n}") for n in range(len(right))]
    return Earlier(chats=chats, right=right, max_forgotten=most)


def answers(asked: Earlier, right: list[bool]) -> list[Answered]:
    return [
        Answered(each["messages"], [1], [1], f"a{n}" if right[n] else "no", True)
        for n, each in enumerate(asked.chats)
    ]


@pytest.mark.parametrize(
    ("before", "now", "refused"),
    [
        *((80, 78, False), (80, 77, False), (80, 76, False), (80, 74, True)),
        *((80, 95, False), (0, 0, False), (100, 0, True)),
    ],
)
def test_a_round_that_forgot_more_than_it_may_is_refused(
    before: int, now: int, refused: bool
) -> None:
    round_before = earlier([n < before for n in range(100)])
    lost = forgetting(answers(round_before, [n < now for n in range(100)]), round_before)
    assert (lost.before, lost.now) == (before / 100, now / 100)
    assert lost.points == pytest.approx(before - now)
    assert bool(list(forgetting_failures(lost, round_before))) == refused


def test_the_refusal_says_both_figures_and_the_limit() -> None:
    round_before = earlier([True] * 100)
    lost = forgetting(answers(round_before, [n < 90 for n in range(100)]), round_before)
    assert list(forgetting_failures(lost, round_before)) == [
        "on 100 held-out questions of the round before exact match fell from 100.0% to 90.0%, "
        "by 10.0 ± 3.0 points; the round allows 2"
    ]
    assert forgetting_note(lost, round_before) == ""


def test_what_chance_may_explain_is_told_and_not_refused() -> None:
    round_before = earlier([True] * 10)
    lost = forgetting(answers(round_before, [n < 9 for n in range(10)]), round_before)
    assert lost.error == pytest.approx(0.1)
    assert list(forgetting_failures(lost, round_before)) == []
    assert forgetting_note(lost, round_before) == (
        "on 10 held-out questions of the round before exact match fell from 100.0% to 90.0%, "
        "by 10.0 ± 10.0 points: more than the 2 that the round allows, and no more than chance "
        "gives; with more held-out questions it could be told"
    )


def test_the_same_file_is_hardly_ever_refused_by_the_draw_of_its_questions() -> None:
    # Two files that are right at 70 of 100 questions, each at its own: nothing is forgotten.
    draw = random.Random(5)
    refused = 0
    for _ in range(400):
        round_before = earlier([draw.random() < 0.7 for _ in range(60)])
        now = answers(round_before, [draw.random() < 0.7 for _ in range(60)])
        refused += bool(list(forgetting_failures(forgetting(now, round_before), round_before)))
    # By the mean alone it was two of five.
    assert refused / 400 <= 0.05


def finished(work: Path, stage: str, figures: dict[str, Any]) -> Path:
    """Write the folder of a finished stage."""
    folder = work / stage
    folder.mkdir(parents=True)
    record = {"stage": stage, "key": "k", "inputs": {}, "parameters": {}, "seed": 0, "tools": {}}
    record |= {"digest": "d", "seconds": 1.0, "size_bytes": 1, "figures": figures}
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def test_the_round_before_is_read_from_its_work_folder(tmp_path: Path) -> None:
    data = finished(tmp_path, "ingest", {})
    write(data / "held_out.jsonl", [chat("q0", "a0"), chat("q1", "a1"), chat("not asked", "a")])
    rows = [{"question": f"q{n}", "expected": f"a{n}", "answer": "a0"} for n in range(2)]
    write(finished(tmp_path, "evaluate", {}) / "answers.jsonl", rows)
    found = read_earlier(tmp_path, "evaluate", 2.0)
    assert [each["messages"][0]["content"] for each in found.chats] == ["q0", "q1"]
    assert list(found.right) == [True, False]


def test_a_round_before_whose_gate_has_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read_earlier(tmp_path / "build" / "gone", "evaluate", 2.0)
    assert refused.value.message.endswith("gone` has no finished `ingest`")


def test_a_folder_without_a_record_is_no_round(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no stage is recorded in it"):
        read_round(tmp_path)
