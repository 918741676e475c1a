"""A small real index: what is found, what is known, and every way the file can be wrong."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device.errors import DeviceError
from device.knowledge.consult import consult
from device.knowledge.index import CANDIDATES, COMMON, Index
from device.manifest import QUOTE, WORDED
from device.manifest.knowledge import (
    POOLING,
    Asked,
    Ranked,
    Weights,
    certainty,
    is_known,
    pooled,
    product,
    rank,
    signs,
    square,
    thinness,
)
from toolchain.knowledge.index import Entry, entries_of, packed, set_fitted, sign_bits, write_index
from toolchain.knowledge.passages import Passage

WIDTH = 64
PASSAGES = (
    Passage(text="Use the official power supply.", source="power.md", heading="Power"),
    Passage(text="请换用官方电源。", source="power.md", heading="电源"),
    Passage(text="Run hostname -I.", source="net.pdf", heading="Network", page=3),
)
QUESTIONS = (
    ("lightning bolt on my screen", "undervoltage"),
    ("欠压警告",),
    ("what is my address",),
)
UNANSWERED = ("how do I reset my router",)


def embed(text: str) -> list[float]:
    """Return a vector of the text's words: equal words, equal directions."""
    total = np.zeros(WIDTH)
    for word in text.lower().split():
        total += np.random.default_rng(sum(word.encode()) * 7919).normal(size=WIDTH)
    length = float(np.linalg.norm(total)) or 1.0
    return [float(value) for value in total / length]


def written(file: Path, entries: list[Entry] | None = None) -> Path:
    entries = entries or entries_of(PASSAGES, QUESTIONS, UNANSWERED, fitted=True)
    vectors = np.array([embed(entry.text) for entry in entries], np.float32)
    write_index(file, PASSAGES, entries, vectors, "e" * 64)
    fitted = {"words": 0.1, "unanswered": 0.5, "next": 0.0, "threshold": 0.4}
    set_fitted(file, fitted, [("undervoltage", 1)])
    return file


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(written(tmp_path / "knowledge.db"), embed)
    yield opened
    opened.close()


def test_a_passage_is_found_by_a_question_that_was_written_for_it(index: Index) -> None:
    found = index.search("a lightning bolt on my screen")
    assert found.known
    assert found.hits[0].text == PASSAGES[0].text
    assert found.hits[0].title == "power.md › Power"
    assert index.search("what is my address").hits[0].title == "net.pdf › page 3 › Network"


def test_a_question_that_nothing_answers_is_not_known(index: Index) -> None:
    assert not index.search("how do I reset my router").known


@pytest.mark.parametrize("question", ["😀😀😀", "?!", "🔥 🌡️", "_ - …"])
def test_what_holds_no_word_is_never_known(tmp_path: Path, question: str) -> None:
    with closing(
        Index(written(tmp_path / "knowledge.db"), lambda _: embed("undervoltage"))
    ) as index:
        assert index.search("undervoltage").known
        found = index.search(question)
        assert not found.known
        assert found.hits, "the nearest one is named all the same"


@pytest.mark.parametrize("question", ["undervoltage 😀", "ไฟ", "7", "欠"])
def test_a_word_in_any_script_is_a_word(tmp_path: Path, question: str) -> None:
    with closing(
        Index(written(tmp_path / "knowledge.db"), lambda _: embed("undervoltage"))
    ) as index:
        assert index.search(question).known


def test_chinese_is_found_by_its_characters_without_spaces(index: Index) -> None:
    common = index.compare("为什么一直有欠压警告").common
    assert common[2] > 0
    assert not common[1]
    assert not common[3]


@pytest.mark.parametrize(
    "question",
    [
        '" OR 1',
        "text:*",
        "NEAR(a b)",
        "undervoltage AND NOT",
        "'); DROP TABLE words; --",
        "^-()",
        "\0",
    ],
)
def test_a_question_is_searched_for_and_never_obeyed(index: Index, question: str) -> None:
    index.search(question)
    assert index.search("undervoltage").hits[0].id == 1


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a.db"), written(tmp_path / "b.db")
    assert one.read_bytes() == other.read_bytes()


