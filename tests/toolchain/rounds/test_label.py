"""`label`: the questions that are chosen, the tasks, and the answers that come back."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolchain.errors import ArtifactError, ConfigError
from toolchain.recipe import Recipe, load
from toolchain.rounds.choose import choose, normal, word_vectors
from toolchain.rounds.label import label, pool_of, take_answers

RELEASE = "ab" * 32
FAQ = ({"question": "how hot does it get?", "answer": "80 degrees"},)
NONE = np.zeros((0, 8192), dtype=np.float32)


def row(question: str, number: int = 0, **fields: Any) -> dict[str, Any]:
    made = {
        "question": question,
        "said": "warm",
        "kind": "down",
        "rating": -1,
        "board": "pi@shop",
        "release": RELEASE,
        "ring": "r",
        "number": number,
        "id": f"{question} {number}",
    }
    return {**made, **fields}


def asked(**times: int) -> list[dict[str, Any]]:
    return [
        row(question.replace("_", " "), number)
        for question, count in times.items()
        for number in range(count)
    ]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    lines = (json.dumps(each) + "\n" for each in FAQ)
    (tmp_path / "faq.jsonl").write_text("".join(lines))
    path = tmp_path / "desk.toml"
    path.write_text(
        'title = "t"\ntargets = ["rpi-5-4gb"]\n[model]\nbase = "x/y"\n'
        '[data]\nfiles = ["faq.jsonl"]\nheld_out_share = 0\n[round]\nlearn = true\n'
    )
    return load(path)


def tasks_of(recipe: Recipe, rows: list[dict[str, Any]], budget: int = 50) -> list[dict[str, Any]]:
    out = recipe.folder / "tasks.json"
    label(recipe, rows, budget, out, None)
    return list(json.loads(out.read_text()))


def annotated(task: dict[str, Any], *texts: str, **fields: Any) -> dict[str, Any]:
    """Return a task as Label Studio exports it."""
    result = [
        {"id": "x", "from_name": "answer", "to_name": "question", "type": "textarea"}
        | {"value": {"text": [text]}}
        for text in texts
    ]
    annotation = {"id": 1, "completed_by": 1, "was_cancelled": False, "result": result}
    return {**task, "id": 7, "annotations": [{**annotation, **fields}]}


def export(folder: Path, tasks: list[Any]) -> Path:
    file = folder / "export.json"
    file.write_text(json.dumps(tasks))
    return file


class TestChoice:
    def test_a_popular_question_comes_before_a_rare_one(self) -> None:
        vectors = word_vectors(["the fan is loud", "my card is full"])
        assert [each.index for each in choose(vectors, [1, 9], NONE, 2)] == [1, 0]

    def test_a_popular_question_whose_like_is_answered_comes_after_a_new_one(self) -> None:
        texts = ["why is the fan so loud?", "my card is full"]
        known = word_vectors(["why is the fan so loud today?"], texts)
        chosen = choose(word_vectors(texts, ["why is the fan so loud today?"]), [3, 2], known, 1)
        assert [each.index for each in chosen] == [1]

    def test_one_of_many_wordings_is_enough(self) -> None:
        texts = ["why is the fan loud", "why is the fan so loud", "my card is full"]
        chosen = choose(word_vectors(texts), [2, 2, 1], NONE, 2)
        assert {each.index for each in chosen} - {2} in ({0}, {1})

    def test_each_step_takes_the_question_of_the_largest_gain(self) -> None:
        chance = random.Random(5)
        texts = [" ".join(chance.choices("abcdefgh", k=6)) for _ in range(40)]
        counts = [chance.randrange(1, 9) for _ in texts]
        vectors = word_vectors(texts)
        chosen = choose(vectors, counts, NONE, 12)

        weights = np.array(counts) / sum(counts)
        covered = np.zeros(len(texts))
        for each in chosen:
            gains = [
                float(weights @ np.maximum(vectors @ vector - covered, 0)) for vector in vectors
            ]
            assert each.gain == pytest.approx(max(gains), abs=1e-5)
            covered = np.maximum(covered, vectors @ vectors[each.index])
            assert each.covered == pytest.approx(float(weights @ covered), abs=1e-4)

    def test_from_a_likeness_on_one_answer_serves_both_and_below_it_none(self) -> None:
        vectors = np.array([[1, 0, 0], [0.8, 0.6, 0], [0.6, 0.8, 0], [0, 0, 1]], np.float32)
        chosen = choose(vectors, [1, 1, 1, 2], NONE, 4, same=0.75)
        # The middle one is like both of its neighbours, so it covers three questions of five.
        assert [each.index for each in chosen[:2]] == [1, 3]
        assert [each.covered for each in chosen[:2]] == pytest.approx([0.6, 1.0], abs=2e-3)
        assert chosen[2].gain < 2e-3

    def test_what_is_like_an_answered_question_is_covered_from_the_likeness_on(self) -> None:
        vectors = np.array([[1, 0], [0, 1]], np.float32)
        known = np.array([[0.5, 0.5**0.5]], np.float32)
        (first, *_) = choose(vectors, [5, 1], known, 2, same=0.6)
        assert (first.index, first.covered - first.gain) == (0, pytest.approx(1 / 6, abs=2e-3))

    def test_chinese_questions_are_compared_by_their_characters(self) -> None:
        vectors = word_vectors(["树莓派为什么过热", "树莓派为什么会过热", "如何重置密码"])
        assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]

    def test_more_than_there_are_cannot_be_chosen(self) -> None:
        assert len(choose(word_vectors(["a b c"]), [1], NONE, 50)) == 1

    @pytest.mark.parametrize("text", ["", "?", "\ud800", "🙂", "x" * 5000])
    def test_any_text_has_a_finite_vector(self, text: str) -> None:
        assert np.isfinite(word_vectors([text, "other"])).all()


class TestPool:
    def test_a_question_counts_once_for_each_answer_that_it_got(self) -> None:
        rows = [row("Why hot?", 1), row("why  hot", 2), row("why hot?!", 2, id="Why hot? 1")]
        (only,) = pool_of(rows, [])
        assert (len(only.ids), only.question) == (2, "Why hot?")

    def test_what_is_answered_or_was_liked_does_not_wait(self) -> None:
        rows = [
            row("how hot does it get"),
            row("liked", kind="up", rating=1),
            row("both", 1, rating=1),
            row("both", 2),
        ]
        waiting = pool_of(rows, [each["question"] for each in FAQ])
        assert [each.question for each in waiting] == ["both"]

    def test_a_question_that_goes_on_about_another_is_another_question(self) -> None:
        before = [{"role": "user", "content": "the fan"}, {"role": "assistant", "content": "ok"}]
        assert len(pool_of([row("and now?"), row("and now?", 1, before=before)], [])) == 2


class TestTasks:
    def test_tasks_come_by_their_worth_with_drafts_as_predictions(self, recipe: Recipe) -> None:
        rows = asked(my_card_is_full=1, the_fan_is_loud=5)
        rows.append(row("the fan is loud", 9, correction="clean it", board="pi@home"))
        first, second = tasks_of(recipe, rows)
        assert (first["data"]["question"], first["data"]["asked"]) == ("the fan is loud", 6)
        assert first["data"]["boards"] == {"pi@shop": RELEASE, "pi@home": RELEASE}
        (prediction,) = first["predictions"]
        assert prediction["model_version"] == "correction of a reader"
        assert prediction["result"][0]["value"] == {"text": ["clean it"]}
        assert second["predictions"][0]["model_version"] == "answer of the board"
        config = (recipe.folder / "tasks.xml").read_text()
        assert '<TextArea name="answer" toName="question"' in config

    def test_no_more_than_the_budget_are_written(self, recipe: Recipe) -> None:
        assert len(tasks_of(recipe, asked(a_b=1, c_d=1, e_f=1), budget=2)) == 2

    def test_nothing_to_answer_is_said(self, recipe: Recipe) -> None:
        with pytest.raises(ConfigError) as refused:
            tasks_of(recipe, asked(how_hot_does_it_get=3))
        assert refused.value.message == "desk: no question waits for an answer"


class TestAnswers:
    @pytest.mark.slow
    def test_five_hundred_tasks_go_out_and_come_back(self, recipe: Recipe) -> None:
        rows = [row(f"question {number} of {number * 7919 % 1000}") for number in range(500)]
        tasks = tasks_of(recipe, rows, budget=500)
        assert len(tasks) == 500
        file = export(recipe.folder, [annotated(task, f"A\n{task['data']}") for task in tasks])
        into = recipe.folder / "answered.jsonl"
        done = take_answers(file, into)
        assert (done.new, done.known, done.skipped) == (500, 0, 0)
        back = [json.loads(line) for line in into.read_text().splitlines()]
        assert {each["question"] for each in back} == {each["question"] for each in rows}
        again = take_answers(file, into)
        assert (again.new, again.known) == (0, 500)
        with pytest.raises(ConfigError, match="no question waits"):
            tasks_of(load(recipe.folder / "desk.toml"), rows)

    def test_a_skipped_or_empty_task_gives_no_answer_and_the_newest_annotation_counts(
        self, recipe: Recipe
    ) -> None:
        tasks = tasks_of(recipe, asked(one_two=1, three_four=1, five_six=1, seven_eight=1))
        twice = annotated(tasks[3], "old", updated_at="2026-01-01T00:00:00Z")
        newer = annotated(tasks[3], "new", updated_at="2026-02-01T00:00:00Z")
        twice["annotations"] += newer["annotations"]
        exported = [
            annotated(tasks[0], "no", was_cancelled=True),
            annotated(tasks[1], "  "),
            {**tasks[2], "annotations": []},
            twice,
        ]
        into = recipe.folder / "answered.jsonl"
        done = take_answers(export(recipe.folder, exported), into)
        assert (done.new, done.skipped) == (1, 3)
        assert json.loads(into.read_text())["answer"] == "new"

    def test_a_draft_that_nobody_accepted_is_never_an_answer(self, recipe: Recipe) -> None:
        tasks = tasks_of(recipe, asked(one_two=1))
        done = take_answers(export(recipe.folder, tasks), recipe.folder / "answered.jsonl")
        assert (done.new, done.skipped) == (0, 1)
        assert not (recipe.folder / "answered.jsonl").exists()

    def test_an_answer_that_goes_on_comes_back_with_what_was_said_before(
        self, recipe: Recipe
    ) -> None:
        before = [{"role": "user", "content": "the fan"}, {"role": "assistant", "content": "ok"}]
        tasks = tasks_of(recipe, [row("and now?", before=before)])
        into = recipe.folder / "answered.jsonl"
        take_answers(export(recipe.folder, [annotated(tasks[0], "clean it")]), into)
        assert json.loads(into.read_text())["messages"] == [
            *before,
            {"role": "user", "content": "and now?"},
            {"role": "assistant", "content": "clean it"},
        ]

    @pytest.mark.parametrize(
        ("content", "error", "message"),
        [
            ("{}", ArtifactError, "export.json: not a list of tasks"),
            ("[1]", ArtifactError, "export.json: task 1: not a task of `demitasse label`"),
            ('[{"question": "q", "answer": "a"}]', ArtifactError, "task 1: not a task"),
            ("[", ArtifactError, "export.json:1: not valid JSON"),
            ('[{"data": {"question": "q", "key": "k"}, "annotations": 5}]', None, ""),
            ('[{"data": {"question": "q", "key": "k"}, "annotations": [{"result": 5}]}]', None, ""),
        ],
    )
    def test_an_export_of_another_kind_is_refused_or_has_no_answer(
        self, tmp_path: Path, content: str, error: type[Exception] | None, message: str
    ) -> None:
        file = tmp_path / "export.json"
        file.write_text(content)
        if error is None:
            assert take_answers(file, tmp_path / "a.jsonl").skipped == 1
            return
        with pytest.raises(error) as refused:
            take_answers(file, tmp_path / "a.jsonl")
        assert message in str(refused.value)


def test_a_question_is_the_same_with_other_spaces_case_and_end_marks() -> None:
    assert normal(" Why  HOT?! ") == normal("why hot") != normal("why not")
