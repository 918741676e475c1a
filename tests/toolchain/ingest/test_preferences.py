"""Preferences in the forms that people have, through the rules of the data, counted as opinions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from toolchain.errors import ArtifactError
from toolchain.ingest.entries import Place
from toolchain.ingest.preferences import UNRATED, Judged, read_preferences, read_row
from toolchain.preferences import CONTRADICTED, DOUBLE, OVER_SHARE, Pair, Preferences, Thumb
from toolchain.recipe import AlignSpec, CleanSpec, DataSpec, RedactSpec

PLACE = Place(file="p.jsonl", line=1)
USER = {"role": "user", "content": "how hot?"}
HARVEST = {
    "question": "how hot?",
    "said": "90 degrees",
    "kind": "down",
    "rating": -1,
    "known": None,
    "board": "shop",
    "release": "abc",
    "ring": "r",
    "number": 1,
    "id": "chatcmpl-1",
}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def read(
    folder: Path, *rows: Any, data: DataSpec | None = None, name: str = "p.jsonl", **spec: Any
) -> Preferences:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / name).write_text("\n".join(lines) + "\n")
    aligned = AlignSpec(files=(name,), **spec)
    return read_preferences(aligned, data or DataSpec(), folder, lambda text: None)


PAIR_FORMS = {
    "ours": {"question": "how hot?", "chosen": "80", "rejected": "90"},
    "our messages": {"messages": [USER], "chosen": "80", "rejected": "90"},
    "TRL": {"prompt": "how hot?", "chosen": "80", "rejected": "90"},
    "TRL, conversations": {
        "prompt": [USER],
        "chosen": [answer("80")],
        "rejected": [answer("90")],
    },
    "TRL, no prompt": {"chosen": [USER, answer("80")], "rejected": [USER, answer("90")]},
    "TRL, prompt written twice": {
        "prompt": [USER],
        "chosen": [USER, answer("80")],
        "rejected": [USER, answer("90")],
    },
    "HH-RLHF": {
        "chosen": "\n\nHuman: how hot?\n\nAssistant: 80",
        "rejected": "\n\nHuman: how hot?\n\nAssistant: 90",
    },
    "OpenAI": {
        "input": {"messages": [USER], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [answer("80")],
        "non_preferred_output": [answer("90")],
    },
    "a board, with a correction": HARVEST | {"said": "90", "correction": "80"},
}


@pytest.mark.parametrize("row", PAIR_FORMS.values(), ids=PAIR_FORMS)
def test_pairs_of_every_form_say_the_same(row: Mapping[str, Any], tmp_path: Path) -> None:
    (pair,) = read(tmp_path, row).pairs
    assert (list(pair.messages), pair.chosen, pair.rejected) == ([USER], "80", "90")


RATED_FORMS = {
    "ours": {"question": "how hot?", "answer": "90", "good": False},
    "our messages": {"messages": [USER], "answer": "90", "good": False},
    "our conversation": {"messages": [USER, answer("90")], "good": False},
    "TRL": {"prompt": "how hot?", "completion": "90", "label": False},
    "TRL, conversations": {"prompt": [USER], "completion": [answer("90")], "label": False},
    "numbers": {"question": "how hot?", "answer": "90", "rating": -1},
    "words": {"question": "how hot?", "answer": "90", "good": "false"},
    "a board": HARVEST | {"said": "90"},
}


@pytest.mark.parametrize("row", RATED_FORMS.values(), ids=RATED_FORMS)
def test_rated_answers_of_every_form_say_the_same(row: Mapping[str, Any], tmp_path: Path) -> None:
    (thumb,) = read(tmp_path, row).thumbs
    assert (list(thumb.messages), thumb.answer, thumb.good) == ([USER], "90", False)


def test_a_table_of_rated_answers_is_read_too(tmp_path: Path) -> None:
    lines = ("question,answer,good", "how hot?,90,0", "how cold?,5,1", "how wet?,9,")
    found = read(tmp_path, *lines, name="p.csv")
    assert [(each.answer, each.good) for each in found.thumbs] == [("90", False), ("5", True)]
    assert found.dropped == {UNRATED: 1}


def test_what_was_said_before_on_a_board_stays_before_the_question(tmp_path: Path) -> None:
    before = [{"role": "user", "content": "hello"}, answer("hi")]
    (thumb,) = read(tmp_path, HARVEST | {"before": before, "rating": 1}).thumbs
    assert [each["content"] for each in thumb.messages] == ["hello", "hi", "how hot?"]
    assert thumb.good


def test_a_question_that_nobody_rated_is_counted_and_left_out(tmp_path: Path) -> None:
    unknown = HARVEST | {"kind": "unknown", "rating": 0, "known": False, "id": "chatcmpl-2"}
    found = read(tmp_path, HARVEST, unknown)
    assert (len(found), found.dropped) == (1, {UNRATED: 1})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "p.jsonl:1: not a JSON object"),
        ({"question": "a", "answer": "b"}, "p.jsonl:1: no preference in keys `question`, `answer`"),
        (
            {"question": "a", "answer": "b", "good": "maybe"},
            "p.jsonl:1: `good` is `maybe`, which says neither good nor bad",
        ),
        (
            {"question": "a", "answer": "b", "rating": 4},
            "p.jsonl:1: `rating` is `4`, which says neither good nor bad",
        ),
        ({"question": "a", "good": True}, "p.jsonl:1: missing key `answer`"),
        ({"answer": "a", "good": True}, "p.jsonl:1: missing key `question`"),
        ({"chosen": "a", "rejected": "b"}, "p.jsonl:1: missing key `prompt`"),
        (
            {"question": "a", "chosen": 1, "rejected": "b"},
            "p.jsonl:1: `question` and `chosen` must be text",
        ),
        (
            HARVEST | {"said": 5},
            "p.jsonl:1: `question`, `said` and `correction` must be text",
        ),
        (
            {"input": 5, "preferred_output": [], "non_preferred_output": []},
            "p.jsonl:1: `input.messages` must be a list of messages",
        ),
    ],
)
def test_a_row_that_is_no_preference_is_refused_with_its_line(row: Any, message: str) -> None:
    with pytest.raises(ArtifactError) as refused:
        read_row(PLACE, row)
    assert refused.value.message == message


def test_all_wrong_lines_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as refused:
        read(tmp_path, {"a": 1}, PAIR_FORMS["ours"], '{"broken', {"b": 2})
    told = [refused.value.message, *(each.message for each in refused.value.others)]
    assert [text[:9] for text in told] == ["p.jsonl:1", "p.jsonl:3", "p.jsonl:4"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"question": "a", "chosen": "same", "rejected": "same "},
            "both answers are the same",
        ),
        ({"question": " ", "answer": "b", "good": True}, "empty question or answer"),
        ({"question": "a", "chosen": "", "rejected": "b"}, "empty question or answer"),
        ({"messages": [USER], "good": True}, "does not end with an answer to a user"),
        (
            {"chosen": [USER, answer("80")], "rejected": [answer("90")]},
            "does not end with an answer to a user",
        ),
        (
            {
                "chosen": [USER, answer("80")],
                "rejected": [USER | {"content": "how cold?"}, answer("90")],
            },
            "the two conversations differ before the answer",
        ),
    ],
)
def test_what_judges_nothing_is_left_out_with_its_reason(
    row: Mapping[str, Any], reason: str, tmp_path: Path
) -> None:
    found = read(tmp_path, row, {"question": "other", "answer": "b", "good": True})
    assert (len(found), dict(found.dropped)) == (1, {reason: 1})


def test_a_file_without_any_preference_is_refused_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as refused:
        read(tmp_path, {"question": "a", "chosen": "b", "rejected": "b"})
    assert refused.value.message == (
        "p.jsonl: no preference to learn from (1 both answers are the same)"
    )


def test_personal_data_is_replaced_or_refused_as_in_all_that_is_learned(tmp_path: Path) -> None:
    row = {"question": "who?", "chosen": "Call 13912345678.", "rejected": "13912345678"}
    data = DataSpec(redact=RedactSpec(mode="replace"), clean=CleanSpec(mode="off"))
    (pair,) = read(tmp_path, row, data=data).pairs
    assert "13912345678" not in pair.chosen + pair.rejected
    assert pair.chosen.removeprefix("Call ").removesuffix(".") == pair.rejected
    with pytest.raises(ArtifactError, match=r"personal data, which `redact\.mode` refuses"):
        read(tmp_path, row, data=DataSpec(redact=RedactSpec(mode="refuse")))


def thumb(question: str, good: bool, client: str = "", text: str = "90") -> dict[str, Any]:
    return {"question": question, "answer": text, "good": good, "client": client}


def test_opposite_opinions_cancel_out_and_the_majority_counts(tmp_path: Path) -> None:
    rows = [
        *(thumb("how hot?", True) for _ in range(3)),
        thumb("how hot?", False),
        thumb("how cold?", True),
        thumb("how cold?", False),
        {"question": "how wet?", "chosen": "a", "rejected": "b"},
        {"question": "how wet?", "chosen": "b", "rejected": "a"},
    ]
    found = read(tmp_path, *rows)
    assert [(each.messages[0]["content"], each.good) for each in found.thumbs] == [
        ("how hot?", True)
    ]
    assert found.pairs == ()
    assert found.dropped == {DOUBLE: 2, "outvoted": 1, CONTRADICTED: 4}


def test_of_an_answer_that_was_rated_twice_the_last_rating_counts(tmp_path: Path) -> None:
    rows = [HARVEST | {"rating": 1, "number": 1}, HARVEST | {"rating": -1, "number": 2}]
    (only,) = read(tmp_path, *rows).thumbs
    assert not only.good
    rows = [HARVEST | {"correction": "80"}, HARVEST | {"rating": -1, "number": 2}]
    found = read(tmp_path, *rows)
    assert (len(found.pairs), len(found.thumbs)) == (1, 0)


def test_no_client_has_more_than_its_share(tmp_path: Path) -> None:
    honest = [thumb(f"question {at}", True, f"client {at}") for at in range(30)]
    flood = [thumb(f"question {at}", False, "flood", "x") for at in range(300)]
    found = read(tmp_path, *flood, *honest, max_client_share=0.25)
    bad = sum(not each.good for each in found.thumbs)
    assert bad == 10
    assert found.dropped == {OVER_SHARE: 290}
    assert len(read(tmp_path, *flood, *honest, max_client_share=1.0)) == 330


def test_one_client_alone_may_say_all(tmp_path: Path) -> None:
    rows = [thumb(f"question {at}", True, "only") for at in range(30)]
    assert len(read(tmp_path, *rows)) == 30


def test_two_clients_have_no_more_than_the_smaller_one(tmp_path: Path) -> None:
    rows = [thumb(f"question {at}", True, "many") for at in range(30)]
    rows += [thumb(f"other {at}", True, "few") for at in range(3)]
    assert len(read(tmp_path, *rows)) == 6


def test_a_client_that_says_the_same_often_says_it_once(tmp_path: Path) -> None:
    rows = [thumb("how hot?", True, "a")] * 50 + [thumb("how hot?", False, each) for each in "bcd"]
    (only,) = read(tmp_path, *rows).thumbs
    assert not only.good


def test_clients_may_be_named_by_another_key(tmp_path: Path) -> None:
    rows = [
        HARVEST | {"board": board, "id": f"{board}-{at}", "question": f"{board} {at}"}
        for board, count in (("a", 40), *((each, 4) for each in "bcdef"))
        for at in range(count)
    ]
    assert len(read(tmp_path, *rows)) == 60
    found = read(tmp_path, *rows, client_key="board", max_client_share=0.25)
    assert len(found) == 20 + 6


def test_pairs_are_two_rated_answers_and_two_rated_answers_are_a_pair() -> None:
    asked = (USER,)
    both = Preferences(
        thumbs=(
            Thumb(messages=asked, answer="80", good=True),
            Thumb(messages=asked, answer="90", good=False),
            Thumb(messages=({**USER, "content": "alone"},), answer="5", good=True),
        )
    )
    paired = both.as_pairs()
    assert paired.pairs == (Pair(messages=asked, chosen="80", rejected="90"),)
    assert list(paired.dropped.values()) == [1]
    assert paired.as_thumbs().thumbs == both.thumbs[:2]


def test_the_rows_of_a_harvest_are_read_as_they_are(tmp_path: Path) -> None:
    from toolchain.rounds.harvest import _row

    row = {
        "n": 3,
        "id": "chatcmpl-9",
        "kind": "down",
        "release": "abc",
        "question": "how hot?",
        "answer": "90",
        "rating": -1,
        "known": None,
        "correction": "80",
    }
    harvested = _row(row, "pi@shop", "ring", lambda number, part, text: text)
    judged = read_row(PLACE, harvested)
    assert isinstance(judged, Judged)
    assert [talk[-1]["content"] for talk in judged.conversations] == ["80", "90"]