def test_candidates_by_sign_bits_hold_the_nearest_entry(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    entries = [Entry(text=f"w{number}", passage=1 + number % 3) for number in range(3000)]
    write_index(tmp_path / "k.db", PASSAGES, entries, vectors, "e" * 64)
    for number in range(0, 3000, 150):
        asked = vectors[number] + 0.5 * rng.normal(size=384) / 384**0.5
        index = Index(tmp_path / "k.db", lambda text, asked=asked: asked.tolist())
        compared = index.compare("none of the words")
        index.close()
        best = int(np.argmax(vectors @ asked))
        assert compared.like[1 + best % 3] == pytest.approx(float(vectors[best] @ asked), abs=0.01)


@pytest.mark.parametrize("size", [0, 100, 4096, 9000])
def test_a_cut_file_is_refused(tmp_path: Path, size: int) -> None:
    file = written(tmp_path / "knowledge.db")
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(DeviceError) as caught:
        Index(file, embed).search("undervoltage")
    assert caught.value.code == "bad_knowledge"


def test_wrong_values_are_refused_and_no_traceback(tmp_path: Path) -> None:
    changes = (
        "DELETE FROM signs",
        "UPDATE signs SET bits = x'00'",
        "UPDATE facts SET value = 'x' WHERE name = 'words'",
        "DELETE FROM facts WHERE name = 'threshold'",
        "UPDATE facts SET value = 1e30 WHERE name = 'width'",
        "UPDATE entries SET vector = NULL",
        "UPDATE entries SET passage = 'x'",
        "UPDATE entries SET passage = ''",
        "UPDATE entries SET vector = x'01'",
        "UPDATE passages SET text = NULL",
        "UPDATE passages SET text = x'ff'",
        "DROP TABLE words",
        "DROP TABLE entries",
    )
    for number, change in enumerate(changes):
        file = written(tmp_path / f"{number}.db")
        with sqlite3.connect(file) as db:
            db.execute(change)
        db.close()
        with pytest.raises(DeviceError) as caught:
            Index(file, embed).search("undervoltage")
        assert caught.value.code == "bad_knowledge", change


def test_vectors_of_another_embedder_and_a_newer_schema_are_refused_by_name(tmp_path: Path) -> None:
    file = written(tmp_path / "knowledge.db")
    with pytest.raises(DeviceError) as caught:
        Index(file, embed, "f" * 64)
    assert caught.value.code == "wrong_embedder"
    with sqlite3.connect(file) as db:
        db.execute("UPDATE facts SET value = 9 WHERE name = 'schema'")
    db.close()
    with pytest.raises(DeviceError) as caught:
        Index(file, embed)
    assert caught.value.code == "newer_schema"


def test_a_sqlite_without_fts5_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "knowledge.db")
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA writable_schema = ON")
        # SQLite says the same of a module that it was built without.
        db.execute("UPDATE sqlite_master SET sql = replace(sql, 'fts5', 'fts5x')")
    db.close()
    with pytest.raises(DeviceError) as caught:
        Index(file, embed).search("undervoltage")
    assert caught.value.code == "no_fts5"


def ask(index: Index, *texts: str, system: str = "", answer: str = QUOTE) -> Any:
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return consult(index, messages, answer, 3)


def test_a_known_question_is_quoted_and_an_unknown_one_is_said_to_be(index: Index) -> None:
    assert ask(index, "undervoltage").text == PASSAGES[0].text
    unknown = ask(index, "how do I reset my router").text
    assert unknown.startswith("My documents do not say that.")
    assert "›" in unknown
    assert ask(index, "怎么重启路由器").text.startswith("我的资料里没有")


def test_instructions_of_the_client_switch_the_documents_off(index: Index) -> None:
    assert ask(index, "undervoltage", system="You are a pirate.") is None
    assert ask(index, "undervoltage", system=" ") is not None


def test_a_short_question_goes_on_about_the_one_before_it(index: Index) -> None:
    before = ("lightning bolt on my screen", "It is the supply.")
    assert ask(index, "the screen again").text.startswith("My documents do not say that.")
    assert ask(index, *before, "the screen again").text == PASSAGES[0].text
    assert ask(index, *before, "address of a pub").text.startswith("My documents do not say that.")


def test_the_model_reads_as_many_passages_as_have_room(index: Index) -> None:
    said = ask(index, "undervoltage {braces} %s", answer=WORDED)
    turn = said.messages(str)[-1]["content"]
    assert turn.count("\n- ") == 3
    assert "undervoltage {braces} %s" in turn
    assert said.shortened().messages(str)[-1]["content"].count("\n- ") == 2
    assert said.shortened().shortened().shortened() is None


def test_likeness_is_pooled_as_a_soft_maximum() -> None:
    assert pooled([0.3, 0.7], 0.0) == 0.7
    assert pooled([0.7], 0.05) == pytest.approx(0.7)
    assert pooled([0.7, 0.7], 0.05) == pytest.approx(0.7 + 0.05 * np.log(2))
    assert pooled([0.7, -1.0], 0.05) == pytest.approx(0.7, abs=1e-9)


def test_certainty_loses_shares_of_what_speaks_against_the_first_passage() -> None:
    weights = Weights(next=0.5, unanswered=0.25)

    def sure(*scores: float) -> float:
        return certainty([Ranked(1, score, 0.0) for score in scores], 0.4, weights)

    assert sure() == pytest.approx(-1.1)
    assert sure(0.8) == pytest.approx(0.7)
    assert sure(0.8, 0.6) == pytest.approx(0.4)
    assert sure(0.8, -0.6) == pytest.approx(0.7)


def test_at_a_temperature_all_passages_that_are_nearly_as_good_speak_against_the_first() -> None:
    weights = Weights(next=2.0, rivalry=0.05)

    def sure(*scores: float) -> float:
        return certainty([Ranked(1, score, 0.0) for score in scores], 0.0, weights)

    assert sure(0.8) == pytest.approx(0.8)
    assert sure(0.8, 0.8) == pytest.approx(0.8 - 2 * 0.05 * np.log(2))
    assert sure(0.8, 0.8, 0.8) == pytest.approx(0.8 - 2 * 0.05 * np.log(3))
    assert sure(0.8, -0.5) == pytest.approx(0.8, abs=1e-9)


def test_a_passage_without_questions_is_weighed_by_facts_of_its_own() -> None:
    weights = Weights(next=0.5, threshold=0.3, bare=0.2, bare_next=0.1, bare_threshold=0.5)
    like = {1: 0.8, 2: 0.7, 3: 0.7}
    common = dict.fromkeys(like, 0.0)
    ranked = rank(like, common, {2: 1.0, 3: 0.25}, weights)
    assert [(each.passage, each.score) for each in ranked] == [
        (2, pytest.approx(0.9)),
        (1, pytest.approx(0.8)),
        (3, pytest.approx(0.75)),
    ]
    # It is the first: another one speaks against it as it stands.
    assert certainty(ranked, 0.0, weights) == pytest.approx(0.9 - 0.4)
    assert is_known(ranked, 0.5, weights)
    assert not is_known(ranked, 0.49, weights)
    # It is behind the first: it speaks against it by more than its score.
    behind = rank({1: 0.95, 2: 0.7}, common, {2: 1.0}, weights)
    assert certainty(behind, 0.0, weights) == pytest.approx(0.95 - 0.5 * (0.9 + 0.1))
    assert is_known(behind, 0.3, weights)


def test_a_passage_with_few_questions_is_between_one_without_and_one_with_enough() -> None:
    assert [thinness(count, 8) for count in (0, 2, 8, 20)] == [1.0, 0.75, 0.0, 0.0]
    assert [thinness(count, 0) for count in (0, 1)] == [1.0, 0.0]


def test_a_text_without_questions_is_compared_though_many_questions_are_closer(
    tmp_path: Path,
) -> None:
    crowd = [Entry(text="red fan loud", passage=1) for _ in range(2 * CANDIDATES)]
    entries = [*crowd, Entry(text="red card", passage=2)]
    opened = Index(written(tmp_path / "crowd.db", entries), embed)
    try:
        compared = opened.compare("red fan loud")
        assert compared.thin == {2: 1.0}
        assert compared.like[2] < compared.like[1]
        assert not compared.texts
        assert set(opened.compare("red fan loud", texts=True).texts) == {1, 2}
    finally:
        opened.close()


def test_several_close_questions_of_a_passage_count_for_more_than_one(tmp_path: Path) -> None:
    entries = [Entry(text="red fan loud", passage=number) for number in (1, 2, 2, 2)]
    opened = Index(written(tmp_path / "several.db", entries), embed)
    try:
        like = opened.compare("red fan noise").like
        assert like[2] == pytest.approx(like[1] + POOLING * np.log(3))
    finally:
        opened.close()


@contextmanager
def of_schema(number: int, missing: str, folder: Path) -> Iterator[Index]:
    """Open an index as a schema before wrote it, without the facts that an SQL condition names."""
    file = written(folder / "before.db")
    with closing(sqlite3.connect(file)) as db, db:
        db.execute(f"DELETE FROM facts WHERE {missing}")
        db.execute("UPDATE facts SET value = ? WHERE name = 'schema'", (number,))
    opened = Index(file, embed)
    try:
        yield opened
    finally:
        opened.close()


def test_an_index_of_the_schema_before_is_searched_as_it_was_fitted(tmp_path: Path) -> None:
    with of_schema(1, "name IN ('pooling', 'next', 'rivalry')", tmp_path) as opened:
        assert (opened.pooling, opened.weights.next) == (0.0, 0.0)
        assert opened.search("a lightning bolt on my screen").known


def test_an_index_before_bare_passages_were_fitted_treats_all_alike(tmp_path: Path) -> None:
    missing = "name LIKE 'bare%' OR name IN ('enough', 'rivalry')"
    with of_schema(2, missing, tmp_path) as opened:
        weights = opened.weights
        assert (weights.bare, weights.bare_next) == (0.0, 0.0)
        assert weights.bare_threshold == weights.threshold == 0.4


def test_an_index_before_rivalry_loses_the_score_of_the_second_passage(tmp_path: Path) -> None:
    with of_schema(3, "name = 'rivalry'", tmp_path) as opened:
        assert opened.weights.rivalry == 0.0
        assert opened.search("a lightning bolt on my screen").known


def test_rows_are_packed_for_the_product_and_the_sign_bits_of_the_board() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 13)).astype(np.float32)
    rows[7] = 0.0
    asked = [float(each) for each in np.random.default_rng(1).normal(size=13)]

    bits = sign_bits(rows)
    for number, (row, (steps, factor)) in enumerate(zip(rows, packed(rows), strict=True)):
        kept = np.frombuffer(steps, np.int8) * factor
        found = product(steps, factor, Asked.of(asked), square(steps))
        assert found == pytest.approx(float(kept @ asked), abs=1e-12)
        assert np.abs(kept - row).max() <= factor / 2 + 1e-12
        own = bits[number * 2 : number * 2 + 2]
        assert int.from_bytes(own, "big") == signs([float(each) for each in row])


def test_a_product_is_as_exact_for_vectors_of_any_kind() -> None:
    """A cosine of 1, of -1, of 0, and of numbers at both ends of a byte."""
    draw = np.random.default_rng(2)
    one = draw.normal(size=384)
    one /= np.linalg.norm(one)
    ends = np.where(draw.random(384) < 0.5, -1.0, 1.0) / np.sqrt(384)
    for row in (one, -one, np.zeros(384), ends, np.eye(384)[5]):
        steps, factor = packed(row[None].astype(np.float32))[0]
        kept = np.frombuffer(steps, np.int8).astype(float) * factor
        for asked in (one, ends, -ends, np.eye(384)[5]):
            found = product(steps, factor, Asked.of(asked.tolist()), square(steps))
            assert found == pytest.approx(float(kept @ asked), abs=1e-11)


def test_what_is_kept_of_an_entry_changes_no_later_answer(index: Index) -> None:
    questions = ["a lightning bolt on my screen", "what is my address", "欠压警告"]
    first = [index.compare(each) for each in questions]
    assert [index.compare(each) for each in reversed(questions)] == first[::-1]


def test_words_that_many_entries_have_are_not_searched_for_beside_rare_ones(tmp_path: Path) -> None:
    entries = [Entry(text=f"the board number{each}", passage=1) for each in range(COMMON)]
    entries += [Entry(text="the lightning bolt", passage=2)]
    opened = Index(written(tmp_path / "many.db", entries), embed)
    try:
        assert set(opened.compare("the bolt").common) >= {2}
        common = opened.compare("the bolt").common
        assert common[2] > 0.0
        assert common.get(1, 0.0) == 0.0, "a passage that shares `the` alone has words in common"
        assert opened.compare("the").common, "a question of common words alone finds nothing"
    finally:
        opened.close()


def test_a_question_whose_vector_is_known_is_compared_as_one_whose_is_not(index: Index) -> None:
    asked = "a lightning bolt on my screen"
    assert index.compare(asked, embed(asked)) == index.compare(asked)
